"""What kernels of attention are made for, and what they are given: the same for decoding and for prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton

from burnish.codegen.triton.spec import Constant, KernelSpec, pointer
from burnish.ir.errors import UsageError


@dataclass(frozen=True)
class Attention:
    """What is settled of an attention before it runs. The dtype of what it does not take is None."""

    dtype: torch.dtype  # of queries, keys, values and the result
    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    scale: float
    mask: str = "causal"
    extent: int = 0
    softcap: float = 0.0
    position: torch.dtype | None = torch.int64
    bias: torch.dtype | None = None
    bias_by_position: bool = False  # bias is a table with a row a position, as `burnish::attention_bias` reads
    sinks: torch.dtype | None = None
    slopes: torch.dtype | None = None
    key_positions: torch.dtype | None = None
    page_size: int = 0  # 0: one stretch of memory a row

    @property
    def groups(self) -> int:
        """Query heads that read one KV head."""
        return self.heads // self.kv_heads

    @property
    def facts(self) -> dict[str, object]:
        """What matters to the choice of tiles."""
        sizes = f"{self.key_size}x{self.value_size}" if self.key_size != self.value_size else self.key_size
        return {
            "": self.dtype,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "size": sizes,
            "mask": f"{self.mask} {self.extent}" if self.extent else self.mask,
            "softcap": self.softcap > 0,
            "bias": self.bias is not None,
            "sinks": self.sinks is not None,
            "slopes": self.slopes is not None,
            "ring": self.key_positions is not None,
            "pages": self.page_size or None,
        }

    def spec(
        self,
        function: Any,
        pointers: Mapping[str, str | None],
        constants: Mapping[str, Constant],
        num_warps: int,
        num_stages: int,
    ) -> KernelSpec:
        """`function` for this attention. `pointers` and `constants` are those that only this function takes.

        Pointers that are not given, and their strides, are constants and no arguments of the launch.
        """
        dtypes = {
            **dict.fromkeys(("query_ptr", "key_ptr", "value_ptr"), self.dtype),
            "position_ptr": self.position,
            "pages_ptr": torch.int32 if self.page_size else None,
            "key_positions_ptr": self.key_positions,
            "bias_ptr": self.bias,
            "sinks_ptr": self.sinks,
            "slopes_ptr": self.slopes,
        }
        types = {name: dtype and pointer(dtype) for name, dtype in dtypes.items()} | dict(pointers)
        arguments: dict[str, str] = {}
        absent: dict[str, Constant] = {}
        for name in function.arg_names:
            kind = types.get(name)
            owner = name.split("_stride_")[0]
            if kind:
                arguments[name] = kind
            elif name in types:
                absent[name] = None
            elif owner != name and types[f"{owner}_ptr"] is None:
                absent[name] = 0
            elif name not in constants and not name.isupper():
                arguments[name] = "i32"
        return KernelSpec(
            function,
            arguments,
            constants={
                **absent,
                "GROUPS": self.groups,
                "SCALE": self.scale,
                "SOFTCAP": self.softcap,
                "MASK": self.mask,
                "EXTENT": self.extent,
                "BIAS_BY_POSITION": self.bias_by_position,
                "PAGE_SIZE": self.page_size,
                "KEY_SIZE": self.key_size,
                "VALUE_SIZE": self.value_size,
                "BLOCK_K": max(16, triton.next_power_of_2(self.key_size)),
                "BLOCK_V": max(16, triton.next_power_of_2(self.value_size)),
                **constants,
            },
            aligned=frozenset(name for name in arguments if self._is_aligned(name)),
            num_warps=num_warps,
            num_stages=num_stages,
        )

    def _is_aligned(self, name: str) -> bool:
        """Pointers, and strides over whole heads, where these are multiples of 16 elements."""
        if name.endswith("_ptr"):
            return name != "bias_ptr"
        sizes = {"query": self.key_size, "key": self.key_size, "value": self.value_size, "out": self.value_size}
        owner, _, stride = name.partition("_stride_")
        return bool(stride) and owner in sizes and sizes[owner] % 16 == 0


def operands(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position: torch.Tensor | None,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
    slopes: torch.Tensor | None,
    key_positions: torch.Tensor | None,
    bias_table: torch.Tensor | None,
    block_table: torch.Tensor | None,
    *,
    scale: float,
    mask: str = "causal",
    extent: int = 0,
    softcap: float = 0.0,
) -> tuple[Attention, dict[str, Any]]:
    """The description of an attention of these tensors, and what a launch gives, by name, with room for the result."""
    # The elements of a head lie side by side for the kernels; what a convolution over tokens gives does not.
    query, key, value = (each if each.stride(3) == 1 else each.contiguous() for each in (query, key, value))
    batch, heads, tokens, key_size = query.shape
    capacity = key.shape[2] if block_table is None else block_table.shape[1] * key.shape[2]
    if block_table is not None and (mask == "none" or key_positions is not None):
        raise UsageError("attention over pages needs a mask that ends at the newest token: causal, window or chunk")
    if bias is not None:
        bias = bias.expand(batch, heads, tokens, capacity)
    elif bias_table is not None:
        bias = bias_table.expand(heads, *bias_table.shape[1:]).expand(batch, -1, -1, -1)
    if key_positions is not None:
        key_positions = key_positions.expand(batch, capacity).contiguous()
    attention = Attention(
        dtype=query.dtype,
        heads=heads,
        kv_heads=key.shape[1],
        key_size=key_size,
        value_size=value.shape[-1],
        scale=scale,
        mask=mask,
        extent=extent,
        softcap=softcap,
        position=_dtype(position),
        bias=_dtype(bias),
        bias_by_position=bias_table is not None,
        sinks=_dtype(sinks),
        slopes=_dtype(slopes),
        key_positions=_dtype(key_positions),
        page_size=0 if block_table is None else key.shape[2],
    )
    # Tokens before heads, so that the product that follows reads the heads of a token side by side.
    out = query.new_empty((batch, tokens, heads, value.shape[-1])).transpose(1, 2)
    given: dict[str, Any] = {
        "query_ptr": query,
        "key_ptr": key,
        "value_ptr": value,
        "out_ptr": out,
        "position_ptr": position,
        "pages_ptr": block_table,
        "key_positions_ptr": key_positions,
        "bias_ptr": bias,
        "sinks_ptr": sinks,
        "slopes_ptr": slopes,
        "capacity": capacity,
        "pages_stride_b": 0 if block_table is None else block_table.stride(0),
    }
    for name, tensor, axes in (
        ("query", query, "bhs"),
        ("key", key, "bht"),
        ("value", value, "bht"),
        ("out", out, "bhs"),
    ):
        given |= {f"{name}_stride_{axis}": tensor.stride(i) for i, axis in enumerate(axes)}
    if bias is not None:
        given |= {f"bias_stride_{axis}": bias.stride(i) for i, axis in enumerate("bhst")}
    return attention, given


def _dtype(tensor: torch.Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype
