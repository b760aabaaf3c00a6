"""The compiler's order, read aloud."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from burnish.ir.errors import UsageError
from burnish.passes.base import Pass
from burnish.passes.fuse.elementwise import FuseElementwise
from burnish.passes.fuse.fold_scales import FOLD_SCALES
from burnish.passes.fuse.linears import FuseLinears
from burnish.passes.fuse.pack_linears import PackLinears
from burnish.passes.fuse.projections import FuseProjections
from burnish.passes.fuse.spell_out import SpellOut
from burnish.passes.layout.assign_layout import AssignLayout
from burnish.passes.layout.cancel_transposes import CancelTransposes
from burnish.passes.layout.split_joins import SplitJoins
from burnish.passes.lower.choose_ids import ChooseIds
from burnish.passes.lower.keep_integers import KeepIntegers
from burnish.passes.lower.narrow_caches import NarrowCaches
from burnish.passes.lower.narrow_floats import NarrowFloats
from burnish.passes.lower.pack_panels import PackPanels
from burnish.passes.lower.read_codes import ReadCodes
from burnish.passes.lower.read_integers import ReadIntegers
from burnish.passes.raise_.activation import RAISE_ACTIVATIONS
from burnish.passes.raise_.attention import RaiseAttention
from burnish.passes.raise_.canonicalize import Canonicalize
from burnish.passes.raise_.clean import Clean
from burnish.passes.raise_.convolution import RAISE_CONVOLUTIONS
from burnish.passes.raise_.join_writes import JoinWrites
from burnish.passes.raise_.norm import RAISE_NORMS
from burnish.passes.raise_.rotary import RAISE_ROTARY
from burnish.passes.states.fold_positions import FoldPositions
from burnish.passes.states.insert_states import InsertStates
from burnish.passes.states.select_logits import SelectLogits
from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
from burnish.passes.transforms.drop_layers import DropLayers
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.quantize_cache import QuantizeCache
from burnish.passes.transforms.sparsify import Sparsify


def raise_operations() -> list[Pass]:
    """Captured -> raised: attention, norms, rotary embeddings and activations by their names. Keeps the numbers."""
    return [
        # What export adds would stand between the ops that the other passes look for.
        Clean(),
        # A tensor that is filled part by part is a join of the parts.
        JoinWrites(),
        # One spelling of products and softmax, so that attention has one to be found by.
        Canonicalize(),
        # Takes the masks with it: they are the only values over tokens x tokens, and no later pass could fold them.
        RaiseAttention(),
        # Norms before rotary embeddings: query and key norms stand in front of these.
        RAISE_NORMS,
        # Before positions are folded: complex rotations become cosines and sines, which fold into real tables.
        RAISE_ROTARY,
        RAISE_ACTIVATIONS,
        # What mixes tokens in other ways than attention, named so that it can be given a state.
        RAISE_CONVOLUTIONS,
    ]


def insert_states() -> list[Pass]:
    """Raised -> incremental. Keeps the numbers."""
    return [
        # All that is left of positions become tables, which a step reads at its own positions.
        FoldPositions(),
        # While the program still maps tokens to logits: the walk back from these ends at the last mixing op.
        SelectLogits(),
        # Last: it proves that all else keeps tokens apart, and refuses the model otherwise.
        InsertStates(),
    ]


def make_incremental() -> list[Pass]:
    """Captured -> incremental: what every target needs. All of these keep the numbers.

    Transforms, which change the model, run between the two: caches are made for what they leave.
    """
    return [*raise_operations(), *insert_states()]


def fuse_for_onnxruntime() -> list[Pass]:
    """Incremental -> fewer and larger operations."""
    return [
        # Late, because it hides which projection is which: one product over the rows of several.
        PackLinears(),
    ]


def narrow_for_onnxruntime() -> list[Pass]:
    """What says in which numbers it is computed. Up to here, weights that stand for integers are floats to everyone."""
    return [ReadIntegers("blocks")]


def lower_for_onnxruntime() -> list[Pass]:
    """Incremental -> what ONNX Runtime runs best."""
    return [*fuse_for_onnxruntime(), *narrow_for_onnxruntime()]


def fuse_for_gpu() -> list[Pass]:
    """Incremental -> few operations, each of which is one kernel."""
    return [
        # Before linears take their norm: the three projections of an attention share one.
        FuseProjections(),
        # What is left of projections of one value: one product is one launch.
        PackLinears(),
        # Behind these: it names what a linear reads and what reads it, which they look for.
        FuseLinears(),
        # In front of groups, which then have a formula for more. Behind these: attention and products are taken by now.
        SpellOut(),
        # Last: what no kernel written for it has taken in.
        FuseElementwise(),
    ]


def narrow_for_gpu(dtype: torch.dtype) -> list[Pass]:
    """In which numbers it is computed: products with integers where weights stand for them, and floats of `dtype`.

    Last: all that comes before can be compared in float32, over weights that are floats to everyone.
    """
    return [ReadIntegers("plain"), *([] if dtype == torch.float32 else [NarrowFloats(dtype)])]


def lower_for_gpu(dtype: torch.dtype) -> list[Pass]:
    """Incremental -> few operations, each of which is one kernel, in `dtype`."""
    return [
        *fuse_for_gpu(),
        # Ahead of narrow numbers, which are widened for who wants logits: what chooses reads them as they are made.
        ChooseIds(),
        *narrow_for_gpu(dtype),
    ]


def fuse_for_native() -> list[Pass]:
    """Incremental -> few operations, each of which is one of our kernels for CPUs: a GPU's, but for its groups."""
    return [each for each in fuse_for_gpu() if not isinstance(each, FuseElementwise)]


def lower_for_native(dtype: torch.dtype | None, keep: bool = True) -> list[Pass]:
    """Incremental -> what our kernels for CPUs run, floats of products stored in `dtype` (None: as they are).

    keep: where a file has integers for a weight, these are stored.
    """
    return [
        # Before products are joined, which only those of one kind are then.
        *([KeepIntegers()] if keep else []),
        *fuse_for_native(),
        ReadCodes(),
        ChooseIds(),
        *([] if dtype in (None, torch.float32) else [NarrowCaches(dtype)]),
        # Last: up to here weights are floats to everyone, in the order in which the model has them.
        PackPanels(dtype),
    ]


def default_passes(
    backend: str = "native", *, dtype: torch.dtype | None = None, transforms: Sequence[Pass] = ()
) -> list[Pass]:
    """All that `compile` runs, in order: the list to change and give to it as `passes`.

    backend: "native" for our own kernels on CPUs, which store the floats of products in `dtype` (None: weights are what
        the model's file has, also its integers, unless a transform is to say which those are); "onnxruntime"; "cuda"
        for GPUs of any architecture, which compute in `dtype` (None: float32).
    transforms: what changes the model. They run between raising and states: caches are made for what they leave.

    Raises UsageError for a transform that the target has no kernels for.
    """
    if backend != "native" and any(isinstance(each, Quantize) and each.numbers == "fp8" for each in transforms):
        raise UsageError(
            "only native kernels multiply with weights of fp8: give backend='native' (--backend native), or int8"
        )
    lowering = (
        lower_for_onnxruntime()
        if backend == "onnxruntime"
        else lower_for_native(dtype, dtype is None and not any(isinstance(each, Quantize) for each in transforms))
        if backend == "native"
        else lower_for_gpu(dtype or torch.float32)
    )
    return [*raise_operations(), *transforms, *insert_states(), *lowering]


def graph_passes(backend: str = "onnxruntime") -> list[Pass]:
    """All that `compile` runs for a graph that is no language model's: what does not ask which axis has tokens."""
    return [
        Clean(),
        RAISE_NORMS,
        RAISE_ACTIVATIONS,
        FOLD_SCALES,
        # Blocked convolutions add to what is there. PyTorch's do not.
        *([SplitJoins()] if backend == "onnxruntime" else []),
        # Last: norms and activations that are one op have one layout. Cancels permutes, too, by what they cost here.
        AssignLayout("pytorch" if backend == "reference" else backend),
    ]


NARROWING = (ReadIntegers, NarrowFloats, NarrowCaches, PackPanels)
"""Passes that say in which numbers to compute: a program before them can be compared in float32."""


def known_passes() -> list[Pass]:
    """Each pass that there is, with its default options: those of all targets, and the transforms."""
    transforms: list[Pass] = [DropLayers(), ConvertToGQA(1), Sparsify(), Quantize(), QuantizeCache()]
    narrow = [*lower_for_native(torch.bfloat16), *lower_for_gpu(torch.bfloat16)]  # behind what is as it comes
    listed = [*default_passes(transforms=transforms), *lower_for_onnxruntime(), *narrow, *graph_passes()]
    listed.append(CancelTransposes())
    found: dict[str, Pass] = {}
    for each in listed:
        found.setdefault(each.name, each)
    return list(found.values())
