from __future__ import annotations

import pytest

from pagewire.cli.foreign import in_our_words
from pagewire.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("serve demo --port 1", "serve demo --port 1"),
        ("serve --tensor-parallel-size 1 demo", "serve demo"),
        ("serve --tensor_parallel_size=1", "serve"),
        ("serve -tp 1 -pp=1 -q int8", "serve --quantization int8"),
        ("serve --enforce-eager demo", "serve demo"),
        ("serve --block-size=32", "serve --page-size=32"),
        ("serve --no-enable-prefix-caching", "serve --no-prefix-caching"),
        ("serve --max_num_seqs 4 ./my_model", "serve --max-num-seqs 4 ./my_model"),
        ("serve --served-model-name=a_b", "serve --served-model-name=a_b"),
    ],
)
def test_what_changes_nothing_is_dropped_and_synonyms_are_ours(given: str, kept: str) -> None:
    assert in_our_words(given.split()) == kept.split()


@pytest.mark.parametrize(
    "given",
    [
        "-tp 2",
        "--tensor-parallel-size=8",
        "--tensor-parallel-size",
        "--gpu-memory-utilization 0.9",
        "--gpu_memory_utilization 0.9",
        "--trust-remote-code",
        "--no-enable-chunked-prefill",
        "--kv-transfer-config {}",
    ],
)
def test_what_cannot_be_had_is_explained(given: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be had: \w+"):
        in_our_words(["serve", *given.split()])
