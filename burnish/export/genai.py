"""What onnxruntime-genai reads beside a model: genai_config.json and the tokenizer."""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir

from burnish.export.models import accuracy_level, end_tokens, session_settings
from burnish.ir.errors import UsageError
from burnish.ir.past_present import ATTENTION_MASK, INPUT_IDS, LOGITS, state_names
from burnish.ir.states import State
from burnish.runtime.artifact import TEMPLATE_FILE, TOKENIZER_FILE, Artifact
from burnish.runtime.backends import Backend

_KIND = "decoder"  # of models: whatever there is no code for in genai, and nothing that ours would need


def check_genai(artifact: Artifact) -> None:
    """UsageError for what onnxruntime-genai cannot generate with, by name."""
    if artifact.manifest.graph is not None:
        raise UsageError(f"{artifact.path} is no language model: export it without genai=")
    if artifact.manifest.tokenizer is None:
        raise UsageError(f"{artifact.path} has no tokenizer: compile the model with tokenizer=, or leave out genai=")
    if not end_tokens(artifact):
        raise UsageError(f"{artifact.path} names no token that ends a text, which genai asks for: leave out genai=")
    names = state_names([state.name for state in artifact.states])
    for state in artifact.states:
        role = names[state.name][0].rpartition(".")[2]
        if role not in ("key", "value"):
            raise UsageError(
                f"the model remembers {names[state.name][0]} ({state.kind.value}, {state.module}), and "
                "onnxruntime-genai keeps keys and values alone: leave out genai="
            )
    if len({(state.shape[1], state.shape[3]) for state in artifact.states}) > 1:
        raise UsageError(
            "its layers have keys of several sizes, and onnxruntime-genai has one for all: leave out genai="
        )
    if not artifact.states:
        raise UsageError(
            "the model remembers nothing, and onnxruntime-genai asks for keys and values: leave out genai="
        )


def genai_files(artifact: Artifact, model: ir.Model, file: str, backend: Backend) -> dict[str, str]:
    """The contents of each file by its name. `file`: that of the model; `backend`: for `accuracy_level`."""
    config = json.dumps(_config(artifact, model, file, backend), indent=4)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    entry = artifact.manifest.tokenizer
    settings |= {} if entry is None else dict(entry.special_tokens)
    if artifact.has(TEMPLATE_FILE):
        settings["chat_template"] = artifact.text(TEMPLATE_FILE)
    return {
        "genai_config.json": config,
        "tokenizer.json": artifact.text(TOKENIZER_FILE),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False),
    }


def _config(artifact: Artifact, model: ir.Model, file: str, backend: Backend) -> dict[str, Any]:
    signature, generation, ends = artifact.signature, artifact.manifest.generation, end_tokens(artifact)
    names = {value.name for value in model.graph.inputs}
    first: State = artifact.states[0]
    heads, size = first.shape[1], first.shape[3]
    layers = len(artifact.states) // 2
    inputs = {"input_ids": INPUT_IDS, "past_key_names": "past_key_values.%d.key"}
    inputs["past_value_names"] = "past_key_values.%d.value"
    if ATTENTION_MASK in names:
        inputs["attention_mask"] = ATTENTION_MASK
    return {
        "model": {
            "type": _KIND,
            "vocab_size": signature.vocabulary,
            "context_length": signature.max_length,
            "bos_token_id": generation.get("bos_token_id", ends[0]),
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "pad_token_id": generation.get("pad_token_id", ends[0]),
            "decoder": {
                "session_options": {
                    "log_id": "onnxruntime-genai",
                    "provider_options": [],
                    **session_settings(accuracy_level(backend)),
                },
                "filename": file,
                "head_size": size,
                "num_key_value_heads": heads,
                "num_hidden_layers": layers,
                "inputs": inputs,
                "outputs": {
                    "logits": LOGITS,
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "max_length": signature.max_length,
            "min_length": 0,
            "do_sample": bool(generation.get("do_sample", False)),
            "temperature": float(generation.get("temperature") or 1.0),
            "top_k": int(generation.get("top_k") or 50),
            "top_p": float(generation.get("top_p") or 1.0),
            "repetition_penalty": float(generation.get("repetition_penalty") or 1.0),
            "num_beams": 1,
            "num_return_sequences": 1,
            "early_stopping": True,
            "length_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "diversity_penalty": 0.0,
            "past_present_share_buffer": False,  # pasts grow
        },
    }
