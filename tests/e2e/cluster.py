"""`pagewire serve` as a real command with real processes, for tests to use and to hurt."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from tiny import LLAMA

from pagewire.hub import resolve
from pagewire.text.tokenizer import load_tokenizer

START_S = 120.0
HANDS_OVER = ("--disaggregate", "always")  # even where a model is so small that it does not pay


def tiny_folder(folder: Path) -> Path:
    """A model that computes in no time and speaks the demo model's vocabulary; load it with dummy weights."""
    folder.mkdir(parents=True, exist_ok=True)
    demo = load_tokenizer(resolve("demo"))
    vocab = demo.vocab_size
    config = LLAMA | {"vocab_size": vocab, "max_position_embeddings": 4096, "eos_token_id": demo.eos_id}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(demo._backend.to_str())
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": template})
    )
    return folder


class Cluster:
    """One supervisor with its children. ``url`` is where it serves."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.log = tempfile.NamedTemporaryFile("w+", prefix="pagewire-test-", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pagewire.cli.main", "serve", *HANDS_OVER, *args, "--port", "0"],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.url = ""
        self.children: dict[int, psutil.Process] = {}

    def __enter__(self) -> Cluster:
        try:
            self.url = self.until(self._address, START_S)
            self.until(self.ready, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it as a user would, and hold it to leaving nothing behind."""
        self.note_children()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            left = [p for p in self.children.values() if p.is_running() and p.status() != "zombie"]
            with contextlib.suppress(psutil.NoSuchProcess):
                _, left = psutil.wait_procs(left, 5)
            for process in left:
                process.kill()
            self.log.close()
        assert not left, f"left behind: {left}"

    def output(self) -> str:
        return Path(self.log.name).read_text(errors="replace")

    def _address(self) -> str | None:
        found = re.search(r"http://127\.0\.0\.1:\d+", self.output())
        return found[0] if found else None

    def until(self, probe: Callable[[], Any], seconds: float) -> Any:
        """Ask until ``probe`` says something true. Fails with the server's output."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.output()
            if found := probe():
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s:\n{self.output()}")

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ready").status_code == 200
        return False

    # --- what it holds --------------------------------------------------------------------------------------

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Each node by its id, as /health tells."""
        return {node["node"]: node for node in httpx.get(f"{self.url}/health").json()["nodes"]}

    def pid(self, name: str) -> int:
        """The process of the child called ``name``, from the supervisor's own process table."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.cmdline()[-1] == name:
                    return child.pid
        raise LookupError(name)

    def note_children(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.children[child.pid] = child

    def kill(self, name: str) -> int:
        """kill -9, verified to have taken effect. Returns the dead process's id."""
        self.note_children()
        pid = self.pid(name)
        victim = psutil.Process(pid)
        victim.kill()
        psutil.wait_procs([victim], 5)
        assert not victim.is_running() or victim.status() == "zombie"
        return pid

    def gauges(self) -> dict[str, dict[str, float]]:
        """Every node's own gauges by node."""
        return {name: node["load"]["gauges"] for name, node in self.nodes().items()}

    def held(self) -> dict[str, float]:
        """What a quiet cluster must not hold, where it is not zero."""
        found: dict[str, float] = {}
        for name, node in self.nodes().items():
            load = node["load"]
            values = {key: load[key] for key in ("waiting", "running", "transfers", "queued_tokens")} | {
                key: load["gauges"].get(key, 0) for key in ("jobs", "landing", "live", "pages_leased")
            }
            found |= {f"{name}.{key}": value for key, value in values.items() if value}
            gauges = load["gauges"]
            if "pages_free" not in gauges:  # it is back and its first heartbeat is under way
                found[f"{name}.unreported"] = 1
                continue
            total = gauges["pages_free"] + gauges["pages_cached"] + gauges["pages_leased"]
            if total != load["pages_total"]:
                found[f"{name}.unaccounted"] = load["pages_total"] - total
        return found

    def until_nothing_is_held(self, seconds: float = 10.0) -> None:
        time.sleep(1.2)  # two heartbeats: what is read now was reported after the last request ended
        end = time.monotonic() + seconds
        while (held := self.held()) and time.monotonic() < end:
            time.sleep(0.2)
        assert not held, held

    def descriptors(self) -> dict[str, tuple[int, int]]:
        """Open files and threads of each child."""
        table = {}
        for child in psutil.Process(self.process.pid).children():
            table[child.cmdline()[-1]] = (child.num_fds(), child.num_threads())
        return table


def completion(url: str, **body: Any) -> dict[str, Any]:
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to [DONE]."""
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])
