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


def options_of(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """What the program would be started with. Fails the test if the command line refuses ``words``.

    ``folder`` stands for /run/secrets, and this host for all others.
    """
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
    for name in ("cluster", "api_keys", "redis_password", "cluster-secret", "api-keys", "redis-password"):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(40 * "k")


def _here(word: str, folder: Path) -> str:
    word = word.replace("$(POD_IP)", POD_IP)
    word = re.sub(r"\$\((\w+)\)", r"\1", word)  # names that Kubernetes fills in
    word = re.sub(r"/run/secrets/(pagewire/)?", f"{folder}/", word)
    return re.sub(r"^(redis://)[\w.-]+:", r"\g<1>127.0.0.1:", word)
