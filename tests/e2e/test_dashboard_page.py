"""/dashboard in a real browser, over a real server that is busy.

``PAGEWIRE_SCREENSHOT`` is where a picture of it goes, if one is wanted (``make screenshot``): then there are
more nodes, and the load lasts longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chromium import Chromium, find
from cluster import Cluster

KEY = "sk-dashboard"
PICTURE = os.environ.get("PAGEWIRE_SCREENSHOT")
NODES = ("--prefill", "2", "--decode", "2", "--kv-cache-memory", "96MiB") if PICTURE else ()
WORDS = ("river", "stone", "cloud", "paper", "light", "road")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        find() is None and os.environ.get("CI") != "true",
        reason="no Chromium is installed (apt-get install chromium)",
    ),
]


def keep_busy(url: str, seed: int, stop: threading.Event) -> None:
    """One client after another, until ``stop``."""
    rng = random.Random(seed)
    with httpx.Client(timeout=120, headers={"authorization": f"Bearer {KEY}"}) as client:
        while not stop.is_set():
            text = f"{rng.random()} " + " ".join(rng.choice(WORDS) for _ in range(rng.choice((20, 60, 200))))
            body = {"messages": [{"role": "user", "content": text}], "stream": True}
            body |= {"max_tokens": rng.choice((16, 32, 64)), "stream_options": {"include_usage": True}}
            with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
                for _ in reply.iter_lines():
                    if stop.is_set():
                        break
            stop.wait(rng.random())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("demo", "--api-key", KEY, *NODES) as running:
        stop = threading.Event()
        clients = [
            threading.Thread(target=keep_busy, args=(running.url, seed, stop))
            for seed in range(6 if PICTURE else 3)
        ]
        for client in clients:
            client.start()
        try:
            yield running
        finally:
            stop.set()
            for client in clients:
                client.join()


@pytest.fixture(scope="module")
def page(cluster: Cluster) -> Iterator[Chromium]:
    """The dashboard, once its reader has given a key."""
    program = find()
    assert program is not None, "CI installs a Chromium"
    with Chromium(program) as browser:
        browser.look(1280, 800)
        browser.open(f"{cluster.url}/dashboard")
        browser.until("document.getElementById('key-dialog').open")
        browser.run(f"document.getElementById('key').value = {KEY!r}")
        browser.run("document.querySelector('#key-form button').click()")
        browser.until("document.documentElement.dataset.shown === 'tick'")
        yield browser


def test_every_node_has_a_card_with_its_pages(page: Chromium, cluster: Cluster) -> None:
    names = page.run("[...document.querySelectorAll('#fleet [data-node]')].map(card => card.dataset.node)")
    known = httpx.get(f"{cluster.url}/health", headers={"authorization": f"Bearer {KEY}"}).json()["nodes"]
    assert sorted(names) == sorted(["router", *(node["node"] for node in known)])
    captions = page.run("[...document.querySelectorAll('.lane-nodes .caption')].map(c => c.textContent)")
    assert all("pages" in caption for caption in captions)


def test_wires_lead_from_router_to_prefill_to_decode_and_back(page: Chromium) -> None:
    kinds = page.run("[...document.querySelectorAll('#wires path')].map(p => p.classList[1]).sort()")
    assert set(kinds) == {"w-request", "w-kv", "w-token"}
    page.until("document.querySelector('#wires .dot')")  # something travels


def test_charts_have_points_and_values(page: Chromium) -> None:
    page.until("Math.min(...[...document.querySelectorAll('[data-chart]')].map(c => c.dataset.points)) > 2")
    assert page.run("document.querySelectorAll('[data-chart] canvas').length") == 4
    page.until("/^p50 [0-9.]+ m?s/.test(document.querySelector('[data-chart] .chart-values').textContent)")


def test_ended_requests_are_bars_with_their_numbers(page: Chromium) -> None:
    page.until("document.querySelector('#waterfall .k-handoff')")
    page.run("void (window.row = document.querySelector('#waterfall .k-handoff').closest('.row'))")
    parts = page.run("[...row.querySelectorAll('i')].map(i => i.className)")
    assert parts == ["k-queue", "k-prefill", "k-handoff", "k-decode"]
    page.run("row.focus()")
    tip = page.run("document.getElementById('tip').textContent")
    assert "KV moved" in tip
    assert "prefill-" in tip


def test_the_chat_streams_an_answer_and_says_how_it_came(page: Chromium) -> None:
    page.run("document.getElementById('question').value = 'What is the capital of France?'")
    page.run("document.getElementById('ask').requestSubmit()")
    page.until("document.querySelector('.said.assistant')?.textContent.length > 3")
    page.until("document.querySelector('.how')", 90)
    assert "tokens/s" in page.run("document.querySelector('.how').textContent")
    assert len(page.run("document.querySelector('.said.assistant').textContent")) > 10


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_nothing_is_wider_than_the_window(page: Chromium, width: int, scheme: str) -> None:
    page.look(width, 844, scheme)
    page.until(f"document.documentElement.scrollWidth <= {width}")
    page.until("document.querySelectorAll('[data-chart] canvas').length === 4")
    page.look(1280, 800)


def test_the_browser_has_nothing_to_complain_of(page: Chromium) -> None:
    """No error in the console, and nothing that the page's policy forbids, but the question without a key."""
    assert [complaint for complaint in page.complaints if "401 (Unauthorized)" not in complaint] == []


def test_the_policy_forbids_what_somebody_might_slip_in(page: Chromium) -> None:
    """Which also shows that complaints would have been heard."""
    page.complaints.clear()
    page.run("window.script = document.createElement('script')")
    page.run("script.textContent = 'window.slipped = 1'")
    page.run("document.body.append(script)")
    page.until("true")
    assert page.run("window.slipped === undefined")
    assert "Content Security Policy" in "".join(page.complaints)


@pytest.mark.skipif(PICTURE is None, reason="no picture is asked for (PAGEWIRE_SCREENSHOT)")
def test_take_a_picture(page: Chromium) -> None:
    assert PICTURE is not None
    time.sleep(75)  # for charts that have something to tell
    page.run("document.getElementById('clear').click()")
    page.run("document.getElementById('question').value = 'Why is the sky blue?'")
    page.run("document.getElementById('ask').requestSubmit()")
    page.until("document.querySelector('.how')", 90)
    page.look(1280, page.run("document.documentElement.scrollHeight"))
    time.sleep(2.5)
    page.picture(Path(PICTURE))
