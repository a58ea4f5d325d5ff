"""Looks at the nodes once a second and has one of them change its role where ``router.autorole`` says so.

A shell: knows the service and its clock; decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from pagewire.messages import DECODE, PREFILL, TakeRole
from pagewire.rates import READING, WRITING
from router.autorole import LOOK_S, Advice, Autorole, Pressure, Smoothed, Split, Targets
from router.fleet import Node
from router.service import Service

SMOOTH = 0.3  # weight of the newest look

log = logging.getLogger("pagewire.router")


class RoleKeeper:
    def __init__(self, service: Service, targets: Targets) -> None:
        self._service = service
        self._autorole = Autorole(targets)
        self._seen = Smoothed()
        self._prompt = 0.0  # tokens, in the mean

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> Advice | None:
        """What was done, if anything."""
        service = self._service
        nodes = [node for node in service.fleet.nodes.values() if not node.draining and not node.suspect]
        pressure = self._pressure(nodes)
        if pressure is None:
            return None
        free = [node for node in nodes if len(node.hello.roles) > 1]
        advice = self._autorole.look(service.clock(), _split(nodes), _split(free), pressure)
        if advice is not None:
            node = min((node for node in free if node.role != advice.role), key=in_hand)
            log.info("%s is to be a %s node: %s", node.hello.node, advice.role, advice.why)
            service.metrics.moves.labels(advice.role).inc()
            service.tell(node.peer, TakeRole(advice.role))
        return advice

    def _pressure(self, nodes: list[Node]) -> Pressure | None:
        """None until nodes have measured how fast they are."""
        prompts = [member.prompt_tokens for member in self._service.requests]
        if prompts:
            self._prompt = sum(prompts) / len(prompts)
        rates = {name: _mean(nodes, name) for name in (READING[1], *WRITING)}
        if any(rate is None for rate in rates.values()):
            return None
        read, step, row = (rate or 0.0 for rate in rates.values())
        now = Pressure(
            unread=self._service.requests.backlog.prompts + sum(node.load.queued_tokens for node in nodes),
            prompt=self._prompt,
            running=int(sum(node.load.gauges.get("live", 0) for node in nodes)),
            read_token_ms=read,
            write_step_ms=step,
            write_row_ms=row,
        )
        self._seen = self._seen.with_(now, SMOOTH)
        return self._seen.of(now)


def in_hand(node: Node) -> tuple[int, int, str]:
    """The node that has least to do changes first: what it has it ends beside its new role."""
    return node.load.running + node.load.waiting, node.load.queued_tokens, node.hello.node


def _split(nodes: Iterable[Node]) -> Split:
    roles = [node.role for node in nodes]
    return Split(roles.count(PREFILL), roles.count(DECODE))


def _mean(nodes: list[Node], name: str) -> float | None:
    measured = [node.measured[name] for node in nodes if name in node.measured]
    return sum(measured) / len(measured) if measured else None
