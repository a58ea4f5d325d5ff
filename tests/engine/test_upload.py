"""Packing of a step's arrays. The copy itself needs a GPU: benchmarks/gpu exercises it there."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pagewire.engine.upload import Upload, offsets, pack, unpack

kinds = st.sampled_from([np.int64, np.int32, np.float32, np.float64])
shapes = arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)
some = st.lists(kinds.flatmap(lambda kind: arrays.arrays(kind, shapes)), min_size=1, max_size=6)


@given(many=some)
def test_what_is_packed_comes_out(many: list[np.ndarray]) -> None:
    places = offsets(many)
    block = torch.full((places[-1],), 0xAB, dtype=torch.uint8)
    pack(many, places, block.numpy())
    for array, tensor in zip(many, unpack(many, places, block), strict=True):
        assert np.array_equal(tensor.numpy(), array, equal_nan=True)
        assert tensor.numpy().dtype == array.dtype
    assert all(place % 16 == 0 for place in places)


def test_columns_of_a_matrix_are_packed_as_they_read() -> None:
    matrix = np.arange(12).reshape(3, 4)[:, ::2]
    places = offsets([matrix])
    block = torch.zeros(places[-1], dtype=torch.uint8)
    pack([matrix], places, block.numpy())
    assert unpack([matrix], places, block)[0].tolist() == [[0, 2], [4, 6], [8, 10]]


def test_on_the_cpu_an_array_is_its_tensor() -> None:
    array = np.arange(5)
    (tensor,) = Upload(torch.device("cpu"))(array)
    array[0] = 7
    assert tensor.tolist() == [7, 1, 2, 3, 4]
