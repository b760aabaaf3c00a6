"""Exported files as others run them: plain ONNX Runtime, with nothing of burnish but the names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from burnish.ir.past_present import STATES


class Exported:
    """A session on an exported language model, with its pasts."""

    def __init__(self, file: Path, rows: int = 1, settings: dict[str, str] | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        for name, value in (settings or {}).items():
            options.add_session_config_entry(name, value)
        self.session: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.takes = [each.name for each in self.session.get_inputs()]
        self.states = json.loads(self.session.get_modelmeta().custom_metadata_map[STATES])
        sizes = {"batch_size": rows, "past_sequence_length": 0}
        self.pasts = {
            each["past"]: np.zeros([sizes.get(size, size) for size in each["shape"]], each["dtype"])
            for each in self.states
        }
        self.mask = np.zeros((rows, 0), np.int64)

    def __call__(self, ids: Any, mask: Any = None) -> Any:
        """Logits of the next ids[B, S]."""
        ids = np.asarray(ids)
        self.mask = np.concatenate([self.mask, np.ones_like(ids) if mask is None else np.asarray(mask)], axis=1)
        given = {"input_ids": ids, "attention_mask": self.mask, **self.pasts}
        presents = [each["present"] for each in self.states]
        logits, *found = self.session.run(["logits", *presents], {n: x for n, x in given.items() if n in self.takes})
        self.pasts = {each["past"]: present for each, present in zip(self.states, found, strict=True)}
        return logits

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """`count` tokens more, the likeliest each time."""
        found: list[int] = []
        given = ids
        while len(found) < count:
            found.append(int(self([given])[0, -1].argmax()))
            given = found[-1:]
        return found


def checked(file: Path) -> onnx.ModelProto:
    """The file, after ONNX's checker and strict inference of shapes."""
    onnx.checker.check_model(str(file), full_check=True)
    model = onnx.load(file, load_external_data=False)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model
