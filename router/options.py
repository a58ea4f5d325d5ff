"""How a router is to run: what the command line fills in, frozen.

Knows flags and addresses; opens nothing. All fields are plain data, so that they travel to a child process
as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Placement = Literal["round-robin", "load", "prefix"]
Disaggregation = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterOptions:
    """One router. Times are in seconds."""

    # --- what is served, and by whom
    model: str  # what pagewire.hub.resolve takes; only its tokenizer is read
    served_model_names: tuple[str, ...] = ()  # what clients may call it; empty: the model's own name
    max_model_len: int | None = None  # None: what the nodes can hold
    tool_call_parser: str = "auto"  # how the model writes: see pagewire.text.output.dialect
    reasoning_parser: str = "auto"
    mailbox: str  # the address that nodes dial, ipc:// or tcp://
    secret_file: str | None = None  # the cluster's
    router_id: str | None = None  # None: a name of its own each time
    registry: str | None = field(default=None, repr=False)  # the redis to be listed in; may hold a password
    cluster: str = "default"
    advertise: str = ""  # where nodes dial ``mailbox``, if not there; port 0: that of the mailbox

    # --- who may come in
    host: str = "127.0.0.1"
    port: int = 8000  # 0 takes a free one
    api_keys: tuple[str, ...] = ()  # these and those in the file let clients in; none: anybody
    api_key_file: str | None = None
    insecure: bool = False  # anybody may be beyond this host
    allowed_origins: tuple[str, ...] = ()  # whose pages may ask from a browser, "*" for all
    ssl_certfile: str | None = None  # serve HTTPS with it
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None  # clients need a certificate that one of these vouches for

    # --- how much at once
    request_timeout_s: float = 600.0  # that a request may take in all
    max_inflight: int = 256  # requests in hand
    max_inflight_per_key: int = 64
    max_queued: int = 192  # of those in hand, waiting for their turn
    ttft_target_s: float = 60.0  # none whose first token would be later because of those before it

    # --- nodes
    placement: str = "prefix"  # a Placement
    disaggregate: str = "auto"  # a Disaggregation
    colocated: bool = False  # decode nodes read prompts themselves where there is no prefill node
    suspect_after_s: float = 1.5
    lost_after_s: float = 3.0
    recovery_s: float = 8.0  # that a request waits for lost nodes to come back
    canary_s: float = 20.0  # without a handoff: then the router tries one itself. 0: it takes the nodes' word
    grace_s: float = 30.0  # that requests have to end on SIGTERM
    autorole: bool = False  # nodes that can are moved between the roles, so that these are met:
    slo_ttft_ms: float = 2000.0
    slo_itl_ms: float = 100.0
    admin_port: int | None = None  # of this host, for who tells nodes what to do; None: nobody does

    # --- to be seen
    dashboard: bool = True  # serve the page /dashboard
    otlp_endpoint: str | None = None  # where spans go; None: there are none
    log_level: str = "info"
    log_format: str = "text"  # or "json"
    status_fd: int | None = None  # where pagewire.status.Reporter writes; None: nobody listens
