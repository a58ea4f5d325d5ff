"""How a router is to run: what the command line fills in, frozen.

Knows flags and addresses; opens nothing. All fields are plain data, so that they travel to a child process
as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Placement = Literal["round-robin", "load", "prefix"]
Disaggregation = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterOptions:
    """One router.

    ``model`` is what ``pagewire.hub.resolve`` takes; only its tokenizer is read. Clients may call it by any
    of ``served_model_names``; empty: by the model's own name. ``mailbox`` is the address that nodes dial,
    ``ipc://`` or ``tcp://``. ``port`` 0 takes a free one. ``api_keys`` and those in ``api_key_file``
    let clients in; none: anybody, and then beyond this host only if ``insecure``.
    With ``ssl_certfile`` clients come by HTTPS; with ``ssl_ca_certs`` they need a certificate of their own.
    Pages of ``allowed_origins`` may ask from a browser; none by default, "*" for all.
    ``secret_file`` holds the cluster secret. Times are in seconds: a request may take ``request_timeout_s``
    in all, waits ``recovery_s`` for lost nodes to come back, and on SIGTERM has ``grace_s`` to end.
    ``colocated``: decode nodes read prompts themselves where there is no prefill node.
    ``placement`` and ``disaggregate`` are the rules of ``router.placement``.
    ``tool_call_parser`` and ``reasoning_parser`` say how the model writes (``pagewire.text.output.dialect``).
    ``max_inflight`` requests are taken at once, ``max_inflight_per_key`` of one key's, and up to
    ``max_queued`` of them wait for their turn; none whose first token would be later than ``ttft_target_s``
    because of those before it. After ``canary_s`` without a handoff the router tries one itself, and is not ready when none came through for three times as long; 0:
    it takes the nodes' word. ``status_fd`` is where ``pagewire.status.Reporter`` writes;
    None: nobody listens.
    ``dashboard``: serve the page /dashboard. ``otlp_endpoint``:
    where spans go; None: there are none. ``log_format`` is "text" or "json".
    """

    model: str
    mailbox: str
    served_model_names: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None
    insecure: bool = False
    allowed_origins: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    secret_file: str | None = None
    router_id: str | None = None  # None: a name of its own each time
    max_model_len: int | None = None  # None: what the nodes can hold
    request_timeout_s: float = 600.0
    recovery_s: float = 8.0
    suspect_after_s: float = 1.5
    lost_after_s: float = 3.0
    colocated: bool = False
    placement: str = "prefix"  # a Placement
    disaggregate: str = "auto"  # a Disaggregation
    grace_s: float = 10.0
    max_inflight: int = 256
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    max_inflight_per_key: int = 64
    max_queued: int = 192
    ttft_target_s: float = 60.0
    canary_s: float = 20.0
    dashboard: bool = True
    otlp_endpoint: str | None = None
    log_level: str = "info"
    log_format: str = "text"
    status_fd: int | None = None
