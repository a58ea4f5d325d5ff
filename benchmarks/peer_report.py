"""Tables and JSON of what was measured: medians with their spread, and pagewire's ratios to each peer.

Knows figures by name, and which way each is better; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from measure import Middle, table
from peer_figures import Figures, against, best

# name of a figure -> its title, what it is multiplied by, decimals, and whether more is better
SHOWN: dict[str, tuple[str, float, int, bool]] = {
    "prefill": ("prefill, tokens/s", 1, 0, True),
    "decode_1": ("decode at 1, tokens/s", 1, 0, True),
    "decode_8": ("at 8", 1, 0, True),
    "decode_32": ("at 32", 1, 0, True),
    "tokens_per_s": ("output tokens/s", 1, 0, True),
    "kept": ("of quiet", 1, 2, True),
    "ttft_p50": ("TTFT p50, ms", 1000, 0, False),
    "tpot_p50": ("TPOT p50, ms", 1000, 1, False),
    "itl_p50": ("ITL p50, ms", 1000, 0, False),
    "itl_p99": ("ITL p99, ms", 1000, 0, False),
    "itl_max": ("ITL max, ms", 1000, 0, False),
    "long_ttft_p50": ("TTFT p50 of the long, ms", 1000, 0, False),
    "requests_per_s": ("requests/s", 1, 2, True),
}
NOTED = ("failed", "broken", "long_unanswered", "other_prompts")  # to be seen where they are not zero

BEST = "the best of them"

Rounds = Mapping[str, Sequence[Figures]]  # system -> one a round


def with_kept(results: Mapping[str, Rounds]) -> dict[str, dict[str, list[Figures]]]:
    """The same, and what the streams kept of their quiet tokens/s in the same round."""
    quiet = results.get("quiet", {})
    return {
        case: {name: list(_kept(found, quiet.get(name, ()))) for name, found in rounds.items()}
        for case, rounds in results.items()
    }


def _kept(found: Sequence[Figures], quiet: Sequence[Figures]) -> Iterator[Figures]:
    for number, figures in enumerate(found):
        base = quiet[number]["tokens_per_s"] if number < len(quiet) and figures is not quiet[number] else 0.0
        yield figures | ({"kept": figures["tokens_per_s"] / base} if base else {})


def show(case: str, rounds: Rounds, ours: Sequence[str]) -> str:
    """One table of figures, and, where there is a peer, one of ratios."""
    names = [name for name in SHOWN if any(name in f for found in rounds.values() for f in found)]
    titles = [SHOWN[name][0] for name in names]
    lines = [
        [system, *(_cell(found, name) for name in names), _others(found), _notes(found)]
        for system, found in rounds.items()
    ]
    parts = [table([case, *titles, "others", "notes"], lines)]
    ratios = [
        [f"{mine} / {peer}", *(_ratio(found.get(name)) for name in names)]
        for (mine, peer), found in all_ratios(rounds, ours).items()
    ]
    return "\n\n".join([*parts, table(["ratio", *titles], ratios)] if ratios else parts)


def all_ratios(rounds: Rounds, ours: Sequence[str]) -> dict[tuple[str, str], dict[str, Middle]]:
    """(one of ours, a peer) -> figure -> ratio. BEST is, figure by figure, the peer with the best median."""
    peers = {name: found for name, found in rounds.items() if name not in ours}
    found: dict[tuple[str, str], dict[str, Middle]] = {}
    for mine in (name for name in ours if name in rounds):
        for peer in (*peers, *([BEST] if len(peers) > 1 else [])):
            for what, (_, _, _, more_is_better) in SHOWN.items():
                other = best(peers, what, more_is_better) if peer == BEST else peer
                ratio = against(rounds[mine], rounds[other], what) if other else None
                if ratio is not None:
                    found.setdefault((mine, peer), {})[what] = ratio
    return found


def as_json(results: Mapping[str, Rounds], ours: Sequence[str]) -> dict[str, object]:
    return {
        case: {
            "rounds": {name: list(found) for name, found in rounds.items()},
            "ratios": {
                f"{mine} / {peer}": {what: ratio.json() for what, ratio in found.items()}
                for (mine, peer), found in all_ratios(rounds, ours).items()
            },
        }
        for case, rounds in results.items()
    }


def _cell(found: Sequence[Figures], name: str) -> str:
    values = sorted(f[name] for f in found if name in f)
    if not values:
        return "-"
    _, times, decimals, _ = SHOWN[name]
    middle, low, high = (f"{x * times:,.{decimals}f}" for x in (median(values), values[0], values[-1]))
    return middle if len(values) == 1 else f"{middle} [{low}, {high}]"


def _ratio(found: Middle | None) -> str:
    if found is None:
        return "-"
    spread = f" [{found.low:.2f}, {found.high:.2f}]" if found.count > 1 else ""
    return f"{found.median:.2f}x{spread}"


def _others(found: Sequence[Figures]) -> str:
    return f"{max((f['others'] for f in found if 'others' in f), default=0.0):.2f}"


def _notes(found: Sequence[Figures]) -> str:
    """Counts over all rounds."""
    counts = {name: sum(f.get(name, 0.0) for f in found) for name in NOTED}
    return ", ".join(f"{count:.0f} {name.replace('_', ' ')}" for name, count in counts.items() if count)
