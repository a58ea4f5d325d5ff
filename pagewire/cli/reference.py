"""docs/cli.md, written from the commands themselves: ``python -m pagewire.cli.reference > docs/cli.md``.

Knows the command tree as typer built it, and markdown. Nothing runs it while pagewire serves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from pagewire.cli.main import app

_HEAD = """# The command line

Written by `python -m pagewire.cli.reference`; do not edit.

An error that is yours to mend is one line on standard error, `pagewire: ...`, and exit code 2.
`pagewire serve` ends with 0 when it was asked to end, and with 1 when a process kept dying.

Spellings of vLLM are accepted where they mean the same: `--block-size`, `--kv-cache-memory-bytes`,
`--no-enable-prefix-caching`, underscores for dashes, and flags that ask for what pagewire does anyway
(`--tensor-parallel-size 1`). Those that ask for what it cannot do are refused with the reason.
"""


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    return _HEAD + "".join(_section(name, command) for name, command in _leaves(group))


def _leaves(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All commands that do something, with the words that call them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _section(name: str, command: Any) -> str:
    text = re.sub(r"\[/?bold\]", "**", inspect.cleandoc(command.help))
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    table = "\n| | default | |\n|---|---|---|\n" + "".join(rows) if rows else ""
    return f"\n## pagewire {name}\n\n{text}\n{table}"


def _row(parameter: Any) -> str:
    metavar = parameter.metavar or ""
    name = parameter.opts[0] if parameter.opts[0].startswith("-") else ""
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    if parameter.required:
        default = "required"
    env = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
    return f"| `{f'{name} {metavar}'.strip()}` | {default} | {parameter.help or ''}{env} |\n"


if __name__ == "__main__":
    print(page(), end="")
