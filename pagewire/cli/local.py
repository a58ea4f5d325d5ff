"""Everything that ``pagewire serve`` runs on this host, as children to start. Opens and starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pagewire.cli import machine, roles, sizes
from pagewire.cli.children import ChildSpec
from pagewire.config import CPU_KV_BYTES
from pagewire.errors import ConfigError
from pagewire.messages import DECODE, PREFILL, ROUTER
from pagewire.node_options import NodeOptions
from router.options import RouterOptions

_YIELDING = 15  # a thirtieth of the weight of a process that does not yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """How many of what. ``node`` and ``router`` are templates: ids and addresses are filled in here.

    ``gpus``: the nodes are shared out among them in turn, and those on one share its memory evenly.
    ``cores``, unless it is 0: prefill nodes share all these among them, and yield to whoever else wants one.
    Decode nodes have the ``threads`` of their own, so prompts are read with no less than what those leave,
    with more while they idle, and the gaps between tokens stay what they are. ``flexible`` nodes can take
    either role: they are equals, and their names do not say how they began.
    """

    prefill: int
    decode: int
    transport: str
    node: NodeOptions
    router: RouterOptions
    cores: int = 0
    flexible: bool = False
    gpus: tuple[str, ...] = ()

    def check_memory(self, nodes: int) -> None:
        """Raises ConfigError if the KV caches of so many nodes alone are more than this machine has."""
        each, there = self.node.kv_cache_bytes or CPU_KV_BYTES, machine.memory_available()
        if nodes * each > there and not self.gpus:  # with a GPU the pages lie in its memory
            raise ConfigError(
                f"{nodes} nodes with {sizes.format_size(each)} of KV cache each need more than the "
                f"{sizes.format_size(there)} that are free; lower --kv-cache-memory"
            )

    def specs(self, folder: Path) -> list[ChildSpec]:
        """The router, then the nodes. ``folder`` is private to us: the sockets between them lie there."""
        mailbox = f"ipc://{folder / 'router'}"
        nodes = [
            replace(
                self._node(role),
                node_id=name,
                routers=(mailbox,),
                handoff=self._handoff(folder, name) if role == DECODE or self.flexible else "",
            )
            for name, role in self._named()
        ]
        router = replace(self.router, mailbox=mailbox, router_id=ROUTER)
        return [_spec(ROUTER, ROUTER, router, threads=1)] + [
            _spec(node.role, node.node_id, self._share(node, i), threads=node.threads, gpu=self._gpu(i))
            for i, node in enumerate(nodes)
        ]

    def _named(self) -> Iterator[tuple[str, str]]:
        """Each node, and what it begins as."""
        for role, count in ((PREFILL, self.prefill), (DECODE, self.decode)):
            for i in range(count):
                number = i if role == PREFILL else self.prefill + i
                yield f"worker-{number}" if self.flexible else f"{role}-{i}", role

    def _gpu(self, index: int) -> str | None:
        return self.gpus[index % len(self.gpus)] if self.gpus else None

    def _share(self, node: NodeOptions, index: int) -> NodeOptions:
        """``node`` with its part of its GPU's memory."""
        if not self.gpus:
            return node
        beside = range(index % len(self.gpus), self.prefill + self.decode, len(self.gpus))
        return replace(node, gpu_memory_utilization=node.gpu_memory_utilization / len(beside))

    def with_secret(self, path: str) -> Local:
        """The same, with the cluster secret in the file ``path``."""
        return replace(
            self, node=replace(self.node, secret_file=path), router=replace(self.router, secret_file=path)
        )

    def _node(self, role: str) -> NodeOptions:
        node = replace(self.node, role=role)
        if self.flexible:
            return replace(node, flexible=True)
        if role == DECODE or not self.cores:
            return node
        return replace(node, threads=max(node.threads, self.cores // self.prefill), niceness=_YIELDING)

    def _handoff(self, folder: Path, name: str) -> str:
        return "tcp://127.0.0.1:0" if self.transport == "tcp" else f"shm://{folder / name}"


def _spec(role: str, name: str, options: roles.Options, *, threads: int, gpu: str | None = None) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-m", "pagewire.cli.child", role, name),
        options=roles.to_json(options),
        env=thread_environment(threads) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
    )


def thread_environment(threads: int) -> dict[str, str]:
    """Environment for a process that computes with ``threads`` threads beside others on the same cores.

    Waiting OpenMP threads sleep: by default they spin, and an idle node would take a busy one's cores.
    """
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
