"""Model checking of the handoff: all states of a small world, and bugs put in on purpose that must be found.

    python tests/kv_transfer/model_check.py             the quick worlds and the bugs
    python tests/kv_transfer/model_check.py --large     the large worlds too: two minutes
    python tests/kv_transfer/model_check.py --shells    the real Sender and Receiver, every order of steps
    python tests/kv_transfer/model_check.py --mutants   every small change of every rule: two minutes
    python tests/kv_transfer/model_check.py --mutants --part 1/4    a quarter of them
    python tests/kv_transfer/model_check.py --bug NAME  the shortest trace to one of the bugs

Knows which worlds are searched; how is in ``handoff_model``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from handoff_model.bugs import BUGS
from handoff_model.mutants import Hunt, tally
from handoff_model.search import Result, search
from handoff_model.shells import LARGE_SHELLS, SHELLS, search_shells
from handoff_model.sides import Config
from handoff_model.world import World
from tqdm import tqdm

QUICK: Sequence[Config] = (
    Config(name="2 parts, retracts, prefix hits, unfit", haves=(0, 1), retracts=True, unfit=True),
    Config(name="3 parts, credit for 2, retracts", parts=3, credit=2, retracts=True),
    Config(name="1 part, damage, sender dies", parts=1, damage=True, sender_may_die=True),
    Config(name="1 part, receiver dies and comes back", parts=1, receiver_lives=2),
    Config(name="1 part, tombstones forgotten", parts=1, forgets=True),
)
LARGE: Sequence[Config] = (
    Config(name="2 parts, damage, sender dies, retracts", damage=True, sender_may_die=True, retracts=True),
    Config(
        name="2 parts, receiver dies, prefix hits, retracts", receiver_lives=2, haves=(0, 1), retracts=True
    ),
    Config(name="1 part, receiver dies, damage", parts=1, receiver_lives=2, damage=True),
    Config(name="1 part, receiver dies, forgotten", parts=1, receiver_lives=2, forgets=True),
    Config(name="1 part, receiver dies twice", parts=1, receiver_lives=3),
    Config(name="4 parts, credit for 2, prefix hits", parts=4, credit=2, haves=(0, 1, 3), retracts=True),
)


def check(worlds: Sequence[Config]) -> list[Result]:
    print(f"{'world':50} {'states':>9} {'transitions':>11} {'depth':>5} {'seconds':>7}  violation")
    results = []
    for config in worlds:
        result = search(World(config))
        results.append(result)
        _print(config.name, result)
    return results


def _print(name: str, result: Result) -> None:
    numbers = f"{result.states:9} {result.transitions:11} {result.depth:5} {result.seconds:7.1f}"
    print(f"{name:50} {numbers}  {result.wrong or 'none'}", flush=True)


def hunt() -> bool:
    """Search with each bug; True if all are found, each for what it is."""
    print(f"\n{'bug put in':50} {'found':>5} {'steps':>5} {'seconds':>7}  what the search says")
    found_all = True
    for bug in BUGS:
        result = bug.hunt()
        found = bug.found in result.wrong
        found_all &= found
        print(f"{bug.name:50} {found!s:>5} {len(result.trace):5} {result.seconds:7.1f}  {result.wrong}")
    return found_all


def mutate(part: tuple[int, int]) -> bool:
    """Search with every small change of a rule; True if all are found."""
    began = time.monotonic()
    result = tally(
        Hunt(), part=part, watch=lambda mutants: tqdm(mutants, "mutants", disable=None, leave=False)
    )
    seconds, found = time.monotonic() - began, result.mutants - len(result.survivors)
    print(f"\n{result.used} of {result.rules} rules are used; {found} of {result.mutants} mutants are found,")
    print(f"in {result.states} states and {seconds:.0f} seconds")
    for mutant in result.survivors:
        print(f"  not found: {mutant}")
    return not result.survivors


def _part(text: str) -> tuple[int, int]:
    k, n = map(int, text.split("/"))
    if not 1 <= k <= n:
        raise ValueError
    return k, n


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for flag in ("--large", "--shells", "--mutants"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="of the mutants")
    parser.add_argument("--bug", choices=[bug.name for bug in BUGS])
    args = parser.parse_args()
    if args.bug:
        print(next(bug for bug in BUGS if bug.name == args.bug).hunt().story())
        return 0
    results = check([*QUICK, *LARGE] if args.large else QUICK)
    if args.shells:
        for config in [*SHELLS, *LARGE_SHELLS]:
            results.append(search_shells(config))
            _print(config.name, results[-1])
    for result in results:
        if result.wrong:
            print(result.story())
    found_all = hunt()
    if args.mutants:
        found_all &= mutate(args.part)
    return int(any(result.wrong for result in results) or not found_all)


if __name__ == "__main__":
    sys.exit(main())
