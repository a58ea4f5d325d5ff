"""Steps of real models on a GPU that is not there: see ``ghost_gpu``. ``test_triton`` runs this file.

PAGEWIRE_TRITON=1 python -m pytest tests/kernels/ghost_engine.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ghost_gpu import DEVICE, Ghost, ghost
from tiny import model_folder, sequence

from benchmarks.gpu.models import QWEN3_06B, QWEN25_7B
from pagewire.engine.batch import Batch
from pagewire.engine.build import build_engine
from pagewire.engine.kv_cache import KVCache
from pagewire.engine.model import Decoder
from pagewire.engine.runner import ModelRunner
from pagewire.engine.sampler import Sampled, SampleRow
from pagewire.layout import KVLayout
from pagewire.model_config import parse_config
from pagewire.sampling import SamplingParams

LLAMA3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "eos_token_id": 128001,
}
MODELS = {"Qwen2.5-7B": QWEN25_7B, "Llama-3-8B": LLAMA3_8B, "Qwen3-0.6B": QWEN3_06B}


@pytest.fixture
def gpu() -> Iterator[Ghost]:
    with ghost() as made:
        yield made


def runner(config: dict[str, Any], *, deterministic: bool = False) -> ModelRunner:
    """With two of its layers: the others are the same."""
    model = parse_config(config | {"num_hidden_layers": 2})
    decoder = Decoder(model, torch.bfloat16, DEVICE, 4096, deterministic=deterministic)
    layout = KVLayout(2, model.kv_heads, model.head_dim, "bfloat16", "a ghost")
    return ModelRunner(decoder, KVCache(layout, 4096, 16, DEVICE), 64)


def step(rows: list[int], contexts: list[int]) -> Batch:
    """The newest ``rows`` of each sequence, all in the same pages: nobody reads them."""
    starts, ends = np.cumsum([0, *rows]), np.array(contexts)
    positions = np.concatenate([np.arange(c - n, c) for n, c in zip(rows, contexts, strict=True)])
    tables = np.zeros((len(rows), -(-max(contexts) // 16)), np.int64)
    return Batch(np.zeros(starts[-1], np.int64), positions, positions, starts, ends, tables, starts[1:] - 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_decode_step_is_captured_and_replayed(gpu: Ghost, name: str) -> None:
    some = runner(MODELS[name])
    some.capture(3, 2048)
    assert gpu.captured == 3  # 1, 2, 3
    logits = some.forward(step([1, 1], [700, 3]))
    assert (gpu.replays, logits.shape) == (1, (2, MODELS[name]["vocab_size"]))
    assert gpu.waits == 0


def test_a_deterministic_step_too(gpu: Ghost) -> None:
    some = runner(QWEN25_7B, deterministic=True)
    some.capture(1, 2048)
    assert gpu.captured == 1
    assert any("matmul" in kernel for kernel in gpu.kernels())


def test_chunks_are_captured_in_groups_of_layers(gpu: Ghost) -> None:
    some, told = runner(QWEN25_7B), []
    some.capture_chunks(40, 3, 2048)
    assert gpu.captured == 6 * 2  # 16, 20, 24, 28, 32 and 40 rows; two layers, each a group
    logits = some.forward(step([20, 1], [600, 70]), told.append, 1)
    assert (gpu.replays, told, logits.shape) == (2 + 6, [1, 2], (2, 152064))
    assert gpu.waits == 0


def test_a_mixed_step_keeps_nobody_waiting(gpu: Ghost) -> None:
    some, told = runner(QWEN3_06B), []
    logits = some.forward(step([300, 1, 1], [600, 70, 1]), told.append, 1)
    assert (told, logits.shape) == ([1, 2], (3, 151936))
    assert gpu.waits == 0


def test_draws_keep_nobody_waiting_until_they_are_seen(gpu: Ghost) -> None:
    some = runner(QWEN3_06B)
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=50)
    rows = [SampleRow(params, 1, [0], [1, 2, 3], 3)] * 5
    logits = torch.empty(5, 151936, dtype=torch.bfloat16, device=DEVICE)
    drawn = some.draw(logits, rows)
    assert gpu.waits == 0
    assert drawn.see() == [[Sampled(0)]] * 5


def test_a_whole_engine_lives_there(gpu: Ghost, tmp_path: Path) -> None:
    """Built as a node builds it; chunks, forks, draws, and answers that the host must choose."""
    source = model_folder(tmp_path, **(QWEN3_06B | {"num_hidden_layers": 2}))
    built = build_engine(
        source, load_format="dummy", max_model_len=512, max_batch_tokens=64, max_num_seqs=4,
        gpu_memory_utilization=0.1,
    )  # fmt: skip
    engine = built.engine
    assert (built.device.type, built.layout.dtype) == ("cuda", "bfloat16")
    assert engine.config.async_scheduling
    assert engine.config.num_pages * 16 * built.layout.token_bytes < (6 << 30) + 1
    for i, params in enumerate(
        [
            SamplingParams(max_tokens=5),
            SamplingParams(max_tokens=5, n=2, temperature=0.7),
            SamplingParams(max_tokens=5, frequency_penalty=0.5),
            SamplingParams(max_tokens=5, logprobs=2, prompt_logprobs=1),
        ]
    ):
        engine.admit(sequence([3 + i] * (90 if i else 5), params, f"r{i}"))
    tokens = 0
    while engine.busy:
        out = engine.step()
        tokens += len(out.tokens)
        for finished in out.finished:
            assert not finished.error
            engine.pool.release(finished.lease)
    assert tokens == 5 * 5
    assert engine.accounts().leased == 0
    assert gpu.replays > 2


def test_the_ghost_notices_a_host_that_waits(gpu: Ghost) -> None:
    some = torch.zeros(3, device=DEVICE)
    with pytest.raises(Exception, match=r"_local_scalar_dense|data.dependent"):
        bool((some > 0).all())
    gpu.capturing = True
    with pytest.raises(AssertionError, match="while a graph is captured"):
        torch.zeros(3).to(DEVICE)
    gpu.capturing = False
