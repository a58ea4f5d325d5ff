"""Members in a real redis: found, refreshed, fenced, and unmoved by whatever becomes of redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from members import KEY, ROUTER_A, Member, member, record
from real_redis import RedisServer, until

from pagewire.membership.record import MAX_BYTES, key_of, read, sign
from pagewire.membership.store import Store, connected
from pagewire.membership.url import parse
from pagewire.messages import DECODE, ROUTER

ROUTER_B = record(name="b", epoch="e2", address="tcp://10.0.0.2:7500")
NODE = record(kind=DECODE, name="d", epoch="e3", address="tcp://10.0.0.3:7600")
A, NAMES = "pagewire:{c}:router:a", "pagewire:{c}:names:router"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagewire.membership.redis_registry.REFRESH_S", 0.2)


def test_members_see_each_other_come_and_go_at_once(server: RedisServer) -> None:
    with member(server, NODE) as node:
        node.sees()
        with member(server, ROUTER_A), member(server, ROUTER_B):
            node.sees("a", "b", within=2.0)  # half of the shortest time between two refreshes
        node.sees(within=2.0)
    assert server.do("KEYS", "*") == []


def test_a_record_stands_for_fifteen_seconds_by_redis_s_own_clock(server: RedisServer) -> None:
    with member(server, ROUTER_A) as one:
        one.sees("a")
        assert 14_000 < server.do("PTTL", A) <= 15_000
        found = read(server.do("GET", A), KEY)
        seconds, _ = server.do("TIME")
    assert abs(found.generation / 1e6 - seconds) < 5
    assert (found.name, found.epoch, found.address) == ("a", "e1", "tcp://10.0.0.1:7500")


def test_it_is_refreshed(server: RedisServer, quick: None) -> None:
    with member(server, ROUTER_A) as one:
        one.sees("a")
        server.do("PEXPIRE", A, 300)
        one.looks_again()
        assert server.do("PTTL", A) > 10_000


def test_one_that_died_ends_by_itself(server: RedisServer, quick: None) -> None:
    with member(server, NODE) as node, member(server, ROUTER_A) as dying:
        node.sees("a")
        dying.registry._fenced = True  # so it does not refresh any more
        server.do("PEXPIRE", A, 200)
        node.sees()
        assert server.do("SCARD", NAMES) == 0


def test_another_cluster_in_the_same_redis_is_not_seen(server: RedisServer) -> None:
    with member(server, record(cluster="other")), member(server, ROUTER_A) as one:
        one.sees("a")
        one.looks_again(0)
        assert one.registry.refused == 0


# --- what is not ours ---------------------------------------------------------------------------------------


def write(server: RedisServer, name: str, *command: object) -> None:
    key = f"pagewire:{{c}}:router:{name}"
    verb, *rest = command
    server.do(verb, key, *rest)
    server.do("SADD", NAMES, name)


def test_what_the_cluster_did_not_sign_for_that_place_does_not_exist(
    server: RedisServer, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    write(server, "forged", "SET", sign(record(name="forged"), key_of(b"t" * 32)))
    write(server, "copied", "SET", sign(ROUTER_B, KEY))
    write(server, "foreign", "SET", sign(record(cluster="other", name="foreign"), KEY))
    write(server, "large", "SET", b"x" * (MAX_BYTES + 1))
    write(server, "list", "RPUSH", "x")
    write(server, "empty", "SET", b"")
    server.do("SADD", NAMES, b"\xff" * 100_000, b"nobody")
    with member(server, ROUTER_A, watch=(ROUTER, DECODE)) as one:
        one.sees("a")
        one.looks_again()
        assert (one.registry.refused, one.registry.counts) == (5, {ROUTER: 1})
        write(server, "forged", "SET", b"once more")
        until(lambda: one.registry.refused == 6)
    assert "refused the record of router" in caplog.text
    kept = set(server.do("SMEMBERS", NAMES))
    assert kept == {b"forged", b"copied", b"foreign", b"large", b"list"}


def test_what_is_too_long_does_not_even_come_over_the_wire(server: RedisServer) -> None:
    write(server, "large", "SET", b"x" * (MAX_BYTES + 1))
    with connected(parse(server.url)) as client:
        store = Store(client, "c")
        assert [(entry.name, entry.signed) for entry in store.list(ROUTER)] == [("large", b"")]
        assert len(store.get(ROUTER, "large")) == MAX_BYTES + 1  # which is enough to see that it is no record


def test_whatever_stands_at_our_key_is_replaced(server: RedisServer) -> None:
    write(server, "a", "RPUSH", "x")
    with member(server, ROUTER_A) as one:
        one.sees("a")


# --- lives --------------------------------------------------------------------------------------------------


def test_a_restarted_process_takes_its_name_and_the_former_life_gives_way(
    server: RedisServer, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    with member(server, ROUTER_A) as zombie:
        zombie.sees("a")
        with member(server, record(epoch="e9")) as newer:
            until(lambda: [found.epoch for found in zombie.seen] == ["e9"])
            server.do("DEL", A)  # also where the older one is the first to find nothing there
            newer.looks_again(4)
            zombie.looks_again(4)
            assert read(server.do("GET", A), KEY).epoch == "e9"
        assert "a newer process has announced itself as router a" in caplog.text
    assert server.do("EXISTS", A) == 0


def test_a_clock_that_went_back_does_not_make_a_newer_life_the_older(
    server: RedisServer, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ahead:
        ahead.setattr(Store, "now_us", lambda store: (int(time.time()) + 3600) * 1_000_000)
        zombie = Member(server.url, ROUTER_A)
        zombie.sees("a")
    with member(server, record(epoch="e9")) as newer:
        until(lambda: [found.epoch for found in newer.seen] == ["e9"])
        zombie.looks_again(4)
        newer.looks_again(4)
        assert [found.epoch for found in newer.seen] == ["e9"]
    zombie.registry.leave()


def test_leaving_takes_nobody_else_s_record_away(server: RedisServer) -> None:
    with member(server, ROUTER_A) as one:
        until(lambda: one.looks == 2)  # it heard of its own announcement, and now waits
        server.do("SET", A, b"another's")
    assert server.do("GET", A) == b"another's"


# --- what redis may do --------------------------------------------------------------------------------------


def test_it_begins_before_there_is_a_redis(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.kill()
    with member(server, ROUTER_A) as one:
        until(lambda: "is away" in caplog.text)
        assert not one.registry.up
        server.start()
        one.sees("a", within=10.0)
        assert one.registry.up
    assert "is back after" in caplog.text


def test_a_redis_that_died_and_came_back_empty_is_filled_again(server: RedisServer) -> None:
    with member(server, ROUTER_A) as one, member(server, ROUTER_B) as two:
        one.sees("a", "b")
        server.kill()
        until(lambda: not one.registry.up and not two.registry.up)
        assert one.names() == {"a", "b"}  # nobody was told otherwise
        server.start()
        looks = one.looks
        until(lambda: one.looks > looks and one.names() == {"a", "b"}, 10.0)
        assert server.do("EXISTS", A) == 1


def test_an_emptied_redis_is_filled_again(server: RedisServer, quick: None) -> None:
    with member(server, ROUTER_A) as one, member(server, ROUTER_B) as two:
        two.sees("a", "b")
        server.do("FLUSHALL")
        until(lambda: server.do("EXISTS", A, "pagewire:{c}:router:b") == 2)
        one.sees("a", "b")


def test_a_redis_that_stands_still_stops_nobody(
    server: RedisServer, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagewire.membership.store.ANSWER_S", 0.3)
    with member(server, ROUTER_A) as one, member(server, NODE) as node:
        one.sees("a")
        node.sees("a")
        server.stop()
        until(lambda: not one.registry.up)
        time.sleep(1.5)
        assert node.names() == {"a"}
        begun = time.monotonic()
        node.registry.leave()
        assert time.monotonic() - begun < 2.5
        server.go_on()
        until(lambda: one.registry.up)
        one.sees("a")


def test_a_subscription_that_was_cut_is_made_again(server: RedisServer, quick: None) -> None:
    with member(server, ROUTER_A) as one:
        one.sees("a")
        server.do("CLIENT", "KILL", "TYPE", "pubsub")
        one.looks_again()
        with member(server, ROUTER_B):
            one.sees("a", "b")


def test_the_rights_that_the_documents_tell_to_give_are_enough(server: RedisServer, quick: None) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/hosts.md").read_text()
    rights = page.partition("user pagewire")[2].partition("```")[0].replace(">PASSWORD", ">pw").split()
    server.do("ACL", "SETUSER", "pagewire", *rights)
    url = server.url.replace("//", "//pagewire:pw@")
    with member(url, NODE) as node:
        with member(url, ROUTER_A):
            node.sees("a")
        node.sees()
    assert server.do("KEYS", "*") == []
    with pytest.raises(redis.exceptions.NoPermissionError), redis.Redis.from_url(url) as client:
        client.set("other", 1)


def test_a_password_is_in_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        server.do("CONFIG", "SET", "requirepass", "hush-hush")
        right, wrong = (server.url.replace("//", f"//:{word}@") for word in ("hush-hush", "hush-wrong"))
        with member(wrong, ROUTER_A), member(right, ROUTER_B) as two:
            two.sees("b")
            until(lambda: "is away" in caplog.text)
    assert "hush" not in caplog.text
