"""The rounds: each system in turn is started, warmed up, measured and stopped. Works out no figures."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import peer_loads
from measure import progress
from peer_client import Client, PeerFailed
from peer_figures import Figures, Search, Slo
from peer_processes import Others, serving
from peer_systems import System

Results = dict[str, dict[str, list[Figures]]]  # case -> system -> one a round
Load = Callable[[Client], Coroutine[Any, Any, Figures]]


@dataclass(slots=True)
class Rounds:
    """What was asked for, and what has been measured so far."""

    args: argparse.Namespace
    systems: list[System]
    results: Results = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """A system that fails is left out, with what it measured before."""
        for number in range(self.args.rounds):
            for system in self.systems:
                if system.name not in self.failed:
                    self._one(system, number)
        progress("")

    def _one(self, system: System, number: int) -> None:
        what = f"round {number + 1} of {self.args.rounds}, {system.name}"
        progress(f"{what}: starting")
        try:
            for case, figures in self._measured(system, self.args.seed + number, what):
                self.results.setdefault(case, {}).setdefault(system.name, []).append(figures)
        except PeerFailed as error:
            self.failed[system.name] = str(error)
            self._forget(system.name)
            progress("")
            print(f"{system.name} is left out: {error}", file=sys.stderr)

    def _forget(self, name: str) -> None:
        """Its rounds would not pair with those of the others."""
        for of_case in self.results.values():
            of_case.pop(name, None)

    def _measured(self, system: System, seed: int, what: str) -> Iterator[tuple[str, Figures]]:
        if self.args.case == "offline":
            assert system.offline is not None
            others = Others()
            figures = system.offline(seed)
            yield "offline", figures | {"others": others.cores()}
            return
        assert system.server is not None
        with ExitStack() as until:
            if system.scratch:
                system.scratch.mkdir()
                until.callback(shutil.rmtree, system.scratch)
            first = until.enter_context(serving(system.first, system.ready)) if system.first else None
            yield from self._served(
                until.enter_context(serving(system.server, system.ready)), first, seed, what
            )

    def _served(self, url: str, first: str | None, seed: int, what: str) -> Iterator[tuple[str, Figures]]:
        def say(text: str) -> None:
            progress(f"{what}: {text}")

        say("warming up")
        model = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"]
        asyncio.run(_with(url, first, model, partial(peer_loads.warm_up, seed=-1 - seed)))
        for case, load in loads(self.args, seed, say):
            others = Others()
            figures = asyncio.run(_with(url, first, model, load))
            yield case, figures | {"others": others.cores()}


async def _with(url: str, first: str | None, model: str, load: Load) -> Figures:
    client = Client(url, model, first)
    try:
        return await load(client)
    finally:
        await client.close()


def loads(args: argparse.Namespace, seed: int, say: peer_loads.Say) -> Iterator[tuple[str, Load]]:
    """The cases of a sub-command, in their order, and what each does with a client."""
    if args.case == "serve":
        for n in args.concurrency:
            many = max(args.waves * n, args.least)
            yield (
                f"{n} at a time",
                partial(peer_loads.serve, concurrency=n, requests=many, seed=seed, say=say),
            )
    elif args.case == "interference":
        for every in (0.0, *args.every):
            name = f"a long prompt every {every:g} s" if every else "quiet"
            yield (
                name,
                partial(peer_loads.interference, every=every, seconds=args.seconds, seed=seed, say=say),
            )
    else:
        yield (
            "rate",
            partial(
                peer_loads.rate,
                search=Search(args.least_rate, args.most_rate, args.factor),
                slo=Slo(args.ttft, args.tpot, args.share),
                seconds=args.seconds,
                least=args.least,
                seed=seed,
                say=say,
            ),
        )
