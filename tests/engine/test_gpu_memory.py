from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pagewire.engine.gpu_memory import RESERVE, Memory, explained, kv_bytes
from pagewire.errors import ConfigError

GIB = 1 << 30


def test_pages_get_what_the_share_leaves() -> None:
    memory = Memory(total=80 * GIB, free=64 * GIB, weights=15 * GIB, step=2 * GIB)
    assert kv_bytes(memory, 0.9) == int(0.9 * 80 * GIB) - 15 * GIB - 2 * GIB - RESERVE


def test_what_others_hold_is_not_given_away() -> None:
    memory = Memory(total=80 * GIB, free=20 * GIB, weights=15 * GIB, step=2 * GIB)
    assert kv_bytes(memory, 0.9) == 20 * GIB - 2 * GIB - RESERVE


def test_too_little_is_said_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"16.00 GiB .* 14.40 GiB .* 14.96 GiB for weights, 0.50 GiB"):
        kv_bytes(Memory(16 * GIB, 1 * GIB, int(14.96 * GIB), GIB // 2), 0.9)


sizes = st.integers(0, 200 * GIB)


@given(total=sizes, free=sizes, weights=sizes, step=sizes, utilization=st.floats(0.01, 1.0))
def test_all_of_it_together_stays_within_the_share_and_the_free(
    total: int, free: int, weights: int, step: int, utilization: float
) -> None:
    try:
        pages = kv_bytes(Memory(total, free, weights, step), utilization)
    except ConfigError:
        return
    assert pages > 0
    assert weights + step + pages <= total * utilization
    assert step + pages <= free


def test_out_of_memory_is_one_line_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 79 * GIB)
    with (
        pytest.raises(
            ConfigError, match=r"while loading the weights: of 80.00 GiB this node holds 79.00 GiB"
        ),
        explained("loading the weights", torch.device("cuda")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
