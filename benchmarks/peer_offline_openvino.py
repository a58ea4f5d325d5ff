"""OpenVINO GenAI's continuous batching, stepped by hand; run by its own Python.

peer_offline_openvino.py FOLDER SEED THREADS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import peer_steps
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig


class Stepped:
    def __init__(self, pipeline: ContinuousBatchingPipeline) -> None:
        self._pipeline = pipeline
        self._handles: list[Any] = []
        self._counts: list[int] = []
        self._next = 0

    def add(self, prompt: list[int], tokens: int) -> None:
        config = GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        ids = ov.Tensor(np.array([prompt], np.int64))
        self._handles.append(self._pipeline.add_request(self._next, ids, config))
        self._counts.append(0)
        self._next += 1

    def step(self) -> list[int]:
        self._pipeline.step()
        for i, handle in enumerate(self._handles):
            while handle.can_read():
                self._counts[i] += sum(len(output.generated_ids) for output in handle.read().values())
        return list(self._counts)

    def clear(self) -> None:
        for handle in self._handles:
            handle.cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._handles, self._counts = [], []


def main() -> None:
    folder, seed, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    scheduler = SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_batched_tokens = 2, 2048
    scheduler.enable_prefix_caching = False
    pipeline = ContinuousBatchingPipeline(folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
    print(json.dumps(peer_steps.rates(Stepped(pipeline), seed)))


if __name__ == "__main__":
    main()
