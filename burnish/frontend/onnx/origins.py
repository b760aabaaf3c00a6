"""Where a node comes from: its name, and what exporters left of the module and the line of source."""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

_STACK = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+), in [^\n]*\n?\s*(?P<code>[^\n]*)')
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_TRACE, _NAMESPACE = "pkg.torch.onnx.stack_trace", "namespace"
_LONGEST = 20_000  # characters of what is read: more was left by no exporter

Fields = tuple[str, str, str, int, str]


def origin_of(node: ir.Node) -> Fields:
    """The fields of an `Origin`: module and its class, file and line, and the node with the code of the line."""
    properties = {key: value for key, value in node.metadata_props.items() if isinstance(value, str)}
    trace = properties.get(_TRACE) or node.doc_string or ""
    file, line, source = _line(trace if isinstance(trace, str) else "")
    module, kind = _module(properties)
    name = node.name or (node.outputs[0].name or "" if node.outputs else "")
    if not module and "/" in name:  # "/model/layers.0/self_attn/MatMul": how torch's older exporter names nodes
        module = _path([part for part in name.split("/")[:-1] if part])
    label = f"{name} ({node.op_type})"
    return module, kind, file, line, f"{label}: {source}" if source else label


def _line(trace: str) -> tuple[str, int, str]:
    frames = list(_STACK.finditer(trace[-_LONGEST:]))
    if not frames or len(frames[-1]["line"]) > 9:
        return "", 0, ""
    last = frames[-1]
    return last["file"], int(last["line"]), last["code"].strip()


def _module(properties: dict[str, str]) -> tuple[str, str]:
    """From the lists of scopes and classes, or from "model: a.b.Model/model.layers.0: a.b.Layer/..."."""
    scopes, classes = (_texts(properties.get(key, "")) for key in (_SCOPES, _CLASSES))
    if len(scopes) > 1:  # the last one is the operator
        kind = classes[len(scopes) - 2] if len(classes) >= len(scopes) - 1 else ""
        return scopes[-2], kind.rsplit(".", 1)[-1]
    parts = properties.get(_NAMESPACE, "")[:_LONGEST].split("/")
    found = [part.split(": ", 1) for part in parts if ": " in part]
    if len(found) > 1:
        path, kind = found[-2]
        return path.removeprefix(": "), kind.rsplit(".", 1)[-1]
    return "", ""


def _texts(text: str) -> list[str]:
    """A list of texts, as Python writes it."""
    if not text.startswith("[") or len(text) > _LONGEST:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _path(parts: list[str]) -> str:
    """Scopes joined to a path: one that repeats what is before it has its whole path already."""
    path = ""
    for part in parts:
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path
