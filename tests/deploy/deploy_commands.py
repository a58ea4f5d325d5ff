"""Commands as images run them, parsed by pagewire's own command line, up to where the program would start.

Knows words and environments; knows neither compose nor Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pagewire.cli import addresses, main, roles

POD_IP = "127.0.0.9"


def known() -> set[str]:
    """The commands that there are."""
    return {info.name or info.callback.__name__ for info in main.app.registered_commands if info.callback}


def options_of(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """What the program would be started with. Fails the test if the command line refuses ``words``.

    ``folder`` stands for /run/secrets, and this host for all others.
    """
    if words[0] not in known() or not _has(words[0], "--registry"):
        pytest.skip(f"pagewire {words[0]} --registry is not here yet")
    ran: list[Any] = []
    monkeypatch.setattr(roles, "run", ran.append)
    monkeypatch.setattr(addresses, "free_port", lambda host, port: port)
    monkeypatch.setattr("os.environ", {name: _here(value, folder) for name, value in environment.items()})
    with pytest.raises(SystemExit) as end:
        main.app([_here(word, folder) for word in words])
    assert (end.value.code, len(ran)) == (0, 1)
    return ran[0]


def secrets_in(folder: Path) -> None:
    """Files as a secret has them, under the names that compose and the chart use."""
    for name in ("cluster", "cluster-secret", "api_keys", "api-keys"):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text("me: " + 40 * "k")


def _has(command: str, flag: str) -> bool:
    import typer

    return any(flag in param.opts for param in typer.main.get_command(main.app).commands[command].params)


def _here(word: str, folder: Path) -> str:
    word = word.replace("$(POD_IP)", POD_IP).replace("$(REDIS_PASSWORD)", "word")
    word = re.sub(r"/run/secrets/(pagewire/)?", f"{folder}/", word)
    return re.sub(r"^(redis\w*://)(:\w+@)?[\w.-]+:", r"\1\2127.0.0.1:", word)
