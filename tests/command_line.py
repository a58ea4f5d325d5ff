"""Runs ``pagewire`` commands in this process, as the shell would."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from pagewire.cli import main

Run = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Gives exit code, standard output and standard error of a command."""

    def run(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pagewire", *argv])
        with pytest.raises(SystemExit) as end:
            main.main()
        return (end.value.code or 0, *capsys.readouterr())  # type: ignore[return-value]

    return run
