"""Whose are the import names that pagewire stands on: ours, or another distribution's?

pagewire installs several top-level packages, and some of these names are taken elsewhere (HuggingFace
publishes a ``kernels``, for one). Whichever lies first on the import path wins, and the other breaks in
strange ways. Knows import paths and installed distributions; imports none of the packages it looks at.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from pagewire.errors import ConfigError

NAMES = ("kernels", "kv_transfer", "prefill_node", "decode_node", "router", "planner")
DISTRIBUTION = "pagewire"


def check(*, thorough: bool = False) -> None:
    """Raises ConfigError if one of our import names belongs to somebody else.

    ``thorough`` also reads the file list of every installed distribution, to find one of another name that
    wrote over our files; that takes a moment, so only ``pagewire doctor`` asks for it.
    """
    home = Path(__file__).resolve().parent.parent
    for name in NAMES:
        found = _location(name)
        if found is None:
            raise ConfigError(f"the package {name} is missing beside pagewire; install pagewire again")
        if found != home / name:
            whose = _named("of", _owners(name))
            raise ConfigError(
                f"import {name} finds {found}{whose}, not pagewire's own {name}; {_advice(name)}"
            )
        if others := _installed_over(name, home, thorough=thorough):
            raise ConfigError(
                f"pagewire's {name} has been written over{_named('by', others)}; {_advice(name)}"
            )


def _location(name: str) -> Path | None:
    """The folder that ``import name`` would load, without loading it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def _installed_over(name: str, home: Path, *, thorough: bool) -> list[str]:
    """Other distributions that installed their ``name`` into the folder that holds ours."""
    candidates = _owners(name) if thorough else [name]
    return [
        candidate
        for candidate in candidates
        if candidate != DISTRIBUTION and _installed_in(candidate) == home and _writes(candidate, name)
    ]


def _installed_in(distribution: str) -> Path | None:
    try:
        return Path(str(metadata.distribution(distribution).locate_file(""))).resolve()
    except metadata.PackageNotFoundError:
        return None


def _writes(distribution: str, name: str) -> bool:
    return any(file.parts[0] == name for file in metadata.files(distribution) or [])


def _owners(name: str) -> list[str]:
    """Distributions that say they install the import name, in alphabetical order."""
    return sorted(set(metadata.packages_distributions().get(name, [])) - {DISTRIBUTION})


def _named(how: str, distributions: list[str]) -> str:
    return f" {how} the distribution {', '.join(distributions)}" if distributions else ""


def _advice(name: str) -> str:
    return (
        "give pagewire a virtual environment of its own, or uninstall the other, and do not run from "
        f"a folder that has a {name} of its own"
    )
