"""What a node's Failed means: to the client, and about the two nodes of the attempt.

Knows codes and the errors that clients are told; knows no request and no node.
"""

from __future__ import annotations

from pagewire.errors import (
    DeadlineExceeded,
    PagewireError,
    PromptTooLong,
    RequestError,
    RequestFailed,
    Unavailable,
)
from pagewire.messages import Failed
from router.skew import TOO_OLD

_CUT_OFF = ("peer_lost", "stalled")  # how a handoff ends between nodes that do not reach each other
_CLIENTS_FAULT = (RequestError.code, PromptTooLong.code, "too_long", "grammar_failed")


def cut_off(failed: Failed) -> bool:
    """True if the failure is not of one node, but of the way between the two."""
    return failed.retryable and failed.code in _CUT_OFF


def error_of(failed: Failed) -> PagewireError:
    """What the client is told. A node's own words go to the log, but for those about the request itself."""
    if failed.code == DeadlineExceeded.code:
        return DeadlineExceeded("the request took longer than it was given")
    if failed.code in _CLIENTS_FAULT:
        return RequestError(failed.message, code=failed.code)
    if failed.code == TOO_OLD:
        return Unavailable(failed.message)
    if failed.retryable:
        return Unavailable("the nodes could not take the request; try again")
    return RequestFailed("the request could not be finished")
