"""From the bytes of a request's body to a checked pydantic model, or a RequestError that names the field.

Knows JSON and limits; knows no route. Python's json is kept strict: no NaN, no key twice, no endless
nesting, no text that is not Unicode.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from pagewire.errors import RequestError

MAX_BODY = 4 << 20
MAX_DEPTH = 32
MAX_TEXT = 1 << 20  # characters in one text of a JSON body

MAX_VALUES = 1 << 18  # in arrays and objects, all told
MAX_FIELDS = 2048  # of one object

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

M = TypeVar("M", bound=BaseModel)


class BodyTooLarge(RequestError):
    code = "request_too_large"
    status = 413


class WrongMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415


async def read(request: Request, model: type[M]) -> M:
    """Read, parse and validate. Raises RequestError, or ClientDisconnect if the client left meanwhile."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise WrongMediaType("the content-type must be application/json")
    return validate(model, parse(await _bytes(request)))


def parse(raw: bytes) -> Any:
    """Raises RequestError unless ``raw`` is one JSON value in UTF-8."""
    bare = _bare(raw)
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
        )
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except RequestError:
        raise
    except UnicodeError as error:
        raise RequestError("the body is not valid UTF-8 text", code="invalid_json") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply", code="invalid_json") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise RequestError(
            f"the body is not valid JSON: {error.msg} at {where}", code="invalid_json"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise RequestError("the body holds a number that is too long", code="invalid_json") from error
    if _deep(bare):
        raise RequestError(f"the body is nested deeper than {MAX_DEPTH} levels", code="invalid_json")
    return value


def validate(model: type[M], value: Any) -> M:
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        _translate(error)


async def _bytes(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:12]) > MAX_BODY:
        raise BodyTooLarge(f"the body is larger than {MAX_BODY} bytes")
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MAX_BODY:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY} bytes")
    return bytes(parts)


def _bare(raw: bytes) -> bytes:
    """``raw`` without its texts, if it is to be looked at closely, else nothing. Raises RequestError for what
    would keep the parser, and so everybody, busy for long. Cheap, and linear whatever comes.
    """
    few = raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH
    if few and raw.count(b",") < MAX_VALUES and len(raw) <= MAX_TEXT:
        return b""
    parts = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    bare = b"".join(parts[::2])
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MAX_VALUES:
        raise RequestError(f"the body holds more than {MAX_VALUES} values", code="invalid_json")
    if len(max(parts[1::2], key=len, default=b"")) > MAX_TEXT:
        raise RequestError(f"the body holds a text of more than {MAX_TEXT} bytes", code="invalid_json")
    return bare


def _deep(bare: bytes) -> bool:
    """Whether valid JSON, without its texts, has more than ``MAX_DEPTH`` arrays and objects in each other:
    each round takes away the innermost.
    """
    left = bare.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        left = left.replace(b"[]", b"")
    return bool(left)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise RequestError("the body holds a number that is too large", code="invalid_json")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        raise RequestError(f"an object has more than {MAX_FIELDS} fields", code="invalid_json")
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise RequestError(f"the field {twice[:64]!r} is given twice", param=twice[:64], code="invalid_json")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise RequestError(f"the body is not valid JSON: {name} is not a JSON number", code="invalid_json")


def _translate(error: ValidationError) -> NoReturn:
    """One sentence about the first fault, with the path of the field. Unions report one fault a branch."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    field = str(faults[0]["loc"][0]) if faults[0]["loc"] else None
    same = [fault for fault in faults if fault["loc"] and fault["loc"][0] == field]
    if field is None:
        raise RequestError("the body is not valid") from error
    if same[0]["type"] == "missing" and len(same[0]["loc"]) == 1:
        raise RequestError(f"the field {field} is required", param=field) from error
    path = ".".join(str(step) for step in same[0]["loc"] if isinstance(step, int) or step.isidentifier())
    kinds = " or ".join(dict.fromkeys(_clean(fault["msg"]) for fault in same))
    raise RequestError(f"{path}: {kinds}", param=field) from error


def _clean(message: str) -> str:
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


__all__ = ["MAX_BODY", "BodyTooLarge", "ClientDisconnect", "WrongMediaType", "parse", "read", "validate"]
