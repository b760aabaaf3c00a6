"""PyTorch modules and exported programs as `Program`s: `torch.export`, with symbolic batch and sequence sizes."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from burnish.frontend.source_lines import line_of, noted_lines
from burnish.ir.errors import CaptureError, InvalidModelError, UsageError
from burnish.ir.program import Origin, Program, Signature
from burnish.ir.weights import Stored, Weight, Weights

_log = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 2048
_EXAMPLE_BATCH, _EXAMPLE_SEQUENCE = 2, 17  # odd, and longer than the windows of tiny models
_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "block_size")
_PREFIX = "module."  # of everything inside `_LanguageModel`

Call = Callable[[nn.Module, torch.Tensor], Any]


def capture(
    module: nn.Module,
    *,
    max_length: int | None = None,
    call: Call = lambda module, tokens: module(tokens),
    weights: Mapping[str, Weight] | None = None,
) -> Program:
    """`module` as a program over the values that it has now.

    Args:
        module: its forward maps token ids int64[batch, sequence] to logits [batch, sequence, vocabulary], given as a
            tensor, as an object or dict with `logits`, or first in a tuple. Traced in evaluation mode.
        max_length: the most tokens that the program must take; the module's own limit if None.
        call: how the module is called with the ids.
        weights: what to read instead of parameters and buffers of these names (which then need no values).

    Raises:
        CaptureError: torch.export cannot trace the module with symbolic sizes.
        UsageError: the module's own limit is below `max_length`.
        InvalidModelError: the outputs are not logits.
    """
    limit = _declared_limit(module)
    _check_length(max_length, limit)
    length = max_length or limit
    training = {child: child.training for child in module.modules()}
    try:
        module.eval()
        exported = _export(_LanguageModel(module, call), length)
    finally:
        for child, mode in training.items():
            child.training = mode
    return from_exported(exported, max_length=length, weights=weights, prefix=_PREFIX)


def from_exported(
    exported: ExportedProgram,
    *,
    max_length: int | None = None,
    weights: Mapping[str, Weight] | None = None,
    prefix: str = "",
) -> Program:
    """An exported program (tokens int64[batch, sequence] -> logits, both sizes symbolic) as a `Program`.

    `prefix` is taken off the names of weights and modules. For `max_length`, `weights` and errors see `capture`.
    """
    with _quiet():
        exported = exported.run_decompositions({})  # functional, and nothing decomposed
    tokens = _tokens(exported)
    batch, sequence = _symbols(tokens)
    graph, found = _translate(exported, tokens, weights or {}, prefix)
    logits = next(iter(reversed(graph.nodes))).args[0][0].meta["val"]
    limit = _range_limit(exported, tokens.meta["val"].shape[1])
    _check_length(max_length, limit)
    if (length := max_length or limit) is None:
        length = DEFAULT_MAX_LENGTH
        _log.warning("the model states no limit on its length: compiled for %d tokens (max_length=...)", length)
    vocabulary = int(logits.shape[-1])
    return Program(
        graph=graph,
        weights=found,
        signature=Signature(vocabulary, length, _token_limit(graph, vocabulary), logits.dtype),
        batch=batch,
        sequence=sequence,
    )


class _LanguageModel(nn.Module):
    """A module as a function from token ids to logits and nothing else."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, tokens: torch.Tensor) -> Any:
        return _logits(self.call(self.module, tokens))


def _logits(output: Any) -> Any:
    """The logits in what a forward gives."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    return output


# ---------------------------------------------------------------- export


def _export(model: _LanguageModel, max_length: int | None) -> ExportedProgram:
    """The first of three ways that keeps both sizes symbolic, from the strictest to the most lenient."""
    size = min(_EXAMPLE_SEQUENCE, max_length or _EXAMPLE_SEQUENCE)
    tokens = torch.zeros(_EXAMPLE_BATCH, size, dtype=torch.int64)
    named = {"tokens": {0: Dim("batch"), 1: Dim("sequence", max=max_length)}}
    automatic = {"tokens": {0: Dim.AUTO, 1: Dim.AUTO}}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("named sizes", {"dynamic_shapes": named}),
        ("run-time checks", {"dynamic_shapes": named, "prefer_deferred_runtime_asserts_over_guards": True}),
        ("automatic sizes", {"dynamic_shapes": automatic}),
    ]
    failures: list[tuple[str, Exception]] = []
    for name, options in attempts:
        try:
            with _quiet(), torch.no_grad(), noted_lines():
                exported = torch.export.export(model, (tokens,), strict=False, **options)
            _symbols(_tokens(exported))
            return exported
        except InvalidModelError:
            raise
        except Exception as error:  # whatever the module's own code may raise under tracing
            _log.info("capture with %s failed: %s", name, _first_line(error))
            failures.append((name, error))
    tried = "\n".join(f"  with {name}: {_first_line(error)}" for name, error in failures)
    raise CaptureError(
        f"{type(model.module).__name__} cannot be traced for any batch and sequence size:\n{tried}\n"
        "The forward may loop or branch on the number of tokens or on their values; write that with tensor operations."
    ) from failures[0][1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of torch and of models that say nothing about this capture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*copy construct from a tensor.*")
        yield


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else '(no message)'}"


# ---------------------------------------------------------------- what export gave


def _tokens(exported: ExportedProgram) -> fx.Node:
    """The one input; refused unless it is token ids."""
    names = [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    ]
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
    values = {node.name: node.meta.get("val") for node in nodes}
    expected = "one input is expected, token ids int64[batch, sequence]"
    if len(nodes) != 1:
        raise InvalidModelError(f"the model takes {len(nodes)} inputs ({', '.join(values) or 'none'}): {expected}")
    val = nodes[0].meta.get("val")
    if not isinstance(val, torch.Tensor) or val.dtype != torch.int64 or val.dim() != 2:
        kind = f"{val.dtype} of {val.dim()} axes" if isinstance(val, torch.Tensor) else type(val).__name__
        raise InvalidModelError(f"the input {nodes[0].name} is {kind}: {expected}")
    found: fx.Node = nodes[0]
    return found


def _symbols(tokens: fx.Node) -> tuple[str, str]:
    """The names of the batch and sequence sizes. Raises CaptureError if one is a constant."""
    sizes = tuple(tokens.meta["val"].shape)
    for name, size in zip(("batch", "sequence"), sizes, strict=True):
        if not isinstance(size, torch.SymInt) or not size.node.expr.is_Symbol:
            raise CaptureError(
                f"the {name} size became the constant {size}: the forward depends on it in a way that is not "
                "symbolic. Export with torch.export.Dim for both sizes and no loop or branch on them."
            )
    return str(sizes[0]), str(sizes[1])


def _translate(
    exported: ExportedProgram, tokens: fx.Node, given: Mapping[str, Weight], prefix: str
) -> tuple[fx.Graph, Weights]:
    """The graph with its parameters, buffers and constants as weights; one weight for tied ones."""
    signature = exported.graph_signature
    for spec in signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise InvalidModelError(
                f"the forward changes {spec.target} in place ({spec.kind.name.lower()}): the logits may depend on "
                "earlier calls. Give a forward without a cache of its own."
            )
    targets = {
        spec.arg.name: str(spec.target)
        for spec in signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    }
    weights, names = Weights(), dict[Any, str]()
    graph, mapping = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            if node.name in targets and node.users:
                key, weight = _weight(exported, targets[node.name], given, prefix)
                if key not in names:
                    names[key] = weights.add(targets[node.name].removeprefix(prefix), weight)
                copied = graph.create_node("get_attr", names[key], name=node.name)
            elif node is tokens:
                copied = graph.placeholder("tokens")
            else:  # an input that was None, or a parameter that nothing reads
                continue
        elif node.op == "output":
            copied = graph.output((mapping[_output(exported, node)],))
        else:
            copied = graph.node_copy(node, mapping.__getitem__)
        copied.meta = {"val": node.meta.get("val"), "origin": _origin(node, prefix)}
        mapping[node] = copied
    return graph, weights


def _weight(exported: ExportedProgram, target: str, given: Mapping[str, Weight], prefix: str) -> tuple[Any, Weight]:
    """A weight, and what it shares with the weights that are the same."""
    name = target.removeprefix(prefix)
    if name in given:
        return id(given[name]), given[name]
    tensor = exported.state_dict.get(target)
    if tensor is None:
        tensor = exported.constants[target]
    assert isinstance(tensor, torch.Tensor)
    if tensor.device.type != "cpu":
        raise InvalidModelError(f"{name} is on {tensor.device}: move the model to the CPU to compile it")
    place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return place if tensor.numel() else name, Stored(tensor.detach())


def _output(exported: ExportedProgram, output: fx.Node) -> fx.Node:
    """The node of the logits."""
    structure = exported.call_spec.out_spec
    assert structure is not None
    results: Any = output.args[0]
    found = _logits(pytree.tree_unflatten(results, structure))
    val = found.meta.get("val") if isinstance(found, fx.Node) else None
    if not isinstance(val, torch.Tensor) or val.dim() != 3 or not val.is_floating_point():
        kind = f"{val.dtype} of {val.dim()} axes" if isinstance(val, torch.Tensor) else f"{found!r}"
        raise InvalidModelError(
            f"the forward gives {kind} where logits [batch, sequence, vocabulary] are expected: "
            "return them as a tensor, as `.logits` of an object, or first in a tuple"
        )
    assert isinstance(found, fx.Node)
    return found


_FRAME = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+), in [^\n]*(?:\n\s*(?P<code>[^\n]*))?')


def _origin(node: fx.Node, prefix: str) -> Origin:
    """Innermost module and source line of the user's program, from what export recorded."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1][:2] if stack else ("", "")
    if node.op == "placeholder" or path.startswith("_empty"):  # torch's mark for "no module"
        return Origin()
    path = re.sub(r"@\d+", "", f"{path}.")  # "@1": the second call of a module
    module = path.removeprefix(prefix).removesuffix(".")
    module_type = (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
    file, line, code = line_of(node)
    if file:
        return Origin(module, module_type, file, line, code)
    frames = [frame for frame in _FRAME.finditer(node.meta.get("stack_trace") or "") if frame["file"] != __file__]
    if not frames:
        return Origin(module, module_type)
    frame = frames[-1]
    return Origin(module, module_type, frame["file"], int(frame["line"]), (frame["code"] or "").strip())


# ---------------------------------------------------------------- limits


def _declared_limit(module: nn.Module) -> int | None:
    """The most tokens that the module's configuration allows."""
    config = getattr(module, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    config = get_text_config() if callable(get_text_config) else config
    found = (getattr(config, name, None) for name in _LENGTH_NAMES)
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


def _range_limit(exported: ExportedProgram, size: torch.SymInt) -> int | None:
    """The upper bound that export found for a size."""
    found = exported.range_constraints.get(size.node.expr)
    if found is None or not found.upper.is_Integer or int(found.upper) >= 2**31:
        return None
    return int(found.upper)


def _check_length(max_length: int | None, limit: int | None) -> None:
    if max_length is not None and max_length < 1:
        raise UsageError(f"max_length={max_length}: at least one token is needed")
    if max_length is not None and limit is not None and max_length > limit:
        raise UsageError(f"max_length={max_length}, but the model takes at most {limit} tokens: ask for fewer")


def _token_limit(graph: fx.Graph, vocabulary: int) -> int:
    """How many ids can be embedded: rows of the table that the tokens index."""
    tokens = next(node for node in graph.nodes if node.op == "placeholder")
    for node in tokens.users:
        if node.target is torch.ops.aten.embedding.default and node.args[1] is tokens:
            table = node.args[0]
            assert isinstance(table, fx.Node)
            return int(table.meta["val"].shape[0])
    return vocabulary
