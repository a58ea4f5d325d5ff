"""What one prefill or decode node is told when it starts: the contract of command line and node.

Knows flags and addresses; knows no default that depends on the machine, and opens nothing. Every field is
plain data, so that the options travel to a child process as JSON (``pagewire.codec.build`` reads them back,
strictly). Whoever starts the process also ends it: a node knows nothing of its parent
(``pagewire.lifeline``).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """One node. ``role`` is ``messages.PREFILL`` or ``messages.DECODE``; one that is ``flexible`` begins with
    it, and can take the other one too.

    ``model`` is what ``hub.resolve`` takes; ``served_model_name`` is what clients call it (None: the
    model's own name). ``routers`` are the mailbox addresses that the node dials, ``ipc://`` or ``tcp://``;
    with a ``registry`` there are none, and it dials the routers of ``cluster`` that are listed in that redis.
    ``handoff`` is where a decode node listens for KV (``shm://...``, ``tcp://host:port`` or
    ``nixl://host:port``; port 0 takes a free one, and Hello tells the router which); "" for a prefill node
    that stays one. ``trusted_network``: NIXL may reach beyond loopback. ``topology`` says where the node is
    (``pagewire.topology``). ``max_model_len`` None means as far as the model's config goes.
    ``kv_cache_bytes`` is all the memory for pages. ``threads`` is for one step's arithmetic; with a
    ``niceness`` above 0 they yield to other processes. ``watchdog_s``: seconds after which a node ends itself
    if its loop stands still; 0: never. ``grace_s``: seconds that requests in hand have to end after SIGTERM,
    before they are given back. ``secret_file`` holds the cluster secret. ``log_format`` is "text" or "json".
    ``status_fd`` is where ``pagewire.status.Reporter`` writes; None: nobody listens.
    """

    node_id: str
    role: str
    model: str
    routers: tuple[str, ...]
    registry: str | None = field(default=None, repr=False)  # it may hold a password
    cluster: str = "default"
    handoff: str = ""
    flexible: bool = False
    topology: str = ""
    dtype: str = "auto"
    load_format: str = "auto"
    quantization: str = "auto"
    kv_cache_dtype: str = "auto"
    activation_bits: str = "auto"
    max_model_len: int | None = None
    page_size: int = 16
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    max_batch_tokens: int | None = None
    max_mixed_tokens: int = 128
    max_num_seqs: int = 64
    async_scheduling: bool | None = None
    cuda_graphs: bool = True
    deterministic: bool = False
    direct_handoff: bool = False
    trusted_network: bool = False
    threads: int = 1
    niceness: int = 0
    watchdog_s: int = 60
    grace_s: float = 30.0
    prefix_caching: bool = True
    secret_file: str | None = None
    served_model_name: str | None = None
    log_level: str = "info"
    log_format: str = "text"
    status_fd: int | None = None
