"""What an engine answers to some requests, step by step, with its pages checked on the way."""

from __future__ import annotations

from tiny import sequence

from pagewire.engine.engine import Engine
from pagewire.rng import uniform
from pagewire.sampling import SamplingParams

Answers = dict[tuple[str, int], tuple[list[int], str]]


def workload(max_tokens: int = 12) -> list[tuple[str, list[int], SamplingParams]]:
    """24 prompts of 1 to 90 tokens; some share a prefix; greedy and sampled, some with two choices."""
    shared = [int(uniform(1, 0, i) * 90) + 3 for i in range(40)]
    work = []
    for i in range(24):
        length = 1 + int(uniform(2, 0, i) * 90)
        tokens = [int(uniform(3, i, j) * 90) + 3 for j in range(length)]
        params = SamplingParams(
            temperature=0.0 if i % 2 else 0.9,
            top_p=0.95,
            n=2 if i % 4 == 0 else 1,
            max_tokens=max_tokens,
            frequency_penalty=0.3 if i % 5 == 0 else 0.0,
        )
        work.append((f"r{i}", shared + tokens if i % 3 == 0 else tokens, params))
    return work


def run(engine: Engine, work: list[tuple[str, list[int], SamplingParams]]) -> Answers:
    answers: Answers = {}
    for name, tokens, params in work:
        engine.admit(sequence(tokens, params, name))
    while engine.busy:
        out = engine.step()
        assert out.worked
        for token in out.tokens:
            so_far, _ = answers.get((token.seq.request, token.choice), ([], ""))
            assert len(so_far) == token.index
            answers[token.seq.request, token.choice] = ([*so_far, token.sampled.token], token.finish)
        for finished in out.finished:
            engine.pool.release(finished.lease)
        engine.pool.check()
    accounts = engine.accounts()
    assert accounts.free + accounts.cached == accounts.total
    return answers
