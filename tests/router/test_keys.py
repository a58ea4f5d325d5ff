from __future__ import annotations

import logging
from pathlib import Path

import pytest
from conftest import KEY, World, running

from pagewire.errors import ConfigError
from pagewire.text.tokenizer import Tokenizer
from router.keys import LOOK_S, KeyRing, read_keys, ring_of, salt_of
from router.options import RouterOptions


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def options(**more: object) -> RouterOptions:
    return RouterOptions(model="demo", mailbox="inproc://x", **more)  # type: ignore[arg-type]


# --- the file -----------------------------------------------------------------------------------------------


def test_lines_are_keys_and_may_name_a_tenant(tmp_path: Path) -> None:
    ring = KeyRing(file=key_file(tmp_path, "# who\nalice: sk-1\n\nsk-2  # somebody\nalice:sk-3\n"))
    assert [ring.tenant(f"Bearer sk-{n}") for n in (1, 3)] == ["alice", "alice"]
    assert ring.tenant("Bearer sk-2") not in ("alice", "", None)
    assert ring.tenant("Bearer sk-4") is None


@pytest.mark.parametrize("line", ["a b: k", ": k", "a:", "two words", "a: k:k", "a" * 65 + ": k", "a\x07b"])
def test_a_line_that_is_no_key_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="line 2 ") as error:
        read_keys(key_file(tmp_path, f"good\n{line}\n"))
    assert line not in str(error.value)


@pytest.mark.parametrize("text", ["", "# nobody\n"])
def test_a_file_without_keys_lets_nobody_in(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="1 to 4096 keys"):
        read_keys(key_file(tmp_path, text))


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        KeyRing(file=key_file(tmp_path, "sk", mode=0o640))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyRing(file=tmp_path / "none")


# --- changes ------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_changed_file_counts_within_a_second(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(["given"], key_file(tmp_path, "old"), clock)
    key_file(tmp_path, "newer")
    assert ring.tenant("Bearer old") is not None  # not yet looked at
    clock.now += LOOK_S
    assert ring.tenant("Bearer old") is None
    assert ring.tenant("Bearer newer") is not None
    assert ring.tenant("Bearer given") is not None


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("new", 0o644), ("a b", 0o600)])
def test_a_change_that_is_wrong_leaves_all_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, mode: int
) -> None:
    clock = Clock()
    ring = KeyRing(file=key_file(tmp_path, "old"), clock=clock)
    key_file(tmp_path, text, mode)
    clock.now += LOOK_S
    assert ring.tenant("Bearer old") is not None
    assert "stay as they were" in caplog.text


def test_a_file_that_went_away_takes_no_key_with_it(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(file=key_file(tmp_path, "old"), clock=clock)
    (tmp_path / "keys").unlink()
    clock.now += LOOK_S
    assert ring.tenant("Bearer old") is not None


# --- who may start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org"])
def test_no_door_is_open_to_other_hosts_by_accident(host: str) -> None:
    with pytest.raises(ConfigError, match="--api-key-file, or --insecure"):
        ring_of(options(host=host))


@pytest.mark.parametrize(
    "more",
    [{"host": "0.0.0.0", "insecure": True}, {"host": "::", "api_keys": ("k",)}, {"host": "::1"}, {}],
)
def test_what_may_start(more: dict[str, object]) -> None:
    ring_of(options(**more))


# --- tenants ------------------------------------------------------------------------------------------------


def test_tenants_share_no_salt() -> None:
    pairs = [("", None), ("", "s"), ("a", None), ("a", ""), ("a", "s"), ("b", "s"), ("a", "s" * 500)]
    salts = [salt_of(*pair) for pair in pairs]
    assert len({salt for salt in salts if salt}) == 5  # ("a", None) and ("a", "") are the same
    assert salts[0] == ""
    assert all(len(salt) < 200 for salt in salts)


async def test_the_salt_of_a_request_is_its_tenant_s(locked: World) -> None:
    for key in (KEY, "sk-other"):
        reply = await locked.http.post(
            "/v1/completions",
            json={"prompt": "x", "cache_salt": "mine"},
            headers={"authorization": f"Bearer {key}"},
        )
        assert reply.status_code == 200
    one, other = (request.cache_salt for request in locked.cluster.requests())
    assert one != other
    assert one.endswith("/mine")


async def test_refused_keys_are_noted_once_a_second_and_not_shown(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="pagewire.router")
    async with running(World(tokenizer, api_keys=("right",)), "prefill-0", "decode-0") as world:
        for _ in range(5):
            await world.http.get("/v1/models", headers={"authorization": "Bearer sk-guess"})
    lines = [record.getMessage() for record in caplog.records if "no valid API key" in record.getMessage()]
    assert len(lines) == 1
    assert "/v1/models" in lines[0]
    assert "sk-guess" not in caplog.text
