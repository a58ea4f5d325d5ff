"""Every error that pagewire raises on purpose, in one tree.

    PagewireError
    +-- ConfigError                 a flag, file or environment that cannot work; ends the command, one line
    |   +-- ModelError              the model cannot be found or read
    |       +-- UnsupportedModel    its architecture, rope scaling or quantisation is not one that runs here
    +-- RequestError                the client's fault: HTTP 4xx, with the name of the field
    |   +-- UnknownModel            404
    |   +-- PromptTooLong           400, with the numbers
    +-- Unavailable                 nobody can take the request now: HTTP 429 or 503, with Retry-After
    +-- RequestFailed               it was taken and could not be finished: HTTP 500, or an SSE error event
    |   +-- WorkerLost              a node died under it and no other could take over in time
    |   +-- DeadlineExceeded        HTTP 504
    +-- ProtocolError               a message between our own processes is wrong
        +-- LocalProtocolError      we were about to send or do it
        +-- RemoteProtocolError     the peer sent it

Internal facts are asserted; these are for what the outside did. ``code`` is a stable word for machines,
``str(error)`` one sentence for people, free of paths of this machine, object addresses and stack traces.
"""

from __future__ import annotations


class PagewireError(Exception):
    """Root of the tree. ``code`` names the kind of failure in a word that never changes."""

    code = "internal_error"


class ConfigError(PagewireError):
    code = "bad_config"


class ModelError(ConfigError):
    code = "bad_model"


class UnsupportedModel(ModelError):
    code = "unsupported_model"


class RequestError(PagewireError):
    """The client sent something that cannot be served. ``param`` names the field, where there is one."""

    code = "invalid_request"
    status = 400

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


class UnknownModel(RequestError):
    code = "model_not_found"
    status = 404


class PromptTooLong(RequestError):
    code = "context_length_exceeded"


class Unavailable(PagewireError):
    """Nobody can take the request now; try again after ``retry_after`` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, status: int = 503, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class RequestFailed(PagewireError):
    code = "request_failed"
    status = 500


class WorkerLost(RequestFailed):
    code = "worker_lost"
    status = 503


class DeadlineExceeded(RequestFailed):
    code = "deadline_exceeded"
    status = 504


class ProtocolError(PagewireError):
    code = "protocol_error"


class LocalProtocolError(ProtocolError):
    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    code = "remote_protocol_error"
