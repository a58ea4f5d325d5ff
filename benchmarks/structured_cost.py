"""What masks cost by themselves, and what a token of an engine costs with them and without.

Knows vocabularies, engines and clocks; asks no server.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.structured_cases import growing
from pagewire.engine.constraint import permitted
from pagewire.grammar import GrammarMatcher, Vocabulary
from pagewire.hub import resolve
from pagewire.model_config import load_config
from pagewire.sampling import Grammar, SamplingParams
from pagewire.text.tokenizer import load_tokenizer

SIZES = (1, 5, 10, 20, 100)  # properties
BATCHES = (1, 8)
NEW = 64  # tokens
ROUNDS = 7


def _grammar(properties: int) -> Grammar:
    return Grammar("json_schema", json.dumps(growing(properties)[-1], separators=(",", ":")))


def masks(model: str) -> list[dict[str, Any]]:
    """Random walks through schemas of growing size."""
    source = resolve(model)
    config, tokenizer = load_config(source), load_tokenizer(source)
    began = time.perf_counter()
    vocabulary = Vocabulary.of(tokenizer, config.vocab_size, config.eos_token_ids)
    print(f"masks over {config.vocab_size} tokens, prepared in {time.perf_counter() - began:.2f} s")
    rows = []
    for properties in SIZES:
        grammar = _grammar(properties)
        began = time.perf_counter()
        matcher = vocabulary.matcher(grammar)
        compiled = time.perf_counter() - began
        row = {"properties": properties, "bytes": len(grammar.text), "compile_ms": 1e3 * compiled}
        rows.append(row | _walk(matcher, config.vocab_size))
        told = "  ".join(f"{key} {value:.0f}" for key, value in rows[-1].items())
        print(f"  {told}")
    return rows


def _walk(matcher: GrammarMatcher, vocab_size: int) -> dict[str, float]:
    """Median microseconds of one mask and of taking one token in, and those of doing it all again: of this
    thread's processor time, which a busy machine does not stretch.
    """
    pick, tokens = random.Random(1), []
    finding, taking = [], []
    start = matcher.fork()
    while not matcher.stopped and len(tokens) < 2000:
        began = time.thread_time()
        mask = matcher.mask()
        found = time.thread_time()
        tokens.append(int(pick.choice(np.flatnonzero(permitted(mask, vocab_size)))))
        began_taking = time.thread_time()
        matcher.advance(tokens[-1:])
        taking.append(time.thread_time() - began_taking)
        finding.append(found - began)
    began = time.thread_time()
    start.advance(tokens)
    again = time.thread_time() - began
    cuts = statistics.quantiles(finding, n=100)
    return {
        "tokens": len(tokens),
        "mask_us": 1e6 * statistics.median(finding),
        "mask_p99_us": 1e6 * cuts[98],
        "advance_us": 1e6 * statistics.median(taking),
        "replay_us_a_token": 1e6 * again / len(tokens),
    }


def steps(model: str) -> list[dict[str, float]]:
    """Batches that decode as many tokens free and constrained, in turn: processor time of one thread."""
    from pagewire import LLM

    llm, rows = LLM(model, threads=1, max_num_seqs=max(BATCHES), enable_prefix_caching=False), []
    long = Grammar("regex", "(.|\n){2000}")  # as many tokens as are asked for
    llm.generate("x", SamplingParams(grammar=long), use_tqdm=False)  # loads the vocabulary
    for batch in BATCHES:
        prompts = [f"Write story number {n}." for n in range(batch)]
        free, held = [], []
        for _ in range(ROUNDS):
            for times, grammar in ((free, None), (held, long)):
                params = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=0.0, grammar=grammar)
                began = time.process_time()
                llm.generate(prompts, params, use_tqdm=False)
                times.append(time.process_time() - began)
        row = {
            "batch": batch,
            "free_us_a_token": 1e6 * statistics.median(free) / (batch * NEW),
            "held_us_a_token": 1e6 * statistics.median(held) / (batch * NEW),
        }
        rows.append(row | {"more_us_a_token": row["held_us_a_token"] - row["free_us_a_token"]})
        print("  decoding: " + "  ".join(f"{key} {value:.0f}" for key, value in rows[-1].items()))
    return rows
