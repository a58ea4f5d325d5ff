"""Foreign layouts of 4 bits, packed here number by number as they are described, survive the conversion."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

from kernels.w4_layouts import (
    W4Weight,
    dequantise,
    from_awq,
    from_gptq,
    from_q4_0,
    from_q4_1,
    pack,
    stacked,
    unpack,
)

AWQ = [0, 2, 4, 6, 1, 3, 5, 7]


def signed(word: int) -> int:
    """The int32 of these 32 bits."""
    return word - (1 << 32) if word >> 31 else word


def words_of(rows: list[list[int]], order: list[int]) -> torch.Tensor:
    """``[R, C]`` codes -> ``[R, C/8]`` int32: nibble j of a word is the number ``order[j]`` of its eight."""
    packed = [
        [signed(sum(row[c + order[j]] << 4 * j for j in range(8))) for c in range(0, len(row), 8)]
        for row in rows
    ]
    return torch.tensor(packed, dtype=torch.int32)


class Quantised:
    """Random codes, zeros and scales, and the weight they mean."""

    def __init__(self, n: int, k: int, group: int, seed: int = 1) -> None:
        chance = torch.Generator().manual_seed(seed)
        groups = -(-k // group)
        self.codes = torch.randint(16, (n, k), generator=chance)
        self.zeros = torch.randint(1, 16, (groups, n), generator=chance)
        self.scales = torch.rand(groups, n, generator=chance).half()
        self.group_of = torch.arange(k) // group

    def weight(self) -> torch.Tensor:
        """[N, K] in fp32: exact, 11 bits by at most 5."""
        scales, zeros = self.scales.float()[self.group_of], self.zeros[self.group_of]
        return scales.T * (self.codes - zeros.T)


@pytest.mark.parametrize(("n", "k", "group"), [(8, 64, 32), (16, 384, 128), (8, 40, 40), (24, 136, 64)])
@pytest.mark.parametrize("classic", [True, False])
def test_gptq(n: int, k: int, group: int, classic: bool) -> None:
    q = Quantised(n, k, group)
    qweight = words_of(q.codes.tolist(), list(range(8))).T
    qzeros = words_of((q.zeros - int(classic)).tolist(), list(range(8)))
    converted = from_gptq(qweight, qzeros, q.scales, group, q.group_of.int(), zeros_less_one=classic)
    assert converted.columns is None
    assert torch.equal(dequantise(converted), q.weight())


def test_gptq_with_act_order() -> None:
    q = Quantised(8, 256, 64)
    q.group_of = q.group_of[torch.randperm(256, generator=torch.Generator().manual_seed(2))]
    qweight, qzeros = (
        words_of(q.codes.tolist(), list(range(8))).T,
        words_of((q.zeros - 1).tolist(), list(range(8))),
    )
    converted = from_gptq(qweight, qzeros, q.scales, 64, q.group_of.int())
    assert torch.equal(dequantise(converted), q.weight())
    assert converted.columns is not None  # x[:, columns] meets the columns as they lie
    assert torch.equal(unpack(converted).long(), q.codes[:, converted.columns])


def test_symmetric_gptq() -> None:
    q = Quantised(8, 64, 32)
    q.zeros.fill_(8)
    converted = from_gptq(words_of(q.codes.tolist(), list(range(8))).T, None, q.scales, 32)
    assert (converted.groups >> 16).eq(8).all()
    assert torch.equal(dequantise(converted), q.weight())


@pytest.mark.parametrize(("n", "k", "group"), [(8, 64, 32), (16, 256, 128), (8, 33, 33)])
def test_awq(n: int, k: int, group: int) -> None:
    q = Quantised(n, k, group)
    converted = from_awq(words_of(q.codes.T.tolist(), AWQ), words_of(q.zeros.tolist(), AWQ), q.scales, group)
    assert torch.equal(dequantise(converted), q.weight())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_gguf(kind: str) -> None:
    """gguf's own Python code is the oracle, over random bytes with finite scales."""
    n, k, head = 5, 160, 2 if kind == "Q4_0" else 4
    random = np.random.default_rng(3)
    blocks = random.integers(0, 256, (n, k // 32, head + 16), dtype=np.uint8)
    scales = random.standard_normal((n, k // 32, head // 2)).astype(np.float16)
    blocks[:, :, :head] = scales.view(np.uint8)
    raw = blocks.reshape(n, -1)
    want = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])
    converted = (from_q4_0 if kind == "Q4_0" else from_q4_1)(torch.from_numpy(raw))
    assert converted.group == 32
    assert torch.equal(dequantise(converted), torch.from_numpy(want))


@pytest.mark.parametrize(
    ("k", "group", "blocks"),
    [(64, 32, 2), (130, 32, 2), (257, 32, 4), (300, 64, 2), (520, 128, 3), (9, 9, 1)],
)
def test_codes_lie_where_the_layout_says(k: int, group: int, blocks: int) -> None:
    q = Quantised(3, k, group)
    packed: W4Weight = pack(q.codes.to(torch.uint8), q.scales, group)
    words = 16 if group == 32 else 32
    assert packed.codes.shape == (blocks, 3, words)
    assert torch.equal(unpack(packed).long(), q.codes)
    for column in range(k):
        block, inside = divmod(column, 8 * words)
        p, pair = divmod(inside, 2 * words)
        word = packed.codes[block, 2, pair // 2].item()
        assert word >> (4 * p + 16 * (pair % 2)) & 15 == q.codes[2, column], column


def test_groups_of_a_strange_size_are_refused() -> None:
    with pytest.raises(AssertionError, match="groups"):
        pack(torch.zeros(4, 96, dtype=torch.uint8), torch.ones(2, 4), 48)


def test_stacked_weights_have_all_rows() -> None:
    first, second = (Quantised(n, 128, 32, seed=n) for n in (8, 24))
    packed = [pack(q.codes.to(torch.uint8), q.scales, 32, q.zeros) for q in (first, second)]
    assert torch.equal(dequantise(stacked(packed)), torch.cat((first.weight(), second.weight())))
    with pytest.raises(AssertionError, match="orders"):
        stacked([packed[0], replace(packed[1], columns=torch.arange(128))])
