from __future__ import annotations

import pytest

from pagewire.errors import ConfigError
from pagewire.membership.url import Host, addresses_of, has_password, parse, with_password


@pytest.mark.parametrize(
    ("url", "shown", "addresses"),
    [
        ("redis://h", "redis://h:6379/0", ("tcp://h:6379",)),
        ("redis://u:pw@h:1/2?ssl_ca_certs=x", "redis://h:1/2", ("tcp://h:1",)),
        ("rediss://[::1]:1", "rediss://[::1]:1/0", ("tcp://[::1]:1",)),
        (
            "redis+sentinel://:pw@a,b:2/m/3",
            "redis+sentinel://a:26379,b:2/m/3",
            ("tcp://a:26379", "tcp://b:2"),
        ),
        ("unix:///run/r.sock?db=1", "unix:///run/r.sock", ("tcp://localhost:0",)),
    ],
)
def test_addresses_of_a_directory(url: str, shown: str, addresses: tuple[str, ...]) -> None:
    assert (parse(url).shown, parse(url).addresses) == (shown, addresses)


def test_sentinels_know_a_master_by_name() -> None:
    found = parse("rediss+sentinel://u:p%40@a:1,[::1]:2/my%20master/3?ssl_cert_reqs=none")
    assert (found.hosts, found.master) == ((Host("a", 1), Host("::1", 2)), "my master")
    assert found.plain == "rediss://u:p%40@a:1/3?ssl_cert_reqs=none"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:6379",
        "http://secret@h",
        "redis://",
        "redis://:secret@",
        "redis://:secret@h:port",
        "redis://:secret@h/x",
        "redis://:secret@h/1/2",
        "redis://:secret@h/-1",
        "redis://:secret@a,b/0",
        "redis+sentinel://:secret@a:1",
        "redis+sentinel://:secret@a:1,/m",
        "redis+cluster://:secret@a:1/m",
        "redis://:secret@[::1",
        "redis://:secret@a..b",
        "unix://",
    ],
)
def test_others_are_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError, match="--registry: write it as redis://HOST:PORT/DB") as error:
        parse(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hush%21@h",
        "redis+sentinel://:hush%21@h/m?sentinel_password=hush",
        "redis://h?password=hush!",
    ],
)
def test_a_password_is_shown_nowhere(url: str) -> None:
    found = parse(url)
    assert has_password(url)
    assert "hush" not in repr(found) + found.shown
    assert found.without_secrets("AUTH hush! failed, hush%21") == "AUTH *** failed, ***"


def test_a_password_that_comes_in_a_file() -> None:
    assert with_password("redis://h:1/0", "a/b@c") == "redis://:a%2Fb%40c@h:1/0"
    assert with_password("redis://u@h:1/0", "p") == "redis://u:p@h:1/0"
    with pytest.raises(ConfigError, match="already") as error:
        with_password("redis://:hush@h", "p")
    assert "hush" not in str(error.value)


def test_nothing_leads_to_no_directory() -> None:
    assert addresses_of(None) == ()
