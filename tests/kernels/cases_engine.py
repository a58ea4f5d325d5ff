"""The whole way of a GPU, interpreted: every kernel of the decoder, graphs, draws, steps that overlap.

The same model in float32 must give the same tokens as the CPU's own way, whose arithmetic differs: the
margins between the first and the second token of this model are far above rounding. Few and short requests:
the interpreter is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from runs import run
from tiny import model_folder

from kernels import attention_triton, backend
from pagewire.engine.build import build_engine
from pagewire.engine.engine import Engine
from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

VARIANTS = {
    "plain": {},
    "qwen3-like": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "a window": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 24},
}


def workload() -> list[tuple[str, list[int], SamplingParams]]:
    work = []
    for i, length in enumerate((30, 1, 7)):
        tokens = [int(uniform(3, i, j) * 90) + 3 for j in range(length)]
        params = SamplingParams(temperature=0.0 if i == 1 else 0.9, top_p=0.9, top_k=20 * i, max_tokens=3)
        work.append((f"r{i}", tokens, params))
    return work


def engine(folder: Path, *, deterministic: bool = False) -> Engine:
    return build_engine(
        model_folder(folder),
        load_format="dummy",
        dtype="float32",
        quantization="none",
        kv_cache_bytes=1 << 19,
        max_num_seqs=2,
        max_batch_tokens=16,
        async_scheduling=True,
        deterministic=deterministic,
    ).engine


@pytest.fixture
def interpreted() -> Iterator[None]:
    if torch.cuda.is_available():
        yield  # compiled, then
        return
    backend.interpreted = True
    yield
    backend.interpreted = False


@pytest.mark.parametrize(
    ("name", "deterministic"),
    [("plain", False), ("qwen3-like", True), ("a window", False)],
)
def test_the_tokens_are_those_of_the_cpu(
    tmp_path: Path,
    name: str,
    deterministic: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = model_folder(tmp_path / "tiny", **VARIANTS[name]).path
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        want = run(engine(folder), workload())
    request.getfixturevalue("interpreted")
    launches, attend = [], attention_triton.attend
    monkeypatch.setattr(attention_triton, "attend", lambda *a: (launches.append(1), attend(*a))[1])
    some = engine(folder, deterministic=deterministic)
    some.runner.capture(2, some.config.max_model_len)
    some.runner.capture_chunks(12, 2, some.config.max_model_len)
    assert run(some, workload()) == want
    assert launches, "it went the CPU's way"
