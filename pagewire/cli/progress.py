"""What people see while ``pagewire serve`` starts and runs: bars on a terminal, plain lines elsewhere.

Knows names, numbers and text; knows no process. Progress goes to standard output, logs to standard error.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pagewire import logs, status


class PlainView:
    """One line an event, for pipes and log files. Loading is said a quarter at a time."""

    def __init__(self) -> None:
        self._quarters: dict[str, int] = {}

    def loading(self, name: str, event: status.Loading) -> None:
        quarter = 4 * event.done // max(1, event.total)
        if quarter > self._quarters.get(name, 0):
            print(f"{name}: loading, {25 * quarter}%", flush=True)
        self._quarters[name] = quarter

    def ready(self, name: str, pid: int, event: status.Ready) -> None:
        facts = "".join(f", {key} {value}" for key, value in event.facts.items())
        print(f"{name}: ready, pid {pid}{facts}", flush=True)

    def log(self, name: str, line: str) -> None:
        print(f"[{name}] {line}", file=sys.stderr, flush=True)

    def restarting(self, name: str, ended: str, delay: float) -> None:
        print(f"pagewire: {name} {ended}; starting it again in {delay:g} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to take off the screen."""


class BarView(PlainView):
    """A bar for each child until all are ready, then the same lines as PlainView."""

    def __init__(self, names: list[str], console: Console | None = None) -> None:
        super().__init__()
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        # While the bars are up, rich prints what goes to standard error above them.
        self._progress: Progress | None = Progress(*columns, console=console, transient=True)
        self._bars: dict[str, TaskID] = {name: self._progress.add_task(name, total=None) for name in names}
        self._progress.start()

    def loading(self, name: str, event: status.Loading) -> None:
        if self._progress is not None:
            self._progress.update(self._bars[name], completed=event.done, total=event.total)

    def ready(self, name: str, pid: int, event: status.Ready) -> None:
        if self._progress is None:
            super().ready(name, pid, event)
        else:
            self._progress.update(self._bars[name], completed=1, total=1)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class JsonView(PlainView):
    """The log as JSON, an object a line; what a child says otherwise becomes one."""

    def log(self, name: str, line: str) -> None:
        whole = line if line.startswith("{") else logs.line(name, "info", line)
        print(whole, file=sys.stderr, flush=True)

    def restarting(self, name: str, ended: str, delay: float) -> None:
        text = f"{name} {ended}; starting it again in {delay:g} s"
        print(logs.line("pagewire", "warning", text), file=sys.stderr, flush=True)


def view_for(names: list[str], log_format: str = logs.TEXT) -> PlainView:
    """Bars if standard output is a terminal."""
    if log_format == logs.JSON:
        return JsonView()
    return BarView(names) if sys.stdout.isatty() else PlainView()
