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

GROUP = 64
SHAPES = [(960, 576), (576, 1536), (48, 64), (301, 100), (17, 30)]  # N, K
HEADS = [(4, 4), (9, 3), (8, 2), (7, 1), (64, 1)]  # Hq, Hkv
ONE, TWO = (native.Threads(1), native.Threads(2)) if native.available() else (None, None)


def groups_of(x: torch.Tensor) -> torch.Tensor:
    """[R, K] as float64 [R, groups, GROUP], padded with zeros."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(len(x), -1, GROUP).double()


def quantised(x: torch.Tensor) -> torch.Tensor:
    """The numbers that the codes of ``x`` stand for, as ``groups_of``."""
    wide = groups_of(x)
    scale = wide.float().abs().amax(-1, keepdim=True)
    inverse = torch.where(scale > 0, torch.full_like(scale, 127.0) / scale, 0.0)  # 127.0 / scale rounds twice
    return (wide.float() * inverse).round().double() * (scale / 127.0).double()


def linear_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y = torch.einsum("tgk,ngk->tn", quantised(x), quantised(weight))
    return y if bias is None else y + bias.double()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 131])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_is_the_product_of_what_the_codes_stand_for(shape: tuple[int, int], rows: int) -> None:
    weight, bias, x = torch.randn(shape), torch.randn(shape[0]), torch.randn(rows, shape[1])
    weight[0] = 0.0
    x[-1] *= 1e4
    got = native.linear_int8(TWO, x, native.Packed(weight, bias))
    want = linear_reference(x, weight, bias)
    assert ((got - want).abs().amax(1) <= 2e-6 * want.abs().amax(1)).all()


def test_a_norm_before_it_is_the_norm_of_each_row() -> None:
    weight, x, norm = torch.randn(96, 100), torch.randn(7, 100), torch.rand(100) + 0.5
    normed = torch.nn.functional.rms_norm(x, (100,), norm, 1e-5)
    got = native.linear_int8(ONE, x, native.Packed(weight), norm, 1e-5)
    # A rounding in the norm may move a number across the border between two codes.
    torch.testing.assert_close(got, native.linear_int8(ONE, normed, native.Packed(weight)), rtol=0, atol=0.2)
    torch.testing.assert_close(got, normed @ weight.T, rtol=0, atol=0.5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_rows_stand_alone(shape: tuple[int, int]) -> None:
    weight, x = native.Packed(torch.randn(shape)), torch.randn(300, shape[1])
    whole = native.linear_int8(ONE, x, weight)
    for threads in (ONE, TWO):
        for first, rows in ((0, 1), (5, 2), (6, 3), (7, 130), (299, 1)):
            part = x[first : first + rows].contiguous()
            assert torch.equal(native.linear_int8(threads, part, weight), whole[first : first + rows])


def run(
    threads: native.Threads, q: torch.Tensor, world: World, meta: AttentionMeta, window: int | None
) -> torch.Tensor:
    return native.attention_native(threads, q, world.kv_layer, meta, q.shape[2] ** -0.5, window)


@pytest.mark.parametrize("window", [None, 1, 100, 400])
@pytest.mark.parametrize("page_size", [1, 16, 48])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dim", [16, 64, 80])
def test_attention_agrees_with_the_reference(
    heads: tuple[int, int], dim: int, page_size: int, window: int | None
) -> None:
    world = make_world([300, 130, 1, 257, 128, 70], page_size, heads[1], dim)
    meta = world.meta([100, 1, 1, 1, 1, 70])
    q = torch.randn(meta.query_starts[-1], heads[0], dim)
    want = paged_attention_reference(q, world.kv_layer, meta, dim**-0.5, window)
    torch.testing.assert_close(run(TWO, q, world, meta, window), want, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), window=st.sampled_from([None, 3, 150]), threads=st.sampled_from([ONE, TWO]))
def test_attention_bits_do_not_depend_on_chunks_pages_neighbours_or_threads(
    data: st.DataObject, window: int | None, threads: native.Threads
) -> None:
    length, (heads, kv_heads), dim = 290, (9, 3), 16
    q = torch.randn(length, heads, dim, generator=torch.Generator().manual_seed(5))
    alone = make_world([length], 16, kv_heads, dim, seeds=[42])
    whole = run(ONE, q, alone, alone.meta([length]), window)
    end = data.draw(st.integers(1, length))
    rows = data.draw(st.integers(1, end))
    other = data.draw(st.integers(1, 200))
    world = make_world([other, length], data.draw(st.sampled_from([1, 16, 64])), kv_heads, dim, seeds=[7, 42])
    meta = world.meta([1, rows], [other, end])
    got = run(threads, torch.cat([torch.randn(1, heads, dim), q[end - rows : end]]), world, meta, window)
    assert torch.equal(got[1:], whole[end - rows : end])


def test_large_scores_and_equal_ones() -> None:
    world = make_world([200], 16, 1, 16)
    q = 200 * torch.randn(200, 2, 16)
    q[:50] = 0.0
    want = paged_attention_reference(q, world.kv_layer, world.meta([200]), 1.0, None)
    got = native.attention_native(ONE, q, world.kv_layer, world.meta([200]), 1.0, None)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def digest() -> str:
    """Of a linear and an attention, from fixed numbers."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(9, 100, generator=generator)
    weight = native.Packed(torch.randn(40, 100, generator=generator))
    y = native.linear_int8(native.Threads(1), x, weight, torch.rand(100, generator=generator), 1e-5)
    world = make_world([100, 33], 16, 2, 32)
    meta = world.meta([40, 1])
    z = run(native.Threads(1), torch.randn(41, 6, 32, generator=generator), world, meta, None)
    return hashlib.sha256(y.numpy().tobytes() + z.numpy().tobytes()).hexdigest()


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
