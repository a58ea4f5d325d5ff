"""What was measured, put together: its columns and its sentences, as Markdown and as JSON.

Knows outcomes and verdicts; measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import Verdict
from benchmarks.gpu.conductor import Outcome
from benchmarks.gpu.events import Event
from benchmarks.gpu.rows import UNITS, Row, rows

MARK = "<!-- figures -->"  # what stands before it in the page is kept


@dataclass
class Report:
    title: str
    date: str
    driver: str = ""
    prove: bool = False
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return all(each.good for each in self.outcomes) and all(each.good for each in self.verdicts)

    def rows(self) -> list[Row]:
        return [row for outcome in self.outcomes for row in rows(outcome)]

    def about(self) -> str:
        about = next((each.about for each in self.outcomes if each.about), None)
        if about is None:
            return self.date
        versions = [f"{name} {about[name]}" for name in ("torch", "triton", "cuda", "python")]
        driver = [f"driver {self.driver}"] if self.driver else []
        return ", ".join([about["device"], *driver, *versions, self.date])

    def ceilings(self) -> str:
        """Each section has its own; the middle one, with the lowest and the highest."""
        parts = []
        for name, unit in UNITS.items():
            found = sorted(each.ceilings[name] for each in self.outcomes if name in each.ceilings)
            if found:
                spread = f" ({found[0]:.4g} to {found[-1]:.4g})" if len(found) > 1 else ""
                parts.append(f"{name} {found[len(found) // 2]:.4g}{spread} {unit}")
        missing = {name: why for each in self.outcomes for name, why in each.missing.items()}
        parts += [f"{name} not measured: {why[:80]}" for name, why in missing.items()]
        return "; ".join(parts) or "none"

    def summary(self) -> str:
        every = self.rows()
        wrong = sum(row.trouble.startswith("WRONG") for row in every)
        failed = sum(row.trouble.startswith("FAILED") for row in every)
        met = [row.met for row in every if row.target and not row.trouble]
        met += [reached for event in self._readings() for _, _, reached in _against(event)]
        unfinished = [each.name for each in self.outcomes if not each.finished]
        line = f"{len(every)} cases, {wrong} wrong, {failed} failed; targets: {met.count(True)} met, "
        line += f"{met.count(False)} missed, {met.count(None)} open; {self.seconds:.0f} s"
        return line + (f"; NOT FINISHED: {', '.join(unfinished)}" if unfinished else "")

    def hosts(self) -> dict[str, str]:
        """By kernel: microseconds of the host for a direct launch, and until its result is there."""
        return {
            event["kernel"]: f"{event['host_us']:.0f}/{event['alone_us']:.0f} us"
            for outcome in self.outcomes
            for event in outcome.results
            if "host_us" in event
        }

    def _readings(self) -> list[Event]:
        return [event for each in self.outcomes for event in each.results if "figures" in event]

    def sayings(self) -> Iterator[str]:
        """What else there is to say, a line each."""
        for event in self._readings():
            targets = {
                name: f" ({'met' if met else f'MISSED {most}'})" for name, most, met in _against(event)
            }
            figures = [
                f"{name} {_number(value)}{targets.get(name, '')}" for name, value in event["figures"].items()
            ]
            yield f"{event['kernel']} {event['shape']}: {', '.join(figures)}"
        for outcome in self.outcomes:
            if outcome.tuned:
                chosen = [each["chosen"] for each in outcome.tuned if each["chosen"]]
                gains = [f"{each['default_us'] / each['us']:.2f}x" for each in chosen]
                yield f"{outcome.name} tuned: {len(chosen)} of {len(outcome.tuned)} entries {' '.join(gains)}"
        for outcome in self.outcomes:
            yield from (f"{outcome.name}: {note}" for note in outcome.notes)
        yield from (f"{each.name}: {'' if each.good else 'NOT GOOD '}{each.line}" for each in self.verdicts)
        yield from self.notes


def markdown(report: Report, page: str) -> str:
    """``page`` with everything behind its mark replaced."""
    head = page.split(MARK)[0].rstrip() if MARK in page else f"# {report.title}"
    lines = [head, "", MARK, "", f"Measured: {report.about()}.", "", f"Ceilings: {report.ceilings()}.", ""]
    if report.prove:
        lines += ["**A proof on a CPU with tiny shapes: no time here means anything.**", ""]
    lines += [f"{report.summary()}.", ""]
    for outcome in report.outcomes:
        lines += [f"## {outcome.name}", ""]
        if table := rows(outcome):
            lines += [
                "| kernel | shape | us | rate | of ceiling | best peer | error | spread | target | peers |"
            ]
            lines += ["|---|---|---|---|---|---|---|---|---|---|"]
            lines += [_markdown_row(row) for row in table] + [""]
    hosts = [f"{kernel} {host}" for kernel, host in report.hosts().items()]
    launch = "The host's time for one direct launch / until its result is there: "
    if said := [*report.sayings(), *([launch + ", ".join(hosts)] if hosts else [])]:
        lines += ["## Beside the table", "", *(f"- {_escaped(line)}" for line in said), ""]
    return "\n".join(lines)


def _markdown_row(row: Row) -> str:
    if row.trouble:
        cells = [row.kernel, row.shape, f"**{row.trouble}**", *[""] * 7]
    else:
        cells = [
            row.kernel,
            row.shape,
            f"{row.us:.1f}{'*' * (row.how == 'direct')}{' t' * row.tuned}",
            f"{row.rate:.0f} {row.unit}" if row.rate >= 10 else f"{row.rate:.2g} {row.unit}",
            "" if row.share is None else f"{row.share:.0%}",
            "" if row.ratio is None else f"{row.ratio:.2f}x {row.peer}",
            "" if row.error is None else f"{row.error:.1e}",
            f"{row.spread:.1%}",
            row.target and f"{row.target}: {({True: 'met', False: 'missed', None: 'open'})[row.met]}",
            row.peers,
        ]
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def results(report: Report) -> dict[str, Any]:
    return {
        "title": report.title,
        "date": report.date,
        "driver": report.driver,
        "proof": report.prove,
        "seconds": report.seconds,
        "good": report.good,
        "sections": [
            {name: getattr(each, name) for name in each.__dataclass_fields__} for each in report.outcomes
        ],
        "checks": [{"name": each.name, "good": each.good, "line": each.line} for each in report.verdicts],
        "notes": report.notes,
    }


def tuned_file(report: Report, present: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The name and content of the table of launch parameters, ``present`` with the new entries; None if there
    are none."""
    about = next((each.about for each in report.outcomes if each.about), None)
    chosen = [event["chosen"] for each in report.outcomes for event in each.tuned if event["chosen"]]
    if about is None or not chosen:
        return None
    kernels: dict[str, list[dict[str, Any]]] = {
        name: list(old) for name, old in present.get("kernels", {}).items()
    }
    for each in chosen:
        entries = kernels.setdefault(each["kernel"], [])
        entries[:] = [entry for entry in entries if entry["shape"] != each["shape"]]
        numbers = {name: round(each[name], 2) for name in ("us", "default_us")}
        stamp = {"measured": report.date, "triton": about["triton"]}
        entries.append({"shape": each["shape"], "use": each["use"], **numbers, **stamp})
    head = {"device": about["device"], "triton": about["triton"], "measured": report.date}
    return about["table"], {**head, "kernels": kernels}


def write(report: Report, out: Path, page: Path, table_folder: Path) -> None:
    """Whatever is known by now: called after each section, so that an end from outside costs the the rest."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results(report), indent=1) + "\n")
    (out / "gpu.md").write_text(markdown(report, page.read_text() if page.exists() else ""))
    about = next((each.about for each in report.outcomes if each.about), {})
    present = table_folder / about.get("table", "none")
    tuned = tuned_file(report, json.loads(present.read_text()) if present.exists() else {})
    if tuned is not None:
        (out / tuned[0]).write_text(json.dumps(tuned[1], indent=1) + "\n")


def _against(reading: Event) -> list[tuple[str, float, bool]]:
    """A reading's targets, and whether they were met."""
    figures = reading["figures"]

    def met(name: str, most: float) -> bool:
        return isinstance(figures.get(name), float | int) and figures[name] <= most

    return [(name, most, met(name, most)) for name, most in reading.get("at_most", {}).items()]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
