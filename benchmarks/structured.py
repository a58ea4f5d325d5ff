"""Structured output against a running server: is it valid, is it the same colocated, what does it cost?

    pagewire serve demo &
    python -m benchmarks.structured http://127.0.0.1:8000 [--requests 200] [--model demo] [--json FILE]

Prints what came of schemas of growing size, disaggregated and in one process; what a token costs with them
and without; how schemas end that nothing bounds; and what became of hostile grammars, with the stream of
somebody else beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from jsonschema import Draft202012Validator

from benchmarks.structured_cases import HOSTILE, UNBOUNDED, Case, Schema, growing
from benchmarks.structured_cost import masks, steps

ROOM = 1024  # tokens of an answer
WANTED_S = 2.0  # in which a hostile grammar is answered
HARMLESS: list[Case] = [("nothing special", {}) for _ in HOSTILE]
BAR = "-" * 100


class Asked(NamedTuple):
    schema: Schema
    fields: dict[str, Any]


class Answer(NamedTuple):
    text: str
    tokens: list[int]
    finish: str


def requests(schemas: list[Schema], count: int, room: int = ROOM) -> list[Asked]:
    """``count`` in turn over ``schemas``, greedy and sampled."""
    return [_asked(schemas[n % len(schemas)], n, room) for n in range(count)]


def _asked(schema: Schema, n: int, room: int) -> Asked:
    fields = {
        "messages": [{"role": "user", "content": f"Make up record number {n} as JSON."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "record", "schema": schema}},
        "temperature": 0.0 if n % 4 == 0 else 0.9,
        "seed": n,
        "max_tokens": room,
        "return_token_ids": True,
    }
    return Asked(schema, fields)


def served(url: str, asked: list[Asked], at_once: int = 8) -> list[Answer]:
    with httpx.Client(timeout=600) as client, ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda each: _whole(client, url, each), asked))


def _whole(client: httpx.Client, url: str, asked: Asked) -> Answer:
    reply = client.post(f"{url}/v1/chat/completions", json=asked.fields)
    reply.raise_for_status()
    choice = reply.json()["choices"][0]
    return Answer(choice["message"]["content"], choice["token_ids"], choice["finish_reason"])


def colocated(model: str, asked: list[Asked]) -> list[Answer]:
    """The same on one engine in this process."""
    from pagewire import LLM, SamplingParams
    from pagewire.sampling import Grammar

    params = [
        SamplingParams(
            temperature=each.fields["temperature"],
            seed=each.fields["seed"],
            max_tokens=each.fields["max_tokens"],
            grammar=Grammar("json_schema", json.dumps(each.schema, separators=(",", ":"))),
        )
        for each in asked
    ]
    llm = LLM(model)
    outputs = llm.chat([each.fields["messages"] for each in asked], params, use_tqdm=False)
    found = [output.outputs[0] for output in outputs]
    return [Answer(choice.text, choice.token_ids, choice.finish_reason or "") for choice in found]


def verdict(asked: Asked, answer: Answer) -> str:
    """How it ended: "valid", or why not."""
    try:
        value = json.loads(answer.text)
    except ValueError:
        return f"no JSON ({answer.finish})"
    return "valid" if Draft202012Validator(asked.schema).is_valid(value) else f"invalid ({answer.finish})"


def ask_all(url: str, cases: list[Case]) -> list[dict[str, Any]]:
    """One after the other: what each was told, and how long that took, 8 tokens included if it is served."""
    rows = []
    with httpx.Client(timeout=60) as client:
        for name, fields in cases:
            hello = [{"role": "user", "content": "Hi"}]
            body = {"messages": hello, "max_tokens": 8, "temperature": 0, **fields}
            began = time.perf_counter()
            reply = client.post(f"{url}/v1/chat/completions", json=body)
            took = time.perf_counter() - began
            error = reply.json().get("error") or {}
            said = error.get("message", "")
            rows.append({"name": name, "status": reply.status_code, "s": took, "said": said})
    return rows


def gaps(url: str, beside: list[Case]) -> list[float]:
    """Milliseconds between the pieces of a stream, while somebody asks for ``beside`` again and again."""
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(_gaps, url)
        while beside and not stream.done():
            ask_all(url, beside)
        return stream.result()


def _gaps(url: str, tokens: int = 400) -> list[float]:
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    times = []
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=600) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return [1e3 * (b - a) for a, b in pairwise(times)]


def _show_gaps(name: str, found: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(found, n=100)
    told = {"p50": cuts[49], "p99": cuts[98], "max": max(found)}
    print(f"  {name:<34}" + "  ".join(f"{key} {value:7.1f} ms" for key, value in told.items()))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    url, told = options.url.rstrip("/"), {}

    asked = requests(growing(), options.requests)
    answers, here = served(url, asked), colocated(options.model, asked)
    ends = Counter(verdict(each, answer) for each, answer in zip(asked, answers, strict=True))
    same = sum(a == b for a, b in zip(answers, here, strict=True))
    print(f"{len(asked)} requests, schemas of 1 to 20 properties: {dict(ends)}; {same} the same colocated")
    told["bounded"] = {"requests": len(asked), "ends": ends, "same": same}

    asked = requests(UNBOUNDED, 2 * len(UNBOUNDED), 256)
    ends = Counter(verdict(each, answer) for each, answer in zip(asked, served(url, asked), strict=True))
    print(f"{len(asked)} requests, schemas that nothing bounds, 256 tokens: {dict(ends)}")
    told["unbounded"] = {"requests": len(asked), "ends": ends}

    print(BAR)
    told["masks"], told["steps"] = masks(options.model), steps(options.model)

    print(BAR)
    print("hostile grammars")
    rows = ask_all(url, HOSTILE)
    for row in rows:
        print(f"  {row['name']:<34}{row['status']}  {1e3 * row['s']:7.0f} ms  {row['said'][:70]}")
    told["hostile"], told["gaps"] = rows, {}
    for name, cases in (("alone", []), ("beside hostile", HOSTILE), ("beside harmless", HARMLESS)):
        told["gaps"][name] = _show_gaps(
            f"a stream {name} requests" if cases else "a stream alone", gaps(url, cases)
        )
    late = [row["name"] for row in rows if row["s"] > WANTED_S]
    refused = sum(row["status"] == 400 for row in rows)
    print(
        f"  {refused} of {len(rows)} refused, the others served; later than {WANTED_S:g} s: {late or 'none'}"
    )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
