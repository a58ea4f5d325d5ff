"""Prefill and decode as processes of their own on one card, as a client sees them: benchmarks/handoff.py with
made-up weights in the shape of Qwen3-0.6B.

How much of the transfer is exposed, and what it adds between the first token and the second. Needs what the
router needs (fastapi, uvicorn, pyzmq, ...) and httpx; without them it says so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import models
from benchmarks.gpu.case import Reading, World

ALONE = True
NEEDED = (
    *("fastapi", "uvicorn", "zmq", "msgpack", "xxhash", "pydantic", "prometheus_client", "gguf"),
    *("tokenizers", "typer", "rich", "httpx", "huggingface_hub", "jinja2"),
)
# Slow enough that its tokens come one by one, and with few that are a part of a character.
TINY = models.TINY | {
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 12,
}
BENCHMARKS = Path(__file__).parents[1]


def cases(world: World) -> Iterator[Reading]:
    transports = ("shm",) if world.tiny else ("shm", "tcp")
    for transport in transports:
        read = partial(apart, world, transport)
        yield Reading(kernel="prefill and decode apart, 0.6B", shape=transport, read=read)


def apart(world: World, transport: str) -> Mapping[str, float | int | str]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return {"not measured": "not installed here: " + ", ".join(missing)}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), TINY if world.tiny else models.QWEN3_06B)
        prompts, requests = ("16,40", "2") if world.tiny else ("512,2048,8192", "8")
        out = Path(folder) / "handoff.json"
        serve = f"--load-format dummy --transport {transport}"
        if world.tiny:
            serve += " --kv-cache-memory 16MiB"
        command = [sys.executable, str(BENCHMARKS / "handoff.py"), "--model", folder, "--serve", serve]
        command += ["--prompts", prompts, "--requests", requests, "--idle-only", "--json", str(out)]
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        paths = [str(BENCHMARKS.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
        return figures(json.loads(out.read_text())["rows"])


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for row in rows:
        at = f"at {row['prompt_tokens']}"
        for name in ("ttft", "ttst", "itl", "overhead", "exposed"):
            found[f"{name} ms {at}"] = row[name]["median"]
        found[f"hidden share {at}"] = row["hidden_share"]["median"]
    return found


def write_model(folder: Path, config: Mapping[str, Any]) -> None:
    """A config, and a tokenizer of bytes in which every id of the vocabulary has a text."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: config["vocab_size"]]
    vocab = {text: i for i, text in enumerate(alphabet)}
    vocab |= {f"<{i}>": i for i in range(len(alphabet), config["vocab_size"])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
