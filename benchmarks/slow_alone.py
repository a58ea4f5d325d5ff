"""Clients that do not read, against the router by itself: ``slow_readers`` before stubs that compute nothing.

    python benchmarks/slow_alone.py [--seconds 60]

Each stream gets a token every --step-ms, those of the slow readers with 20 log-probabilities, so that what
they leave unread soon fills every buffer. Knows the pieces of other benchmarks; measures nothing itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import router_alone
from router_load import stub_nodes
from slow_readers import Found, measure


async def run(options: argparse.Namespace) -> Found:
    with router_alone.pagewire(options.port) as at:
        assert at.pid is not None
        word = await router_alone.word_of(at)
        with stub_nodes(at.mailbox, 8, word) as nodes:
            nodes.step_s = options.step_ms / 1000
            await router_alone.answers(f"{at.url}/ready")
            return await measure(at.url, at.pid, slow=options.slow, seconds=options.seconds)


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--slow", type=int, default=200, help="of each kind")
    words.add_argument("--seconds", type=float, default=60.0)
    words.add_argument("--step-ms", type=float, default=100.0, help="between two tokens of a stream")
    words.add_argument("--port", type=int, default=18990)
    options = words.parse_args()
    found = asyncio.run(run(options))
    print(found.line, "pass" if found.held else "FAIL", sep=": ")
    return 0 if found.held else 1


if __name__ == "__main__":
    sys.exit(main())
