"""What a GGUF file's metadata say of its architecture, and that all of it was understood."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from burnish.frontend.gguf_file import GGUFFile
from burnish.ir.errors import InvalidModelError


@dataclass
class Facts:
    """What a file says of its architecture; remembers what was asked for."""

    file: GGUFFile
    architecture: str
    asked: set[str] = field(default_factory=set)

    def get(self, name: str, default: Any = None) -> Any:
        """The entry `architecture.name`."""
        self.asked.add(name)
        return self.file.metadata.get(f"{self.architecture}.{name}", default)

    def number(self, name: str) -> Any:
        """The same, which has to be there and a number, or one for each layer, all the same."""
        found = self.get(name)
        if isinstance(found, list) and len(set(found)) == 1:
            found = found[0]
        if isinstance(found, bool) or not isinstance(found, int | float):
            what = "is missing" if found is None else f"is {type(found).__name__}, not one number"
            if isinstance(found, list):
                what += ": layers that differ in it are no model of this architecture that transformers has"
            raise InvalidModelError(f"{self.file.path}: the metadata {self.architecture}.{name} {what}")
        return found

    def each_layer(self, name: str) -> list[Any]:
        """The entry as one for each layer."""
        count = self.number("block_count")
        found = self.get(name)
        if isinstance(found, list) and len(found) != count:
            raise self.wrong(name, f"has {len(found)} values, and there are {count} layers")
        return found if isinstance(found, list) else [self.number(name)] * count

    def wrong(self, name: str, why: str) -> InvalidModelError:
        """An error about the entry."""
        return InvalidModelError(f"{self.file.path}: the metadata {self.architecture}.{name} {why}")

    def has(self, suffix: str, layer: int = 0) -> bool:
        """Whether a layer has a tensor of this name."""
        return f"blk.{layer}.{suffix}" in self.file.tensors

    def check_understood(self) -> None:
        """InvalidModelError for an entry of the architecture that nobody asked for, and that may change numbers."""
        prefix = f"{self.architecture}."
        for name, value in self.file.metadata.items():
            key = name.removeprefix(prefix)
            if not name.startswith(prefix) or key in self.asked | _HARMLESS or self._is_neutral(key, value):
                continue
            raise InvalidModelError(
                f"{self.file.path}: the metadata {name} is {value!r}, which is not read: it may change what the file "
                "computes. A model that transformers knows can be compiled from its folder with config.json and "
                "safetensors."
            )

    def _is_neutral(self, key: str, value: Any) -> bool:
        if key == "attention.scale":  # what is usual, spelled out
            usual = self.get("attention.key_length", 0) or (
                self.number("embedding_length") / self.number("attention.head_count")
            )
            return isinstance(value, float) and abs(value * usual**0.5 - 1) < 1e-6
        values = value if isinstance(value, list) else [value]
        return key in _NEUTRAL and all(each == _NEUTRAL[key] for each in values)


_HARMLESS = {"vocab_size", "attention.value_length", "rope.scaling.finetuned", "tensor_data_layout"}
"""Checked or said elsewhere, or of no meaning for what is computed."""

_NEUTRAL: dict[str, Any] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.layer_norm_epsilon": 0,
    "attention.max_alibi_bias": 0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "embedding_scale": 1,
    "expert_count": 0,
    "expert_group_count": 1,
    "expert_group_used_count": 1,
    "expert_shared_count": 0,
    "expert_used_count": 0,
    "expert_weights_norm": False,
    "expert_weights_scale": 1,
    "final_logit_softcapping": 0,
    "leading_dense_block_count": 0,
    "logit_scale": 1,
    "nextn_predict_layers": 0,
    "pooling_type": 0,
    "residual_scale": 1,
    "rope.dimension_sections": 0,
    "rope.scaling.attn_factor": 1,
    "rope.scaling.yarn_attn_factor": 1,
    "rope.scaling.yarn_ext_factor": 1,
    "use_parallel_residual": False,
}
"""Entries that change nothing where they have this value, or a list of it."""
