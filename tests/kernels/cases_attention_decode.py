"""Paged attention of single rows: what a captured step launches, and quantised pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from attention_world import World, make_world, poisoned, quantise
from gpu_cases import DEVICE, TOLERANCE, wrong
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from offline_gpu import Launch

from kernels import attention_decode, attention_items, attention_triton, tuned
from kernels.attention import AttentionMeta, KVScales, paged_attention_reference, plan_decode

SPLIT = attention_decode.default_use(16, torch.float32, torch.float32)["SPLIT"]


def captured(world: World, contexts: list[int], most_tokens: int | None = None) -> AttentionMeta:
    lens = torch.tensor(contexts, dtype=torch.int32, device=DEVICE)
    tables = world.page_tables.to(DEVICE, torch.int32)
    return AttentionMeta.captured(lens, tables, world.page_size, most_tokens or sum(contexts))


@pytest.mark.parametrize("window", [None, 10, SPLIT + 3])
def test_items_are_the_splits_that_a_row_sees(window: int | None) -> None:
    contexts = [1, 0, SPLIT, SPLIT + 1, 200 * SPLIT, 3 * SPLIT - 1]
    lens = torch.tensor(contexts, dtype=torch.int32, device=DEVICE)
    tables = torch.zeros(6, 1, dtype=torch.int32, device=DEVICE)
    use = attention_decode.default_use(16, torch.float32, torch.float32)
    count = attention_items.items_of(contexts, window, SPLIT)
    plan = plan_decode(lens, tables, 16, count + 5, heads=1, dim=16, use=use, window=window)
    seen = [
        len({p // SPLIT for p in range(0 if window is None else max(0, c - window), c)}) for c in contexts
    ]
    assert plan.starts.tolist() == [sum(seen[:i]) for i in range(7)]
    assert plan.owners[:count].tolist() == [row for row, n in enumerate(seen) for _ in range(n)]
    assert count <= attention_items.most_items(6, sum(contexts), window, SPLIT)


@example((8, 2), 64, 16, None, torch.float32, [1200, 0, 63], (torch.int8, False))  # several splits of codes
@example((8, 2), 16, 16, 700, torch.float32, [1200, 64], (torch.float8_e4m3fn, True))
@settings(deadline=None, max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    heads=st.sampled_from([(4, 4), (9, 3), (8, 2), (7, 1), (17, 1)]),
    dim=st.sampled_from([16, 20, 64, 128]),
    page_size=st.sampled_from([1, 16, 24, 128]),
    window=st.sampled_from([None, 1, 100, 700]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    contexts=st.lists(st.sampled_from([0, 1, 63, 64, 511, 512, 513, 1200]), min_size=1, max_size=4),
    codes=st.sampled_from([None, None, (torch.int8, False), (torch.int8, True)]),
)
def test_any_captured_step_agrees_with_the_reference_in_float64(
    heads: tuple[int, int],
    dim: int,
    page_size: int,
    window: int | None,
    dtype: torch.dtype,
    contexts: list[int],
    codes: tuple[torch.dtype, bool] | None,
) -> None:
    world = make_world([max(1, c) for c in contexts], page_size, heads[1], dim)
    kv_layer, scales = (world.kv_layer.to(dtype), None) if codes is None else quantise(world, *codes)
    q = (torch.randn(len(contexts), heads[0], dim) / 2).to(dtype)
    moved = None if scales is None else KVScales(scales.values.to(DEVICE))
    with poisoned():
        meta = captured(world, contexts, sum(contexts) + 1000)
        got = attention_triton.attend(q.to(DEVICE), kv_layer.to(DEVICE), meta, dim**-0.5, window, moved)
    rows, plan = captured(world, contexts).on_host()
    want = torch.zeros(q.shape, dtype=torch.float64)
    rows = rows.cpu()
    want[rows] = paged_attention_reference(q.double()[rows], kv_layer, plan, dim**-0.5, window, scales)
    assert torch.equal(got.cpu() == 0, want == 0)
    assert wrong(got.cpu(), want) < TOLERANCE[dtype] or not sum(contexts)


@pytest.mark.parametrize("window", [None, 60])
def test_a_row_does_not_feel_neighbours_capture_or_the_number_of_programs(window: int | None) -> None:
    world = make_world([70, 130, 30], 16, 2, 16)
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(4, 6, 16, device=DEVICE)

    def attend(q: torch.Tensor, meta: AttentionMeta, programs: int = 3) -> torch.Tensor:
        use = attention_decode.default_use(16, torch.float32, torch.float32)
        small = {**use, "SPLIT": 32, "BLOCK_N": 16, "programs": programs}
        with tuned.override("attention_decode", small), poisoned():
            return attention_triton.attend(q, kv_layer, meta, 0.25, window)

    together = attend(q[:3], world.meta([1, 1, 1]))
    # The rows of a graph: another order, one that stands for none, room for more items than there are.
    order, contexts = [2, 0, 0, 1], [30, 0, 70, 130]
    lens = torch.tensor(contexts, dtype=torch.int32, device=DEVICE)
    tables = world.page_tables[order].to(DEVICE, torch.int32)
    for programs in (1, 2, 7):
        got = attend(q[order], AttentionMeta.captured(lens, tables, 16, 900), programs)
        assert torch.equal(got[[2, 3, 0]], together)
        assert not got[1].any()
    for s, context in enumerate([70, 130, 30]):
        alone = AttentionMeta.plan([0, 1], [context], world.page_tables[s : s + 1], 16)
        assert torch.equal(attend(q[s : s + 1], alone)[0], together[s])
    # Beside a chunk.
    mixed = AttentionMeta.plan([0, 1, 3], [130, 30], world.page_tables[1:], 16)
    assert torch.equal(attend(q[1:], mixed)[0], together[1])


def test_a_captured_deterministic_row_equals_the_planned_one() -> None:
    world = make_world([70, 130, 1], 16, 2, 16)
    kv_layer, q = world.kv_layer.to(DEVICE), torch.randn(3, 6, 16, device=DEVICE)
    lens = torch.tensor([70, 130, 0], dtype=torch.int32, device=DEVICE)
    tables = world.page_tables.to(DEVICE, torch.int32)
    meta = AttentionMeta.captured(lens, tables, 16, 1000, deterministic=True)
    with poisoned():
        got = attention_triton.attend(q, kv_layer, meta, 0.25, None)
    plan = AttentionMeta.plan([0, 1, 2], [70, 130], world.page_tables[:2], 16, deterministic=True)
    assert torch.equal(got[:2], attention_triton.attend(q[:2], kv_layer, plan, 0.25, None))
    assert not got[2].any()


def test_layers_of_a_step_share_its_items() -> None:
    world = make_world([70, 130], 16, 2, 16)
    meta, kv_layer = captured(world, [70, 130]), world.kv_layer.to(DEVICE)
    first, second = torch.randn(2, 2, 6, 16, device=DEVICE)
    attention_triton.attend(first, kv_layer, meta, 0.25, None)
    got = attention_triton.attend(second, kv_layer, meta, 0.25, None)
    assert torch.equal(got, attention_triton.attend(second, kv_layer, captured(world, [70, 130]), 0.25, None))
    assert len(meta._plans) == 1


@pytest.mark.skipif(DEVICE != "cuda", reason="graphs are captured on a GPU")
def test_a_graph_replays_with_other_contexts() -> None:
    world = make_world([700, 1300, 30], 16, 2, 64)
    kv_layer, q = world.kv_layer.to(DEVICE, torch.bfloat16), torch.randn(3, 6, 64).to(DEVICE, torch.bfloat16)
    lens = torch.tensor([1, 1, 1], dtype=torch.int32, device=DEVICE)
    tables = world.page_tables.to(DEVICE, torch.int32)

    def run() -> torch.Tensor:
        meta = AttentionMeta.captured(lens, tables, 16, 4000)
        return attention_triton.attend(q, kv_layer, meta, 0.125, None)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for contexts in ([700, 1300, 30], [1, 0, 29]):
        lens.copy_(torch.tensor(contexts, dtype=torch.int32))
        graph.replay()
        assert torch.equal(out, run())


def launches() -> Iterator[Launch]:
    def of(name: str, heads: int, kv_heads: int, window: int | None = None, **kv: object) -> Launch:
        world = make_world([90, 70], 16, kv_heads, 128)
        codes, scales = kv.get("codes"), None
        layer = world.kv_layer.bfloat16()
        if codes is not None:
            assert isinstance(codes, torch.dtype)
            layer, scales = quantise(world, codes, bool(kv.get("per_token")))
        q, meta = torch.zeros(2, heads, 128, dtype=torch.bfloat16), captured(world, [90, 70])
        return Launch(name, lambda: attention_triton.attend(q, layer, meta, 0.1, window, scales))

    yield of("decode, 7 heads a KV head", 28, 4)
    yield of("decode, 4 heads a KV head", 32, 8)
    yield of("decode in a window", 32, 8, 1000)
    for codes in (torch.int8, torch.float8_e4m3fn):
        yield of(f"decode over {codes}, a scale a head", 32, 8, codes=codes)
    yield of("decode over fp8, a scale a token", 32, 8, codes=torch.float8_e4m3fn, per_token=True)
