"""Being a member: what a node and a router do with the directory.

Knows records, mailboxes and what a process says of itself; knows no redis command. redis's client is loaded
by those only who have a directory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pagewire.audit import clean
from pagewire.mailbox import NodeMailbox
from pagewire.membership.directory import Directory
from pagewire.membership.record import KINDS, Record, key_of
from pagewire.membership.url import parse
from pagewire.messages import ROUTER, WORKER, Epoch, Hello, NodeId
from pagewire.versions import goes_with

if TYPE_CHECKING:
    from pagewire.membership.redis_registry import RedisRegistry

log = logging.getLogger("pagewire.membership")


def enrol_node(
    registry: str | None, cluster: str, hello: Hello, mailbox: NodeMailbox, secret: bytes | None
) -> Callable[[], None]:
    """Announce the node that ``hello`` introduces, and dial the routers that there are. Returns how to leave,
    which may be called twice. None for ``registry``: there is no directory. Raises ConfigError.
    """
    if registry is None:
        return lambda: None
    assert secret is not None
    from pagewire.membership.redis_registry import RedisRegistry

    directory = Directory(fits=lambda version: goes_with(version, hello.version))

    def seen(records: list[Record]) -> None:
        before, unfit = directory.left_out, directory.unfit
        mailbox.set_routers(directory.listed(records, mailbox.up))
        if directory.left_out > before:
            log.warning("%d routers more than the %d that are dialled", directory.left_out, directory.most)
        for router in sorted(directory.unfit - unfit, key=lambda router: router.name):
            log.warning(
                "the router %s at %s is passed over: its version %s does not go with %s",
                *(router.name, clean(router.address), clean(router.version), hello.version),
            )

    mine = Record(
        cluster=cluster,
        kind=WORKER if hello.roles else hello.role,
        name=hello.node,
        epoch=hello.epoch,
        generation=0,
        address=hello.address,
        version=hello.version,
        model=clean(hello.served_model, 256),
    )
    return RedisRegistry(parse(registry), key_of(secret), mine, (ROUTER,), seen).leave


def enrol_router(
    registry: str,
    cluster: str,
    name: NodeId,
    epoch: Epoch,
    version: str,
    address: str,
    model: str,
    secret: bytes,
) -> RedisRegistry:
    """Announce a router that nodes dial at ``address``. It needs to know of nobody: who dials it says so. It
    lists all kinds for those who watch it. Raises ConfigError.
    """
    from pagewire.membership.redis_registry import RedisRegistry

    mine = Record(
        cluster=cluster,
        kind=ROUTER,
        name=name,
        epoch=epoch,
        generation=0,
        address=address,
        version=version,
        model=clean(model, 256),
    )
    return RedisRegistry(parse(registry), key_of(secret), mine, KINDS)
