"""The corpus of bad input, as data: bodies, fields, parameters, paths, headers, tokens and bytes that no careful caller
sends, each with what must come of it. Numbers are those of quality.md section 4.

Field cases are made from an endpoint's own declaration, so that a field added tomorrow is tested tomorrow.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

MARK = "ZZPHI5c1e"
"""Stands in whatever is sent; it must not come back."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Raw:
    """A body as bytes, for every endpoint that takes JSON. `empty_is_fine`: but for those whose fields are optional."""

    name: str
    body: bytes
    status: int
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)


def _typed(value: str) -> dict[str, str]:
    return {"Content_Type": value}


def _coded(value: str) -> dict[str, str]:
    return {"Content_Encoding": value}


JSON_BODIES = (
    Raw("1 over the limit", b'{"memo": "' + b"x" * MIB + b'"}', 413, "too_large"),
    Raw("2 gzip bomb", gzip.compress(bytes(10 * MIB)), 415, "unsupported_media_type", _coded("gzip")),
    Raw("2 deflate", zlib.compress(b"{}"), 415, "unsupported_media_type", _coded("deflate")),
    Raw("2 brotli", b"\x0b\x01\x80{}\x03", 415, "unsupported_media_type", _coded("br")),
    Raw("3 many gzip members", gzip.compress(b"{}") * 1_000, 415, "unsupported_media_type", _coded("gzip")),
    Raw("4 nested lists", b"[" * 200_000, 400, "malformed"),
    Raw("4 nested objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "malformed"),
    Raw("4 nested and closed", b"[" * 50_000 + b"]" * 50_000, 400, "malformed"),
    Raw("5 an integer of 5,000 digits", b'{"amount_cents": ' + b"9" * 5_000 + b"}", 422, "number_out_of_range"),
    Raw("6 NaN", b'{"amount_cents": NaN}', 422, "not_a_number"),
    Raw("6 Infinity", b'{"amount_cents": -Infinity}', 422, "not_a_number"),
    Raw("7 a repeated name", b'{"name": 1, "name": 2}', 422, "duplicate_key"),
    Raw("7 a repeated name, escaped", b'{"name": 1, "\\u006eame": 2}', 422, "duplicate_key"),
    Raw("7 a repeated name inside", b'{"rows": [{"id": 1, "id": 2}]}', 422, "duplicate_key"),
    Raw("9 a form", b"name=1", 415, "unsupported_media_type", _typed("application/x-www-form-urlencoded")),
    Raw("9 text", b"{}", 415, "unsupported_media_type", _typed("text/plain")),
    Raw("9 no type", b"{}", 415, "unsupported_media_type", _typed("")),
    Raw("9 UTF-16 by charset", b"{}", 415, "unsupported_media_type", _typed("application/json; charset=utf-16")),
    Raw("9 UTF-16 as it is", "{}".encode("utf-16"), 400, "malformed"),
    Raw("9 a BOM", b"\xef\xbb\xbf{}", 400, "malformed"),
    Raw("9 XML", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', 400, "malformed"),
    Raw("10 not UTF-8", b'{"memo": "\xff\xfe"}', 400, "malformed"),
    Raw("10 overlong", b'{"memo": "\xc0\x80"}', 400, "malformed"),
    Raw("11 a raw NUL", b'{"memo": "a\x00b"}', 400, "malformed"),
    Raw("not JSON", f"{{'memo': '{MARK}'}}".encode(), 400, "malformed"),
    Raw("cut", b'{"memo": "', 400, "malformed"),
    Raw("only white space", b" \r\n\t ", 400, "malformed"),
    Raw("two documents", b"{} {}", 400, "malformed"),
    Raw("a list", f'["{MARK}"]'.encode(), 422, "invalid"),
    Raw("a text", f'"{MARK}"'.encode(), 422, "invalid"),
    Raw("a number", b"1", 422, "invalid"),
    Raw("null", b"null", 422, "invalid"),
    Raw("8 an unknown field", f'{{"zz_unknown": "{MARK}"}}'.encode(), 422, "invalid"),
    Raw("8 a hostile name", json.dumps({f"<b>\u00e9{MARK}": 1}).encode(), 422, "invalid"),
    Raw("8 __proto__", b'{"__proto__": {"admin": true}}', 422, "invalid"),
)

# -- fields of bodies ------------------------------------------------------------------------------------------------

_NO_TEXT: tuple[Any, ...] = (7, True, [MARK], {"$gt": MARK}, "\ud800", "\udc00\ud800")  # 13, 16
_NO_LINE: tuple[Any, ...] = (
    "a\x00b",  # 11, 12
    f"{MARK}\x1b[31m",
    f"{MARK}\r\nX-Injected: 1",
    f"{MARK}\u202egpj.exe",  # 14
    f"{MARK}\u200b",
    f"\ufeff{MARK}",
    "a\U000e0fff",
    " \u00a0 ",
    "",
    MARK * 2_000,
)
BAD: Mapping[str, tuple[Any, ...]] = {
    "line": (*_NO_TEXT, *_NO_LINE),
    "cell": (*_NO_TEXT, "a\x00b", "", MARK * 2_000),
    "secret": (*_NO_TEXT,),
    # 15; 27: digits that are none
    "uuid": (*_NO_TEXT, "", MARK, 1 << 70, "0" * 32, "{0196f0c5-0000-7000-8000-000000000001}", "\u0661" * 36),
    # 32, 34
    "date": (
        *_NO_TEXT,
        *("2025-02-30", "2025-13-01", "0001-01-01", "9999-12-31", "1899-12-31", "infinity", "today", "2026-1-5"),
        *("20260105", "2026-01-05T00:00:00Z", "05/01/2026", "２０２６-01-05", " 2026-01-05", "", 1_767_571_200, 1.5),
    ),
    # 15, 16, 25-29
    "integer": (True, "1", "1e3", "1_000", "１", 1.5, b"1e3", b"1.0", b"-0.0", -1, 1 << 63, 1 << 70, [1], {}),
    "boolean": (0, 1, "true", "yes", [True], {}),
    "enum": (*_NO_TEXT, "", MARK, "CHECK "),
    "array": (MARK, 1, True, {}, {"0": MARK}),
    "object": (MARK, 1, True, [], [[]]),
}
"""Values that are refused whatever else is sent, by the kind of the field. Bytes are JSON as it is written."""
SECRETS = frozenset({"password", "old_password", "code", "handle", "state", "iss", "user_name", "company_id"})
"""Texts that are compared and never kept or shown: anything may be typed, as long as it is text."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A place in a body: `path` as in `errors`, and what may not stand there."""

    path: tuple[str | int, ...]
    kind: str

    @property
    def name(self) -> str:
        return ".".join(str(part) for part in self.path)

    def body(self, value: Any) -> bytes:
        """The smallest body that has this value in this place."""
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        body: Any = "@@"
        for part in reversed(self.path):
            body = [body] if isinstance(part, int) else {part: body}
        return json.dumps(body).encode().replace(b'"@@"', raw)


def leaves(model: type[BaseModel]) -> list[Leaf]:
    """Every place of a body in which something may stand."""
    schema = model.model_json_schema()
    return list(_walk(schema, schema.get("$defs", {}), ()))


def _walk(schema: Any, defs: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Leaf]:
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        others = [one for one in schema["anyOf"] if one.get("type") != "null"]
        if len(others) == 1:
            yield from _walk(others[0], defs, path)
        return
    if path:
        yield Leaf(path, _kind(schema, path[-1]))
    if len(path) > 4:
        return
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        yield from _walk(schema["items"], defs, (*path, 0))
    for name, value in schema.get("properties", {}).items():
        yield from _walk(value, defs, (*path, name))


def _kind(schema: Mapping[str, Any], name: str | int) -> str:
    if "enum" in schema or "const" in schema:
        return "enum"
    if schema.get("format") in ("uuid", "date"):
        return str(schema["format"])
    if schema.get("pattern") == "^[^\\x00]*$":
        return "cell"  # As it stands in somebody's file.
    kind = str(schema.get("type", "object"))
    return ("secret" if name in SECRETS else "line") if kind == "string" else kind


# -- queries, paths, headers, tokens ---------------------------------------------------------------------------------

BAD_QUERY: Mapping[str, tuple[str, ...]] = {
    "integer": ("0x10", "-1", "x", "1.5", "1e3", "%00", "1%001", "9" * 3_000, "", "%EF%BC%91", "+", "true", "1_000"),
    "date": ("", "2025-02-30", "1900-13-01", "9999-12-31", "today", "infinity", "%00", "2026-1-5", "20260105"),
    "uuid": ("x", "%00", "1", f"%7B{'0' * 36}%7D", "0" * 32),
    "enum": ("x", "%00", MARK, "%27%20or%201=1--"),
    "boolean": ("perhaps", "2", "", "%00"),
    "line": (f"%00{MARK}", f"{MARK}%0d%0aX-Injected:1", MARK * 400),
}
"""By the kind of the parameter (23, 24)."""
BAD_QUERIES = (
    "zz_unknown=1",
    f"access_token={MARK}",
    "limit=1&limit=2&offset=-1",
    "sort=password_hash;drop",
    "&".join(f"a{number}=1" for number in range(900)),  # 21
    "%00=%00",
    "__proto__=1",
)
"""Refused by every endpoint."""
BAD_PATHS = (
    "..%2f..%2fetc%2fpasswd",  # 22
    "%2e%2e",
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "a%0d%0aX-Injected:1",
    "%27%20or%20%27%27=%27",
    "%D9%A1",
    "1",  # 15
    str(1 << 63),
    "x" * 3_000,
    f"%3Cscript%3E{MARK}",
)
METHODS = ("PUT", "PATCH", "DELETE", "POST", "TRACE", "PROPFIND", "OPTIONS")
OVERRIDES = ("X_HTTP_Method_Override", "X_HTTP_Method", "X_Method_Override")
"""20"""
BAD_AUTHORIZATION = ("", "Bearer", "Bearer ", "Basic eDp5", "Token x", "Bearer a b", "Bearer a.b.c", "Bearer \u00e9")

# -- bytes -------------------------------------------------------------------------------------------------------------

_HEAD = b"POST /v1/token HTTP/1.1\r\nHost: x\r\n"
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
MANGLED: Mapping[str, bytes] = {
    "18 a header of 100 KB": b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX-Long: " + MARK.encode() * 11_000 + b"\r\n\r\n",
    "18 10,000 headers": b"GET /v1/me HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 10_000 + b"\r\n",
    "18 an address of 1 MB": b"GET /v1/me?" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "18 an endless first line": b"G" * 1_000_000,
    "21 10,000 parameters": b"GET /v1/me?" + b"&".join(b"a=1" for _ in range(10_000)) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "19 length and chunks": _HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "19 chunks and length": _HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "19 two lengths": _HEAD + b"Content-Length: 0\r\nContent-Length: 35\r\n\r\n" + _SMUGGLED,
    "19 two lengths in one": _HEAD + b"Content-Length: 0, 35\r\n\r\n" + _SMUGGLED,
    "19 a signed length": _HEAD + b"Content-Length: +0\r\n\r\n" + _SMUGGLED,
    "19 a negative length": _HEAD + b"Content-Length: -1\r\n\r\n" + _SMUGGLED,
    "19 a length in hexadecimal": _HEAD + b"Content-Length: 0x0\r\n\r\n" + _SMUGGLED,
    "19 a space before the colon": _HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "19 chunks spelt wrongly": _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "19 chunked twice": _HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "19 a folded header": _HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    "19 a NUL in a header": _HEAD + b"X-A: a\x00b" + MARK.encode() + b"\r\n\r\n",
    "19 a lone CR in a header": _HEAD + b"X-A: a\rContent-Length: 35\r\n\r\n" + _SMUGGLED,
    "a chunk size that is none": _HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZPHI5c1e\r\n",
    "a chunk size beyond 64 bits": _HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "a chunk longer than said": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabcdef\r\n0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARK.encode() + b"\r\n\r\n",
    "a version that is none": b"GET /v1/me HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /v1/me\r\n\r\n",
    "a method that is none": b"G=T /" + MARK.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "a proxy's address": b"GET http://example.org/" + MARK.encode() + b" HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "an expectation that is none": _HEAD + b"Expect: " + MARK.encode() + b"\r\nContent-Length: 35\r\n\r\n" + _SMUGGLED,
    "an expectation of nobody": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nExpect: " + MARK.encode() + b"\r\n\r\n",
    "everything": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "an upgrade": b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
}
"""No application should see these, or only as an address that it does not have. After none of them may a second request
be read from what the first one's body may be."""
