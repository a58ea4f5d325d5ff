"""The C++ kernels: right against float64, and a row's bits its own, on every kind of processor."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_world import World, make_world
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native_library as native
from kernels.attention import AttentionMeta, paged_attention_reference

pytestmark = pytest.mark.skipif(not native.available(), reason="no C++ compiler when this was installed")

GROUP = native.GROUP
SHAPES = [(960, 576), (576, 1536), (48, 64), (301, 100), (17, 30)]  # N, K
HEADS = [(4, 4), (9, 3), (8, 2), (7, 1), (64, 1)]  # Hq, Hkv
ONE, TWO = (native.Threads(1), native.Threads(2)) if native.available() else (None, None)


def groups_of(x: torch.Tensor) -> torch.Tensor:
    """[R, K] as float64 [R, groups, GROUP], padded with zeros."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(len(x), -1, GROUP).double()


def quantised(x: torch.Tensor, bits: int) -> torch.Tensor:
    """The numbers that the codes of ``x`` in so many bits stand for, as ``groups_of``.

    0 bits: 16 in the groups whose largest number is above twice the mean of its row's groups, else 8.
    """
    wide = groups_of(x)
    top = wide.float().abs().amax(-1, keepdim=True)
    if bits:
        most = torch.full_like(top, (1 << (bits - 1)) - 1)
    else:
        most = torch.where(top > 2 * top.mean(1, keepdim=True), 127.0 * 256, 127.0)
    inverse = torch.where(top > 0, most / top, 0.0)  # most / top rounds twice
    return (wide.float() * inverse).round().double() * (top / most).double()


def quantised_weight(weight: torch.Tensor) -> torch.Tensor:
    """The numbers that the codes of ``weight`` in 8 bits stand for, as ``groups_of``. Scales are float16,
    rounded up.
    """
    wide = groups_of(weight).float()
    exact = wide.abs().amax(-1, keepdim=True) / 127.0
    near = exact.half()
    above = (near.view(torch.int16) + (near.float() < exact)).view(torch.float16).float()
    return (wide / above).nan_to_num().round().double() * above.double()


def linear_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, bits: int = 16
) -> torch.Tensor:
    """``weight`` as ``groups_of``; ``x`` rounded to so many bits."""
    y = torch.einsum("tgk,ngk->tn", quantised(x, bits), weight)
    return y if bias is None else y + bias.double()


def random_grouped(n: int, k: int, bits: int, seed: int = 0) -> native.Grouped:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (n, k), dtype=torch.uint8, generator=generator)
    scales, offsets = (torch.rand(n, k // GROUP, generator=generator).half() for _ in range(2))
    return native.Grouped(codes, scales, None if bits == 8 else -8 * offsets)


def packed_grouped(
    weight: native.Grouped, bias: torch.Tensor | None = None, row_bits: int = 16
) -> native.Packed:
    packed = native.Packed(*weight.shape, weight.bits, row_bits, bias=bias is not None)
    packed.put(0, weight)
    if packed.bias is not None and bias is not None:
        packed.bias.copy_(bias)
    return packed


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 131])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_is_the_product_of_what_the_codes_stand_for(shape: tuple[int, int], rows: int) -> None:
    weight, bias, x = torch.randn(shape), torch.randn(shape[0]), torch.randn(rows, shape[1])
    weight[0] = 0.0
    x[-1] *= 1e4
    got = native.linear(TWO, x, native.Packed.of(weight, bias))
    want = linear_reference(x, quantised_weight(weight), bias)
    assert ((got - want).abs().amax(1) <= 2e-6 * want.abs().amax(1)).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 131])
@pytest.mark.parametrize("shape", [(960, 576), (40, 1536), (17, 32)], ids=str)
@pytest.mark.parametrize(("bits", "row_bits"), [(8, 16), (4, 16), (4, 8), (4, 0)])
def test_a_weight_in_codes_is_taken_as_it_is(
    bits: int, row_bits: int, shape: tuple[int, int], rows: int
) -> None:
    weight, bias, x = random_grouped(*shape, bits), torch.randn(shape[0]), torch.randn(rows, shape[1])
    x[0, :] = 1.0  # the largest code in every place
    x[1::2, :GROUP] *= 6.0
    if rows > 2:
        x[2, GROUP:] = 1e-3
        x[2, :GROUP] = 127 - 1 / 2  # its rest is -128 in every place but one
        x[2, 0] = 127.0
    got = native.linear(TWO, x, packed_grouped(weight, bias, row_bits))
    want = linear_reference(x, groups_of(weight.float()), bias, row_bits)
    assert ((got - want).abs().amax(1) <= 2e-6 * want.abs().amax(1)).all()


def test_a_packed_weight_is_filled_by_ranges_of_rows() -> None:
    weight = random_grouped(100, 64, 4)
    packed = native.Packed(100, 64, 4)
    for first, rows in ((60, 40), (0, 7), (7, 53)):
        packed.put(first, native.Grouped(*(t[first : first + rows] for t in weight if t is not None)))
    whole = packed_grouped(weight)
    assert torch.equal(packed.codes, whole.codes)
    assert torch.equal(packed.scales, whole.scales)
    assert packed.offsets is not None
    assert whole.offsets is not None
    assert torch.equal(packed.offsets, whole.offsets)


def test_rows_of_a_weight_are_its_numbers() -> None:
    weight = random_grouped(50, 96, 8)
    ids = torch.tensor([49, 0, 17, 17])
    assert torch.equal(packed_grouped(weight).rows(ids), weight.float()[ids])


@pytest.mark.parametrize("most", [0.0, 1e-9, 6e-8, 3e-5, 1.0, 8e6])
def test_scales_of_any_size(most: float) -> None:
    weight = most * torch.tensor([[1.0, -1.0, 0.5, 0.0]]).repeat(3, 24)
    error = (native.Packed.of(weight).rows(torch.arange(3)) - weight).abs().max()
    assert error <= most / 127 + 127 * 6e-8  # the smallest scale but 0


def test_a_norm_before_it_is_the_norm_of_each_row() -> None:
    weight, x, norm = torch.randn(96, 100), torch.randn(7, 100), torch.rand(100) + 0.5
    normed = torch.nn.functional.rms_norm(x, (100,), norm, 1e-5)
    got = native.linear(ONE, x, native.Packed.of(weight), norm, 1e-5)
    # A rounding in the norm may move a number across the border between two codes.
    torch.testing.assert_close(got, native.linear(ONE, normed, native.Packed.of(weight)), rtol=0, atol=0.2)
    torch.testing.assert_close(got, normed @ weight.T, rtol=0, atol=0.5)


@pytest.mark.parametrize(
    "packed",
    [
        *(native.Packed.of(torch.randn(shape)) for shape in SHAPES),
        packed_grouped(random_grouped(300, 576, 4)),
        packed_grouped(random_grouped(300, 576, 4), row_bits=8),
        packed_grouped(random_grouped(300, 576, 4), row_bits=0),
    ]
    if native.available()
    else [],
    ids=lambda packed: f"{packed.n}x{packed.k}x{packed.bits}x{packed.row_bits}",
)
def test_linear_rows_stand_alone(packed: native.Packed) -> None:
    weight, x = packed, torch.randn(300, packed.k)
    x[::3, :GROUP] *= 6.0
    whole = native.linear(ONE, x, weight)
    for threads in (ONE, TWO):
        for first, rows in ((0, 1), (5, 2), (6, 3), (7, 130), (299, 1)):
            part = x[first : first + rows].contiguous()
            assert torch.equal(native.linear(threads, part, weight), whole[first : first + rows])


def test_threads_that_come_late_or_not_at_all_change_no_bit() -> None:
    """Twelve threads and few cores: most of a phase is done by others than whose part it is."""
    weight, x, many = native.Packed.of(torch.randn(960, 576)), torch.randn(300, 576), native.Threads(12)
    whole = native.linear(ONE, x, weight)
    for _ in range(100):
        for rows in (1, 3, 40, 300):
            assert torch.equal(native.linear(many, x[:rows].contiguous(), weight), whole[:rows])


def run(
    threads: native.Threads, q: torch.Tensor, world: World, meta: AttentionMeta, window: int | None
) -> torch.Tensor:
    return native.attention_native(threads, q, world.kv_layer, meta, q.shape[2] ** -0.5, window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 1, 100, 400])
@pytest.mark.parametrize("page_size", [1, 16, 48])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dim", [16, 64, 80])
def test_attention_agrees_with_the_reference(
    heads: tuple[int, int], dim: int, page_size: int, window: int | None, dtype: torch.dtype
) -> None:
    world = make_world([300, 130, 1, 257, 128, 70], page_size, heads[1], dim)
    world.kv_layer = world.kv_layer.to(dtype)
    meta = world.meta([100, 1, 1, 1, 1, 70])
    q = torch.randn(meta.query_starts[-1], heads[0], dim)
    want = paged_attention_reference(q.double(), world.kv_layer.double(), meta, dim**-0.5, window)
    torch.testing.assert_close(run(TWO, q, world, meta, window).double(), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [16, 64, 112, 256])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (3, 1), (8, 1), (13, 1)], ids=str)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_attention_bits_do_not_depend_on_chunks_pages_neighbours_or_threads(
    data: st.DataObject, heads: tuple[int, int], dim: int, dtype: torch.dtype
) -> None:
    window, length = data.draw(st.sampled_from([None, 3, 150])), 330
    q = torch.randn(length, heads[0], dim, generator=torch.Generator().manual_seed(5))
    alone = make_world([length], 16, heads[1], dim, seeds=[42])
    alone.kv_layer = alone.kv_layer.to(dtype)
    whole = run(ONE, q, alone, alone.meta([length]), window)
    end = data.draw(st.integers(1, length))
    rows = data.draw(st.one_of(st.integers(1, min(5, end)), st.integers(1, end)))
    other = data.draw(st.integers(1, 200))
    page_size = data.draw(st.sampled_from([1, 7, 16, 64]))
    world = make_world([other, length], page_size, heads[1], dim, seeds=[7, 42])
    world.kv_layer = world.kv_layer.to(dtype)
    meta = world.meta([1, rows], [other, end])
    threads = data.draw(st.sampled_from([ONE, TWO]))
    got = run(threads, torch.cat([torch.randn(1, heads[0], dim), q[end - rows : end]]), world, meta, window)
    assert torch.equal(got[1:], whole[end - rows : end])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 2000])
def test_a_long_context_that_threads_share_gives_the_same_bits(
    dtype: torch.dtype, window: int | None
) -> None:
    length = 3001
    q = torch.randn(20, 9, 64)
    world = make_world([length], 16, 3, 64)
    world.kv_layer = world.kv_layer.to(dtype)
    whole = run(ONE, q, world, world.meta([20]), window)
    for threads in (ONE, TWO):
        for last in (1, 3):
            assert torch.equal(run(threads, q[-last:], world, world.meta([last]), window), whole[-last:])
    want = paged_attention_reference(q.double(), world.kv_layer.double(), world.meta([20]), 0.125, window)
    torch.testing.assert_close(whole.double(), want, rtol=2e-6, atol=2e-6)


def test_large_scores_and_equal_ones() -> None:
    world = make_world([200], 16, 1, 16)
    q = 200 * torch.randn(200, 2, 16)
    q[:50] = 0.0
    want = paged_attention_reference(q.double(), world.kv_layer.double(), world.meta([200]), 1.0, None)
    got = native.attention_native(ONE, q, world.kv_layer, world.meta([200]), 1.0, None)
    # Scores reach 3,000, of which float32 keeps 2^-12: a weight is right to 0.1%.
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


def digest() -> str:
    """Of a linear and an attention, from fixed numbers."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(9, 100, generator=generator)
    weight = native.Packed.of(torch.randn(40, 100, generator=generator))
    y = native.linear(native.Threads(1), x, weight, torch.rand(100, generator=generator), 1e-5)
    short, four = x[:, :96].contiguous(), random_grouped(40, 96, 4)
    y16, y8 = (native.linear(native.Threads(1), short, packed_grouped(four, None, bits)) for bits in (16, 8))
    world = make_world([100, 33], 16, 2, 32)
    meta = world.meta([40, 1])
    q = torch.randn(41, 6, 32, generator=generator)
    z = run(native.Threads(1), q, world, meta, None)
    world.kv_layer = world.kv_layer.bfloat16()
    z = torch.cat([z, run(native.Threads(2), q, world, meta, 30)])
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in (y, y16, y8, z))).hexdigest()


def test_every_kind_of_processor_gives_the_same_bits() -> None:
    if native.isa() == "generic":
        pytest.skip("this processor runs the generic kernels anyway")
    folder = Path(__file__).parent
    paths = [str(folder), str(folder.parents[1])]
    program = (
        f"import sys; sys.path[:0] = {paths!r}; import test_native as t; print(t.native.isa(), t.digest())"
    )
    env = os.environ | {"PAGEWIRE_ISA": "generic"}
    told = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["generic", digest()]
