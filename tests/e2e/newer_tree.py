"""A copy of this tree as its next minor version might be: with more fields in messages and frames, and with a
message that this version does not know, which its processes keep sending.

Knows source text; runs nothing.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from kv_transfer import wire
from pagewire import __version__
from pagewire.versions import LEVEL, release_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pagewire", "kernels", "kv_transfer", "prefill_node", "decode_node", "router", "planner")
NEWER = f"{release_of(LEVEL + 1)}.0"

_ADDED = '    later: str = "said by a later version"\n    since: list[int] = field(default_factory=list)\n'
_MESSAGES = (
    "Hello", "Welcome", "Beat", "Load", "DecodeTarget", "PrefillRequest", "Cancel", "TokenItem", "Spans",
    "Tokens", "Failed", "PagesWanted", "PagesChanged", "Handoff", "FirstTokens",
)  # fmt: skip
_FRAMES = ("Reserve", "Grant", "Data", "Credit", "Commit", "Adopted")

# What only the later version knows, sent with every heartbeat.
_LATER = """

@dataclass(frozen=True, slots=True)
class Later:
    colour: str = "green"
"""
_TALK = """

from pagewire import messages as m
from pagewire.mailbox.node_thread import NodeThread
from pagewire.mailbox.sockets import try_send
from pagewire.messages import Beat

for _codec in (TO_ROUTER, TO_NODE):
    _codec.classes["Later"] = m.Later
_node_beat, _router_send = NodeThread._beat, RouterMailbox.send


def _beat_and_more(self: NodeThread, now: float) -> None:
    _node_beat(self, now)
    for wire in self._wires:
        if wire.line.joined:
            try_send(wire.socket, TO_ROUTER.encode(m.Later()))


def _send_and_more(self: RouterMailbox, peer: Peer, message: object) -> bool:
    if isinstance(message, Beat):
        _router_send(self, peer, m.Later())
    return _router_send(self, peer, message)


NodeThread._beat = _beat_and_more
RouterMailbox.send = _send_and_more
"""


def newer_tree(folder: Path) -> Path:
    """Make it in ``folder``."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    _replace(folder / "pagewire/versions.py", f'"{__version__}"', f'"{NEWER}"')
    messages = folder / "pagewire/messages.py"
    messages.write_text(_with_fields(messages.read_text(), _MESSAGES) + _LATER)
    with (folder / "pagewire/mailbox/__init__.py").open("a") as mailbox:
        mailbox.write(_TALK)
    frames = folder / "kv_transfer/wire.py"
    frames.write_text(_with_fields(frames.read_text(), _FRAMES))
    _replace(frames, "import dataclass\n", "import dataclass, field\n")
    old, new = (f"MAJOR, MINOR = {wire.MAJOR}, {minor}" for minor in (wire.MINOR, wire.MINOR + 1))
    _replace(frames, old, new)
    return folder


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old} in {path.name}"
    path.write_text(text.replace(old, new))


def _with_fields(source: str, classes: tuple[str, ...]) -> str:
    """``source`` with fields behind those of ``classes``, the last of the file first."""
    lines = source.splitlines(keepends=True)
    found = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    for name in sorted(classes, key=lambda name: -found[name].lineno):
        ends = [part.end_lineno for part in found[name].body if isinstance(part, ast.AnnAssign)]
        assert ends[-1] is not None
        lines.insert(ends[-1], _ADDED)
    return "".join(lines)
