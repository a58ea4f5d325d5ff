"""Requests that have broken a server somewhere, written by hand, as the bytes that go over the wire.

Knows HTTP and JSON from the wrong side; sends nothing.
"""

from __future__ import annotations

from typing import NamedTuple

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
POSTS = (CHAT, COMPLETIONS, "/tokenize", "/detokenize")
GETS = ("/v1/models", "/v1/models/demo", "/version", "/live", "/ready", "/health", "/metrics", "/docs")


class Case(NamedTuple):
    """``whole``: it is one request that ends, so that the server answers and hangs up by itself."""

    name: str
    sent: bytes
    whole: bool = True


def post(path: str, body: bytes, *fields: str, media: str = "application/json") -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}"]
    return "\r\n".join([*head, f"content-type: {media}", *fields, "", ""]).encode("latin-1") + body


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", *fields, "", ""]
    return "\r\n".join(head).encode("latin-1")


def by_hand() -> list[Case]:
    """Every shape that has broken a server somewhere, once."""
    bodies = [Case(f"body {n} {path}", post(path, body)) for n, body in enumerate(_BODIES) for path in POSTS]
    media = [
        Case(f"media {m!r}", post(CHAT, b"{}", media=m)) for m in ("", "text/plain", "a/b;" * 99, "\xff/json")
    ]
    paths = [Case(f"path {path[:20]!r}", get(path)) for path in _PATHS]
    methods = [
        Case(f"method {m[:9]}", get(CHAT, method=m)) for m in ("PUT", "DELETE", "OPTIONS", "TRACE", "X" * 99)
    ]
    heads = [Case(f"field {n}", get("/v1/models", *fields)) for n, fields in enumerate(_FIELDS)]
    raw = [Case(f"raw {n}", sent, whole=False) for n, sent in enumerate(_RAW)]
    return bodies + media + paths + methods + heads + raw


_DEEP = 100_000
_BODIES: list[bytes] = [
    b"", b"null", b"0", b'"x"', b"[]", b"{", b"}", b"{}", b"{]", b"\x00", b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b"[" * _DEEP, b"[" * _DEEP + b"]" * _DEEP, b'{"a":' * _DEEP,
    b'{"messages":' + b"[" * _DEEP + b"]" * _DEEP + b"}",
    b'{"prompt":' + b'{"a":' * 500 + b"1" + b"}" * 501,
    b'{"temperature":NaN}', b'{"temperature":Infinity}', b'{"temperature":-Infinity}',
    b'{"temperature":1e400}',
    b'{"seed":' + b"9" * 4000 + b"}", b'{"seed":' + b"9" * 100_000 + b"}", b'{"seed":-' + b"9" * 30 + b"}",
    b'{"max_tokens":1e99}', b'{"n":99999999999999999999}', b'{"temperature":' + b"0." + b"1" * 10_000 + b"}",
    b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00\\ud800"}', b'{"\\ud800":1}', b'{"prompt":"\xed\xa0\x80"}',
    b'{"prompt":"\xff"}', b'{"prompt":"a","prompt":"b"}', b'{"messages":[{"role":"user","role":"system"}]}',
    b'{"prompt":"' + b"a" * (1 << 20) + b'b"}', b'{"prompt":["",' * 3 + b"1]",
    b'{"prompt":[' + b"1," * 300_000 + b"1]}", b'{"prompt":[' + b"true," * 100_000 + b"1]}",
    b'{"prompt":[' + b"[]," * 60_000 + b"[]]}", b'{"stop":[' + b'"a",' * 100_000 + b'"a"],"prompt":"x"}',
    b'{"messages":[' + b'{"role":"user","content":"a"},' * 2000 + b'{"role":"user","content":"a"}]}',
    b"{" + b",".join(b'"%d":1' % n for n in range(50_000)) + b',"1":1}',
    b'{"prompt":"x","logit_bias":{' + b",".join(b'"%d":1' % n for n in range(5000)) + b"}}",
    b" " * (4 << 20) + b"{}", b'{"prompt":"x"}' + b"\x00", b"{'prompt':'x'}",
    b'{"prompt":"x",}', b'{"prompt":x}',
    b'{"prompt":"' + b"\\u0000" * 1000 + b'"}', b'{"prompt":"\\u0000\\uffff\\u202e{{7*7}}${jndi:ldap://x}"}',
]  # fmt: skip

_PATHS = [
    "/", "//", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/%00", "/v1/models/%ff%fe",
    "/v1/models/%ED%A0%80", "/v1/models/" + "a" * 5000, "/v1/models/" + "%41" * 3000, "/v1/models/%",
    "/v1/models/%zz",
    "/docs?x=<script>alert(1)</script>", "/openapi.json?" + "a=b&" * 3000, "*", "http://x/live", "/live#f",
    "/live?%",
    "/v1/models/{{7*7}}", "/v1/chat/completions/", "/V1/MODELS", "/v1//models", "/metrics/../live",
    "/a" * 8000,
]  # fmt: skip

_FIELDS: list[list[str]] = [
    ["x: " + "y" * 20_000], ["x: y"] * 100, ["x" * 20_000 + ": y"], ["expect: 100-continue"],
    ["expect: teapot"],
    ["authorization: Bearer " + "k" * 9000], ["authorization: \xff\xfe"], ["x-request-id: " + "\xe9" * 50],
    ["x-request-id: a", "x-request-id: b"], ["range: bytes=0-99999999999999999999"],
    ["cookie: " + "a=b;" * 2000],
    ["accept-encoding: " + "gzip," * 900], ["transfer-encoding: identity"], ["upgrade: websocket",
    "connection: upgrade"],
    ["upgrade: h2c", "connection: upgrade, http2-settings", "http2-settings: AAMAAABk"], ["origin: null"],
    ["content-length: 5", "transfer-encoding: chunked"], ["host: y"],
    ["x-forwarded-for: " + "1.1.1.1," * 500],
]  # fmt: skip

_J = "content-type: application/json\r\n"
_P = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{_J}"
_RAW: list[bytes] = [
    b"\r\n" * 5000, b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /live\r\n\r\n", b"GET /live HTTP/0.9\r\n\r\n", b"GET /live HTTP/1.1\r\n\r\n",
    b"GET  /live HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /live HTTP/1.1\nhost: x\n\n", b"GET /live HTTP/1.1\r\nhost : x\r\n\r\n",
    b"GET /live HTTP/1.1\r\n host: x\r\n\r\n",
    b"GET /live HTTP/1.1\r\nhost: x\r\nx:\x00y\r\n\r\n", b"GET /live HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"GET /li\x00ve HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n" * 200,
    b"GET /live HTTP/1.1\r\nhost: x\r\n\r\nGARBAGE\r\n\r\n" + b"\xff" * 50,
    b"GET " + b"/a" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    *(f"{_P}content-length: {n}\r\n\r\n{{}}".encode()
      for n in ("-1", "+2", "0x2", "2, 2", "2,3", "9" * 30, "", "a", "2 ", "1e1", "99999999")),
    f"{_P}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}".encode(),
    f"{_P}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    "GET /admin HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    f"{_P}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n".encode(),
    f"{_P}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n".encode(),
    f"{_P}transfer-encoding:\tchunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
    *(f"{_P}transfer-encoding: chunked\r\n\r\n{chunk}".encode()
      for chunk in ("-1\r\n{}\r\n0\r\n\r\n", "zz\r\n", "2\r\n{}", "2\r\n{}XX0\r\n\r\n",
      "FFFFFFFFFFFFFFFF\r\n{}", "2;a=" + "b" * 50_000,
                    "0\r\nx: y\r\n\r\n", "0\r\n" + "x: y\r\n" * 5000, "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
                    "\r\n\r\n", "0" * 100 + "\r\n\r\n")),
    f"{_P}expect: 100-continue\r\ncontent-length: 9999\r\n\r\n".encode(),
]  # fmt: skip
