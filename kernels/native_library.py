"""The CPU kernels in C++ (``kernels/native``), through ctypes: whole decoder layers over packed weights.

The library is built when the package is installed, if there is a compiler. Weights have 8 or 4 bits, rows
are rounded to 16 or 8; either has a scale for each 32 numbers along K. Sums within 32 are whole numbers and
exact, the rest is float32 in an order that is always the same. A row's bits depend on that row and the keys
that it sees: not on the batch, the chunks, the threads, or the kind of processor. Knows arrays; knows no
model file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.attention_meta import AttentionMeta

KV_BITS = {torch.float32: 32, torch.bfloat16: 16}  # what K and V may be kept in
LANES = 16  # head_dim must be a multiple of this
GROUP = 32  # numbers along K that share a scale


class _Linear(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("n", "k", "bits", "row_bits")),
        *((name, c_void_p) for name in ("codes", "scales", "offsets", "bias")),
    )


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


_STEP_ARRAYS = ("cos", "sin", "positions", "slots", "query_starts", "contexts", "page_tables")


class _Step(Structure):
    _fields_ = (
        *(
            (name, c_int64)
            for name in ("rows", "sequences", "pages_each", "page_size", "num_pages", "kv_bits")
        ),
        *((name, c_void_p) for name in _STEP_ARRAYS),
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
    "pw_codes_bytes": (c_int64, [c_int64, c_int64, c_int64]),
    "pw_groups": (c_int64, [c_int64, c_int64]),
    "pw_pack": (None, [c_void_p, c_int64, c_int64, POINTER(_Linear)]),
    "pw_place": (None, [c_void_p, c_void_p, c_void_p, c_int64, c_int64, POINTER(_Linear)]),
    "pw_rows": (None, [POINTER(_Linear), c_void_p, c_int64, c_void_p]),
    "pw_layers": (
        None,
        [c_void_p, POINTER(_Shape), POINTER(_Layer), c_int64, POINTER(_Step), c_void_p, c_void_p],
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


class Grouped(NamedTuple):
    """A weight ``[N, K]`` = scale * code + offset: ``GROUP`` numbers along K share a scale and an offset.

    ``codes`` uint8 ``[N, K]``: int8 seen as bytes, or 0 to 15 where there are offsets. ``scales`` and
    ``offsets`` float16 ``[N, K / GROUP]``.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor | None

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def bits(self) -> int:
        return 8 if self.offsets is None else 4

    def float(self) -> Tensor:
        """float32 ``[N, K]``."""
        codes = self.codes.view(torch.int8) if self.offsets is None else self.codes
        wide = codes.view(*self.scales.shape, GROUP) * self.scales.float()[..., None]
        return (wide if self.offsets is None else wide + self.offsets.float()[..., None]).view(self.shape)


Take = Callable[[str, tuple[int, ...], torch.dtype], Tensor]  # memory for the array of that name


def zeros(_: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


class Packed:
    """A weight ``[N, K]`` in 8 or 4 ``bits`` and its bias ``[N]``: made empty, filled by ranges of rows.

    What it is multiplied with is rounded to ``row_bits``: 16, or for 4 bits also 8, or 0, which is 16 for the
    groups of a row that hold its largest numbers and 8 for the others.
    """

    def __init__(
        self, n: int, k: int, bits: int = 8, row_bits: int = 16, *, bias: bool = False, take: Take = zeros
    ) -> None:
        assert (bits, row_bits) in ((8, 16), (4, 16), (4, 8), (4, 0))
        library = _library()
        groups = library.pw_groups(n, k)
        self.n, self.k, self.bits, self.row_bits = n, k, bits, row_bits
        self.codes = take("codes", (library.pw_codes_bytes(n, k, bits),), torch.uint8)
        self.scales = take("scales", (groups,), torch.float16)
        self.offsets = take("offsets", (groups,), torch.float16) if bits == 4 else None
        self.bias = take("bias", (n,), torch.float32) if bias else None
        arrays = map(_address, (self.codes, self.scales, self.offsets, self.bias))
        self.struct = _Linear(n, k, bits, row_bits, *arrays)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Packed:
        """In 8 bits: codes from -127 to 127, the scale what makes the largest of its group 127."""
        packed = cls(*weight.shape, bias=bias is not None)
        packed.put(0, weight)
        if packed.bias is not None and bias is not None:
            packed.bias.copy_(bias)
        return packed

    def put(self, first: int, weight: Tensor | Grouped) -> None:
        """Fill the rows from ``first`` on. A weight in other groups than these comes as a tensor."""
        where = (first, weight.shape[0], byref(self.struct))
        assert weight.shape[1] == self.k
        assert 0 <= first <= self.n - weight.shape[0]
        if isinstance(weight, Grouped):
            assert weight.bits == self.bits
            kept = [None if t is None else t.contiguous() for t in weight]
            _library().pw_place(*map(_address, kept), *where)
        else:
            assert self.bits == 8
            kept = [weight.float().contiguous()]
            _library().pw_pack(*map(_address, kept), *where)

    def rows(self, ids: Tensor) -> Tensor:
        """float32 ``[R, K]``: the weight's rows ``ids``, int64 [R]. For 8 bits only."""
        assert self.bits == 8
        out = torch.empty(len(ids), self.k)
        ids = ids.contiguous()
        _library().pw_rows(byref(self.struct), ids.data_ptr(), len(ids), out.data_ptr())
        return out

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.codes, self.scales, self.offsets) if t is not None)


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
        self.linears = (qkv, out, gate_up, down)
        norms, linears = map(_address, self._norms), (packed.struct for packed in self.linears)
        self.struct = _Layer(*norms, *linears, window or 0)


class Layers:
    """The layers of a model, one after another."""

    def __init__(self, layers: list[PackedLayer]) -> None:
        self.layers = layers
        self.array = (_Layer * len(layers))(*(layer.struct for layer in layers))


class Step:
    """What the layers of one step share. ``turns``: cos and sin of all positions, float32 ``[P, R / 2]``.

    ``positions`` and ``slots`` are int64 [T]; the caller sees to it that all are within what they point into.
    ``kv_layer[2, pages, page_size, Hkv, D]`` is any layer's: it gives the sizes and the dtype.
    """

    def __init__(
        self,
        meta: AttentionMeta,
        turns: tuple[Tensor, Tensor],
        positions: Tensor,
        slots: Tensor,
        kv_layer: Tensor,
    ) -> None:
        starts, contexts = torch.tensor(meta.query_starts), torch.tensor(meta.context_lens)
        self._kept = [t.contiguous() for t in (*turns, positions, slots, starts, contexts, meta.page_tables)]
        sizes = (len(positions), len(meta.context_lens), meta.page_tables.shape[1], *kv_layer.shape[2:0:-1])
        self.struct = _Step(*sizes, KV_BITS[kv_layer.dtype], *map(_address, self._kept))


def run_layers(
    threads: Threads, shape: Shape, layers: Layers, numbers: range, step: Step, hidden: Tensor, kv: Tensor
) -> None:
    """``hidden[T, H]`` goes through the layers ``numbers`` in place; K and V are stored in
    ``kv[L, 2, pages, page_size, Hkv, D]``, of one of the dtypes of ``KV_BITS``; the rest is float32.
    """
    _check(hidden)
    assert kv.is_contiguous(), kv.stride()
    assert numbers.step == 1
    assert 0 <= numbers.start < numbers.stop <= len(layers.layers) == len(kv)
    first = byref(layers.array[numbers.start])
    addresses = (hidden.data_ptr(), kv[numbers.start].data_ptr())
    _library().pw_layers(
        threads.handle, byref(_Shape(*shape)), first, len(numbers), byref(step.struct), *addresses
    )


def linear(
    threads: Threads, x: Tensor, weight: Packed, norm: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """``x[T, K]``, normed by ``norm[K]`` if it is given, times the weight -> ``[T, N]``, all float32."""
    _check(x)
    out = torch.empty(x.shape[0], weight.n)
    where = (x.data_ptr(), x.shape[0], _address(norm), eps)
    _library().pw_linear(threads.handle, *where, byref(weight.struct), out.data_ptr())
    return out


def attention_native(
    threads: Threads, q: Tensor, kv_layer: Tensor, meta: AttentionMeta, scale: float, window: int | None
) -> Tensor:
    """What ``kernels.attention.paged_attention`` is: float32 ``q``, and K and V in one of ``KV_BITS``."""
    _check(q)
    assert kv_layer.is_contiguous(), kv_layer.stride()
    heads, dim, kv_heads = q.shape[1], q.shape[2], kv_layer.shape[3]
    shape = _Shape(heads * dim, heads, kv_heads, dim, dim, 0, 0.0, scale)
    unread = torch.empty(q.shape[0], dtype=torch.int64)
    step = Step(meta, (unread, unread), unread, unread, kv_layer)
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
