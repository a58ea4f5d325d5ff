"""vLLM without its server, stepped by hand; run by vLLM's own Python.

peer_offline_vllm.py FOLDER SEED [NAME=JSON ...]
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import peer_steps

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a step is a step of the engine, not a glance at its mail

from vllm import LLM, SamplingParams


class Stepped:
    def __init__(self, llm: LLM) -> None:
        self._engine = llm.llm_engine
        self._counts: dict[str, int] = {}

    def add(self, prompt: list[int], tokens: int) -> None:
        name = str(len(self._counts))
        self._counts[name] = 0
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        self._engine.add_request(name, {"prompt_token_ids": prompt}, params)

    def step(self) -> list[int]:
        for output in self._engine.step():
            self._counts[_name(output.request_id)] = len(output.outputs[0].token_ids)
        return list(self._counts.values())

    def clear(self) -> None:
        self._engine.abort_request(list(self._counts))
        while self._engine.has_unfinished_requests():
            self._engine.step()
        self._counts.clear()


def _name(request_id: str) -> str:
    return request_id.partition("-")[0]


def main() -> None:
    folder, seed, *options = sys.argv[1:]
    chosen: dict[str, Any] = {name: json.loads(value) for name, value in (o.split("=", 1) for o in options)}
    llm = LLM(folder, enable_prefix_caching=False, max_num_seqs=max(peer_steps.BATCHES), **chosen)
    print(json.dumps(peer_steps.rates(Stepped(llm), int(seed))))


if __name__ == "__main__":
    main()
