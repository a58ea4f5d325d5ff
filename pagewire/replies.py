"""What a node tells its routers after a step: gathered by router, sent as one message each.

Knows messages and who is to get them; knows no socket beyond the two verbs of ``Outbox``.
"""

from __future__ import annotations

from typing import Any, Protocol

from pagewire.engine.engine import Token
from pagewire.messages import Hello, Load, NodeId, PromptLogprobs, Spans, TokenItem, Tokens

REPORT_EVERY_S = 0.1  # while steps follow each other: heartbeats are rarer


class Outbox(Protocol):
    """A node's mailbox, as far as its loop is concerned. See ``pagewire.mailbox.NodeMailbox``."""

    def drain(self) -> list[tuple[NodeId, Any]]: ...
    def send(self, router: NodeId, message: object) -> None: ...
    def report(self, load: Load) -> None: ...
    def take_role(self, role: str) -> None: ...


class Replies:
    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._by_router: dict[NodeId, Tokens] = {}

    def token(self, router: NodeId, item: TokenItem) -> None:
        self._of(router).items.append(item)

    def spans(self, router: NodeId, spans: Spans) -> None:
        self._of(router).spans.append(spans)

    def prompt(self, router: NodeId, scores: PromptLogprobs) -> None:
        self._of(router).prompt_logprobs.append(scores)

    def flush(self, outbox: Outbox) -> None:
        for router, message in self._by_router.items():
            outbox.send(router, message)
        self._by_router = {}

    def _of(self, router: NodeId) -> Tokens:
        if router not in self._by_router:
            self._by_router[router] = Tokens(self._hello.node, self._hello.epoch, [])
        return self._by_router[router]


def token_item(token: Token) -> TokenItem:
    seq, drawn = token.seq, token.sampled
    return TokenItem(
        seq.request,
        seq.attempt,
        token.choice,
        token.index,
        drawn.token,
        drawn.logprob,
        drawn.top,
        token.finish,
        token.stop_token,
    )
