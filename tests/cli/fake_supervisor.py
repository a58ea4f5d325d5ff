"""A supervisor of small programs, as a process of its own.

argv[1] is JSON: ``{"children": {name: python source}, "grace": seconds, "max_failures": count}``. Prints
"all ready", and at the end "end CODE MESSAGE", between what the view prints.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pagewire.cli import restarts
from pagewire.cli.children import ChildSpec
from pagewire.cli.progress import PlainView
from pagewire.cli.supervisor import Supervisor


async def say_ready(pids: dict[str, int]) -> None:
    print("all ready", json.dumps(pids), flush=True)


async def supervise(world: dict[str, Any]) -> None:
    restarts.MAX_FAILURES = world["max_failures"]
    specs = [
        ChildSpec(
            name=name,
            argv=(sys.executable, "-c", source),
            options='{"answer": 42}',
            env={"OMP_NUM_THREADS": "3"},
        )
        for name, source in world["children"].items()
    ]
    end = await Supervisor(specs, PlainView(), say_ready, grace=world["grace"]).run()
    print("end", end.code, end.message, flush=True)


asyncio.run(supervise(json.loads(sys.argv[1])))
