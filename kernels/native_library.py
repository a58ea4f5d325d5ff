"""The CPU kernels in C++ (``kernels/native``), through ctypes: whole decoder layers over int8 weights.

The library is built when the package is installed, if there is a compiler. It computes with int8 weights and
int8 rows, a scale for each 64 numbers along K of either: sums within 64 are whole numbers and exact, the rest
is float32 in an order that is always the same. A row's bits depend on that row and the keys that it sees: not
on the batch, the chunks, the threads, or the kind of processor. Knows arrays; knows no model file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.attention_meta import AttentionMeta

LANES = 16  # head_dim must be a multiple of this


class _Linear(Structure):
    _fields_ = (("n", c_int64), ("k", c_int64), ("codes", c_void_p), ("scales", c_void_p), ("bias", c_void_p))


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, _Linear) for name in ("qkv", "out", "gate_up", "down")),
        ("window", c_int64),
    )


class _Shape(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("hidden", "heads", "kv_heads", "head_dim", "rotary_dim", "inner")),
        *((name, c_float) for name in ("eps", "scale")),
    )


class _Step(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "sequences", "pages_each", "page_size", "num_pages")),
        *((name, c_void_p) for name in ("cos", "sin", "slots", "query_starts", "contexts", "page_tables")),
    )


class Shape(NamedTuple):
    """What all layers of a model share: the sizes of ``api.h``."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    inner: int
    eps: float
    scale: float


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "pw_isa": (c_char_p, []),
    "pw_open": (c_void_p, [c_int]),
    "pw_close": (None, [c_void_p]),
    "pw_codes_bytes": (c_int64, [c_int64, c_int64]),
    "pw_scales_bytes": (c_int64, [c_int64, c_int64]),
    "pw_pack": (None, [c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
    "pw_layer": (
        None,
        [c_void_p, POINTER(_Shape), POINTER(_Layer), POINTER(_Step), c_void_p, c_void_p],
    ),
    "pw_linear": (
        None,
        [c_void_p, c_void_p, c_int64, c_void_p, c_float, POINTER(_Linear), c_void_p],
    ),
    "pw_attention": (
        None,
        [c_void_p, POINTER(_Shape), POINTER(_Step), c_int64, c_void_p, c_int64, c_void_p, c_void_p],
    ),
}


@cache
def _library() -> Any:
    """The loaded library, or None if it was not built."""
    spec = importlib.util.find_spec("kernels._native")
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(spec.origin)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def available() -> bool:
    return _library() is not None


def isa() -> str:
    """Which processor's kernels are used: "avx2" or "generic"."""
    name: bytes = _library().pw_isa()
    return name.decode()


class Threads:
    """A team of ``count`` threads and their memory, the caller's among them. For one caller at a time."""

    def __init__(self, count: int) -> None:
        self.handle: int = _library().pw_open(count)
        weakref.finalize(self, _library().pw_close, self.handle)


class Packed:
    """A weight ``[N, K]`` in int8, with its bias ``[N]``."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        library, (n, k) = _library(), weight.shape
        weight = weight.float().contiguous()
        self.codes = torch.empty(library.pw_codes_bytes(n, k), dtype=torch.int8)
        self.scales = torch.empty(library.pw_scales_bytes(n, k) // 4, dtype=torch.float32)
        self.bias = None if bias is None else bias.float().contiguous()
        library.pw_pack(weight.data_ptr(), n, k, self.codes.data_ptr(), self.scales.data_ptr())
        self.struct = _Linear(n, k, self.codes.data_ptr(), self.scales.data_ptr(), _address(self.bias))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


class PackedLayer:
    """One decoder layer. Norms are float32 ``[H]`` and ``[D]``."""

    def __init__(
        self,
        attn_norm: Tensor,
        mlp_norm: Tensor,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        qkv: Packed,
        out: Packed,
        gate_up: Packed,
        down: Packed,
        window: int | None,
    ) -> None:
        self._norms = [
            None if t is None else t.float().contiguous() for t in (attn_norm, mlp_norm, q_norm, k_norm)
        ]
        self._linears = (qkv, out, gate_up, down)
        norms, linears = map(_address, self._norms), (packed.struct for packed in self._linears)
        self.struct = _Layer(*norms, *linears, window or 0)


class Step:
    """What the layers of one step share. ``cos``, ``sin`` are float32 ``[T, R / 2]``, ``slots`` int64 [T]."""

    def __init__(self, meta: AttentionMeta, cos: Tensor, sin: Tensor, slots: Tensor, num_pages: int) -> None:
        starts, contexts = torch.tensor(meta.query_starts), torch.tensor(meta.context_lens)
        self._kept = [t.contiguous() for t in (cos, sin, slots, starts, contexts, meta.page_tables)]
        sizes = (cos.shape[0], len(meta.context_lens), meta.page_tables.shape[1], meta.page_size, num_pages)
        self.struct = _Step(*sizes, *map(_address, self._kept))


def run_layer(
    threads: Threads, shape: Shape, layer: PackedLayer, step: Step, hidden: Tensor, kv_layer: Tensor
) -> None:
    """``hidden[T, H]`` goes through one layer in place; K and V are stored in
    ``kv_layer[2, pages, page_size, Hkv, D]``, both float32.
    """
    _check(hidden, kv_layer)
    addresses = (hidden.data_ptr(), kv_layer.data_ptr())
    _library().pw_layer(
        threads.handle, byref(_Shape(*shape)), byref(layer.struct), byref(step.struct), *addresses
    )


def linear_int8(
    threads: Threads, x: Tensor, weight: Packed, norm: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """``x[T, K]``, normed by ``norm[K]`` if it is given, times the weight -> ``[T, N]``, all float32."""
    _check(x)
    out = torch.empty(x.shape[0], weight.struct.n)
    where = (x.data_ptr(), x.shape[0], _address(norm), eps)
    _library().pw_linear(threads.handle, *where, byref(weight.struct), out.data_ptr())
    return out


def attention_native(
    threads: Threads, q: Tensor, kv_layer: Tensor, meta: AttentionMeta, scale: float, window: int | None
) -> Tensor:
    """What ``kernels.attention.paged_attention`` is, for float32 on the CPU."""
    _check(q, kv_layer)
    heads, dim, kv_heads = q.shape[1], q.shape[2], kv_layer.shape[3]
    shape = _Shape(heads * dim, heads, kv_heads, dim, dim, 0, 0.0, scale)
    nothing = torch.empty(q.shape[0], 0)
    step = Step(meta, nothing, nothing, torch.empty(0, dtype=torch.int64), kv_layer.shape[1])
    out = torch.empty_like(q)
    addresses = (q.data_ptr(), heads * dim, kv_layer.data_ptr(), out.data_ptr())
    _library().pw_attention(threads.handle, byref(shape), byref(step.struct), window or 0, *addresses)
    return out


def _check(*arrays: Tensor) -> None:
    for array in arrays:
        assert array.dtype == torch.float32, array.dtype
        assert array.is_contiguous(), array.stride()


def _address(array: Tensor | None) -> int | None:
    return None if array is None else array.data_ptr()
