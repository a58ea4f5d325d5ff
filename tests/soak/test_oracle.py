"""The demo model's greedy tokens against transformers reading the same GGUF file in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from pagewire import LLM, SamplingParams
from pagewire.hub import resolve

pytestmark = pytest.mark.soak

PROMPTS = [
    f"{start} {subject}"
    for start in ("The history of", "How to make", "A short story about", "Explain the meaning of")
    for subject in (
        "bread",
        "Rome",
        "a lost dog",
        "gravity",
        "the number 7",
        "jazz",
        "a river",
        "mathematics",
    )
]
NEW = 64
ROUNDING = 1e-4  # relative to the largest logit: the bound that prompt logits are held to


@pytest.fixture(scope="module")
def oracle() -> PreTrainedModel:
    """What from_pretrained(gguf_file=...) builds, without its need for another package."""
    path = resolve("demo").path
    model = LlamaForCausalLM(LlamaConfig(**load_gguf_checkpoint(path)["config"])).eval()
    model.load_state_dict(
        load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"], strict=False
    )
    model.tie_weights()
    return model


@pytest.mark.parametrize(
    ("options", "rounding"),
    [
        ({"quantization": "none"}, ROUNDING),
        ({"quantization": "gguf", "activation_bits": "16", "kv_cache_dtype": "float32"}, 2e-3),
    ],
    ids=["float32", "the file's codes"],
)
@torch.inference_mode()
def test_each_of_32_x_64_tokens_is_the_oracles_choice(
    oracle: PreTrainedModel, options: dict[str, Any], rounding: float
) -> None:
    """Teacher-forced on our own tokens, so that every position counts, not only up to a first difference."""
    llm = LLM("demo", **options)
    outputs = llm.generate(
        PROMPTS, SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True), use_tqdm=False
    )
    ties: list[tuple[int, int, float]] = []
    for number, output in enumerate(outputs):
        tokens, new = output.prompt_token_ids, output.outputs[0].token_ids
        logits = oracle(torch.tensor([tokens + new])).logits[0, len(tokens) - 1 : -1]
        for position, (row, token) in enumerate(zip(logits, new, strict=True)):
            gap = float((row.max() - row[token]) / row.abs().max())
            if gap > 0:
                ties.append((number, position, gap))
                assert gap < rounding, f"prompt {number}, token {position}: behind by {gap:.2e}"
    print(f"{len(outputs)} prompts x {NEW} tokens; ties within rounding: {ties}")
