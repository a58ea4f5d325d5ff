"""A row's bits depend on nothing but its own sequence: not on chunking, batching, pages or neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paged_world import Paged
from tiny_models import oracle, ours, prompt

from pagewire.engine.model import Decoder

torch.set_num_threads(1)
TOKENS = prompt(40)


@pytest.fixture(scope="module", params=["llama-llama3", "mistral", "qwen2", "qwen3"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("model")
    oracle(request.param).save_pretrained(folder)
    return ours(folder)


@pytest.mark.parametrize("chunk", [7, 1])
def test_chunks_do_not_change_a_bit(decoder: Decoder, chunk: int) -> None:
    whole, parts = Paged(decoder), Paged(decoder)
    assert torch.equal(whole.chunked(TOKENS, 40), parts.chunked(TOKENS, chunk))
    assert whole.kv_of(0, 40) == parts.kv_of(0, 40)


def test_page_size_does_not_change_a_bit(decoder: Decoder) -> None:
    small, large = Paged(decoder, page_size=4), Paged(decoder, page_size=16)
    assert torch.equal(small.chunked(TOKENS, 40), large.chunked(TOKENS, 40))
    assert small.kv_of(0, 40) == large.kv_of(0, 40)


def test_neighbours_do_not_change_a_bit(decoder: Decoder) -> None:
    alone, crowd = Paged(decoder), Paged(decoder, sequences=3)
    others = [prompt(33, seed=2), prompt(5, seed=3)]
    crowd.step((0, others[0], 0, 20), (2, others[1], 0, 4))
    first = crowd.step((0, others[0], 20, 33), (1, TOKENS, 0, 39), (2, others[1], 4, 5))[1]
    last = crowd.step((1, TOKENS, 39, 40), (0, [*others[0], 9], 33, 34))[0]
    assert torch.equal(alone.chunked(TOKENS, 40), torch.cat([first, last]))
    assert alone.kv_of(0, 40) == crowd.kv_of(1, 40)


def test_threads_do_not_change_a_bit(decoder: Decoder) -> None:
    one = Paged(decoder).chunked(TOKENS, 40)
    torch.set_num_threads(2)
    try:
        assert torch.equal(one, Paged(decoder).chunked(TOKENS, 40))
    finally:
        torch.set_num_threads(1)
