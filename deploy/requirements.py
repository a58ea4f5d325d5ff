"""Print what pyproject.toml requires, a line each, with the extras that are named: ``requirements.py otel``.

The images install this before pagewire itself, so that a change of the code leaves that layer as it is.
``--without NAME`` leaves a package out.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path


def requirements(project: Path, extras: Sequence[str], without: Collection[str] = ()) -> list[str]:
    """Requirements of ``project``, a pyproject.toml, and its ``extras``. KeyError: no such extra."""
    told = tomllib.loads(project.read_text())["project"]
    lists = [told["dependencies"], *(told["optional-dependencies"][extra] for extra in extras)]
    return [line for lines in lists for line in lines if re.split(r"[^\w.-]", line)[0] not in without]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--without", action="append", default=[])
    args = parser.parse_args()
    print(*requirements(Path("pyproject.toml"), args.extras, args.without), sep="\n")
