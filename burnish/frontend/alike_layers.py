"""Layers that are alike are traced once: the first is, and the others are written down as copies of it.

Of modules in one `nn.ModuleList` or `nn.Sequential` a trace runs the first; a later one becomes a single op, which
`burnish.frontend.copied_layers` replaces by the first one's operations on its own weights. Whether it may is decided as
the first runs, by what its forward could tell the two apart by:

- classes, submodules and the shapes of weights, which have to be equal, and hooks, which nobody may have;
- attributes of which the two have different values (`layer_idx`): whether the first one's forward read them;
- what they are called with: tensors of one type in the same places, and equal numbers;
- what a call leaves behind: an attribute that changed, an input that was written to, a dict that got an entry.

What cannot be seen here (a global that counts calls) shows where a trace is compared with its module.
"""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

_log = logging.getLogger(__name__)

_SCALARS = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.layout)
_OF_ALL = frozenset(vars(nn.Module()))  # attributes that every module has: weights, children, hooks, modes

_LIBRARY = torch.library.Library("burnish_capture", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("layer_begins(Tensor[] inputs, int call) -> ()")  # type: ignore[no-untyped-call]
_LIBRARY.define("layer_ends(Tensor[] outputs, int call) -> ()")  # type: ignore[no-untyped-call]
_LIBRARY.define("alike_layer(Tensor[] inputs, int call, int like) -> Tensor[]")  # type: ignore[no-untyped-call]
BEGINS = torch.ops.burnish_capture.layer_begins.default
ENDS = torch.ops.burnish_capture.layer_ends.default
ALIKE = torch.ops.burnish_capture.alike_layer.default
for _marker in (BEGINS, ENDS):
    fx.node.has_side_effect(_marker)  # nothing reads what it gives, and it has to stay
    torch.library.register_fake(_marker, lambda tensors, call: None, lib=_LIBRARY)


@dataclass
class LayerCall:
    """One call of a layer. `like` says which traced call it is written down from, if it was not traced itself."""

    path: str
    layer: nn.Module
    inputs: list[Any]
    structure: pytree.TreeSpec
    like: int | None = None
    outputs: list[Any] = field(default_factory=list)
    output_structure: pytree.TreeSpec | None = None
    read: set[tuple[str, str]] = field(default_factory=set)  # of what differs: path of the submodule, attribute
    unlike: str = ""  # why no later call is like it


class AlikeLayers:
    """The layers of a module, and their calls while it is traced inside `tracing`."""

    def __init__(self, module: nn.Module) -> None:
        self.calls: list[LayerCall] = []
        self._module = module
        self._groups = _groups(module)
        self._traced: list[list[int]] = [[] for _ in self._groups]  # of each group, the calls that ran
        self._running: tuple[LayerCall, dict[int, str]] | None = None

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Inside, the first of layers that are alike runs, and the others become one op each."""
        wrapped: list[nn.Module] = []
        watched: list[tuple[type, str, Any]] = []
        try:
            for kind, name in set().union(*(_differing(list(group.values())) for group in self._groups)):
                watched.append((kind, name, vars(kind).get(name, _MISSING)))
                setattr(kind, name, _Watched(name, getattr(kind, name, _MISSING), self._note_read))
            for group, traced in zip(self._groups, self._traced, strict=True):
                for path, layer in group.items():
                    run = functools.partial(self._run, path, layer, layer.forward, traced)
                    layer.forward = functools.wraps(layer.forward)(run)
                    wrapped.append(layer)
            forward = self._module.forward
            self._module.forward = functools.wraps(forward)(functools.partial(self._start, forward))
            wrapped.append(self._module)
            _tracing.append(self)
            yield
        finally:
            _tracing[:] = [each for each in _tracing if each is not self]
            for layer in wrapped:
                del layer.forward
            for kind, name, before in reversed(watched):
                delattr(kind, name) if before is _MISSING else setattr(kind, name, before)

    def _start(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One trace of the module: what an earlier one, which failed, found is no part of it."""
        self.calls.clear()
        for traced in self._traced:
            traced.clear()
        return forward(*args, **kwargs)

    def _note_read(self, module: nn.Module, name: str) -> None:
        if self._running is not None and id(module) in self._running[1]:
            self._running[0].read.add((self._running[1][id(module)], name))

    def _run(
        self, path: str, layer: nn.Module, forward: Callable[..., Any], traced: list[int], *args: Any, **kwargs: Any
    ) -> Any:
        inputs, structure = pytree.tree_flatten((args, kwargs))
        if self._running is not None or not all(map(_is_plain, inputs)):
            return forward(*args, **kwargs)
        number = len(self.calls)
        call = LayerCall(path, layer, inputs, structure)
        self.calls.append(call)
        like = next((each for each in traced if _is_like(call, self.calls[each])), None)
        if like is not None:
            first = self.calls[like]
            call.like = like
            given = iter(ALIKE(_tensors(inputs), number, like))
            assert first.output_structure is not None
            results = [next(given) if isinstance(each, Tensor) else each for each in first.outputs]
            return pytree.tree_unflatten(results, first.output_structure)
        traced.append(number)
        before = _Before(layer, inputs)
        BEGINS(_tensors(inputs), number)
        self._running = call, {id(module): name for name, module in layer.named_modules()}
        try:
            result = forward(*args, **kwargs)
        finally:
            self._running = None
        call.outputs, call.output_structure = pytree.tree_flatten(result)
        ENDS(_tensors(call.outputs), number)
        call.unlike = before.differs(call, pytree.tree_leaves((args, kwargs)))
        if call.unlike:
            _log.info("no layer is written down from %s: %s", path, call.unlike)
        return result


_MISSING = object()
_tracing: list[AlikeLayers] = []


@torch.library.register_fake(ALIKE, lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _outputs_like(inputs: list[Tensor], call: int, like: int) -> list[Tensor]:
    return [
        torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device)
        for each in _tensors(_tracing[-1].calls[like].outputs)
    ]


class _Watched:
    """An attribute whose readers are noted. The values stay where they are, in the modules."""

    def __init__(self, name: str, beneath: Any, note: Callable[[nn.Module, str], None]) -> None:
        self.name, self.beneath, self.note = name, beneath, note

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is not None and self.name in vars(module):
            self.note(module, self.name)
            return vars(module)[self.name]
        if self.beneath is _MISSING:
            raise AttributeError(self.name)
        bind = getattr(self.beneath, "__get__", None)
        return bind(module, kind) if bind is not None and module is not None else self.beneath

    def __set__(self, module: nn.Module, value: Any) -> None:
        vars(module)[self.name] = value

    def __delete__(self, module: nn.Module) -> None:
        if self.name not in vars(module):
            raise AttributeError(self.name)
        del vars(module)[self.name]


# ---------------------------------------------------------------- layers


def _groups(module: nn.Module) -> list[dict[str, nn.Module]]:
    """Layers, by their paths, that stand in one list and are built alike."""
    found: list[dict[str, nn.Module]] = []
    taken: set[int] = set()
    for path, parent in module.named_modules():
        if not isinstance(parent, nn.ModuleList | nn.Sequential):
            continue
        kinds: dict[Any, dict[str, nn.Module]] = {}
        for name, layer in parent.named_children():
            if id(layer) not in taken and (built := _built(layer)) is not None:
                kinds.setdefault(built, {})[f"{path}.{name}" if path else name] = layer
        for group in kinds.values():
            if len(group) > 1:
                taken.update(map(id, group.values()))
                found.append(group)
    return found


def _built(layer: nn.Module) -> Any:
    """How a layer is built, equal for those that are built alike; None where that cannot be told."""
    parts: list[Any] = []
    places: dict[int, int] = {}  # of tensors: those that are one have one place
    for path, module in layer.named_modules():
        kind = type(module)
        hooks = any(vars(module)[name] for name in _OF_ALL if name.endswith("_hooks") and "state_dict" not in name)
        if hooks or "forward" in vars(module) or kind.__getattribute__ is not object.__getattribute__:  # type: ignore[comparison-overlap]
            return None
        tensors = [
            (name, None if tensor is None else (_type(tensor), places.setdefault(id(tensor), len(places))))
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
        ]
        attributes = frozenset(vars(module)) - _OF_ALL
        parts.append((path, kind, module.training, tuple(tensors), tuple(module._modules), attributes))
    return tuple(parts)


def _differing(layers: list[nn.Module]) -> set[tuple[type, str]]:
    """Attributes of which layers that are built alike have different values, and the classes of who has them."""
    first = dict(layers[0].named_modules())
    return {
        (type(module), name)
        for layer in layers[1:]
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if name not in _OF_ALL and not _same(value, vars(first[path])[name])
        if not hasattr(getattr(type(module), name, None), "__set__")  # a property, and the value is one's own
    }


# ---------------------------------------------------------------- calls


class _Before:
    """How a layer and its inputs are before a call."""

    def __init__(self, layer: nn.Module, inputs: list[Any]) -> None:
        self.attributes = _attributes(layer)
        self.versions = [each._version for each in _tensors(inputs)]

    def differs(self, call: LayerCall, inputs: list[Any]) -> str:
        """By what the call can be told from one of another layer; "" if by nothing."""
        if len(inputs) != len(call.inputs) or any(a is not b for a, b in zip(inputs, call.inputs, strict=True)):
            return "it changes what it is called with"
        if [each._version for each in _tensors(inputs)] != self.versions:
            return "it writes to what it is called with"
        if not all(map(_is_plain, call.outputs)) or any(isinstance(each, torch.SymInt) for each in call.outputs):
            return "it gives other things than tensors and numbers"
        if {_storage(each) for each in _tensors(call.outputs)} & {_storage(each) for each in _tensors(inputs)}:
            return "it gives what it was called with"
        after = _attributes(call.layer)
        kept = sorted(name for name in {*after, *self.attributes} if not _identical(after, self.attributes, name))
        return f"it keeps {', '.join(kept)}" if kept else ""


def _attributes(layer: nn.Module) -> dict[str, list[Any]]:
    """What a layer has: by path and name a value, and what is in it if it is a container."""
    found: dict[str, list[Any]] = {}
    for path, module in layer.named_modules():
        for name, value in vars(module).items():
            inside = list(value.items()) if isinstance(value, Mapping) else []
            more = list(value) if isinstance(value, list | set) else []
            found[f"{path}.{name}".lstrip(".")] = [value, *(each for pair in inside for each in pair), *more]
    return found


def _identical(after: dict[str, list[Any]], before: dict[str, list[Any]], name: str) -> bool:
    one, other = after.get(name), before.get(name)
    if one is None or other is None or len(one) != len(other):
        return False
    return all(a is b for a, b in zip(one, other, strict=True))


def _is_like(call: LayerCall, first: LayerCall) -> bool:
    """Whether the trace of `first` is that of `call`, too."""
    if first.unlike or call.structure != first.structure:
        return False
    if _places(call.inputs) != _places(first.inputs):
        return False
    if not all(_alike(one, other) for one, other in zip(call.inputs, first.inputs, strict=True)):
        return False
    return all(
        _same(vars(call.layer.get_submodule(path))[name], vars(first.layer.get_submodule(path))[name])
        for path, name in first.read
    )


def _is_plain(value: Any) -> bool:
    """Whether a value is all that it can be told by: nothing in it changes unseen."""
    return isinstance(value, (Tensor, torch.SymInt, types.FunctionType, *_SCALARS))


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, functools.partial):
        one, other = ((each.func, each.args, tuple(each.keywords.items())) for each in (one, other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, _SCALARS) and repr(one) == repr(other)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return bool(_type(one) == _type(other))
    if isinstance(one, torch.SymInt) and isinstance(other, torch.SymInt):
        return bool(_size(one) == _size(other))
    return _same(one, other)


def _type(tensor: Tensor) -> Any:
    """All that a forward can ask of a tensor, but its values."""
    sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    return type(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tensor.dim(), tuple(map(_size, sizes))


def _size(size: int | torch.SymInt) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _places(inputs: list[Any]) -> list[int]:
    """Which tensors share their memory: for each the first that does."""
    storages = [_storage(each) for each in _tensors(inputs)]
    return [storages.index(each) for each in storages]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: list[Any]) -> list[Tensor]:
    return [each for each in values if isinstance(each, Tensor)]
