"""The OpenAPI documents against what the services answer: every answer of every test, read as a strict reader does."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import jsonschema_rs
import orjson
import pytest
from aiohttp import web

from shared.errors import Problem
from shared.web.doorkeeper import Doorkeeper
from shared.web.endpoint import Endpoint
from shared.web.openapi import openapi_document

ANYWHERE: Final = frozenset({429, 500, 503})
"""What `default` stands for: it can happen to any call."""
JSON: Final = re.compile(r"application/(\w+\+)?json")
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Contract:
    """What a service's document says of one operation's answers. What it does not name may not be there."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._operations = document["paths"]
        self._components = {**document["components"], "schemas": _closed(document["components"]["schemas"])}
        self._validator = cache(self._made)

    def _made(self, text: bytes) -> jsonschema_rs.Draft202012Validator:
        whole = {**orjson.loads(text), "components": self._components}
        return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)

    def broken(self, endpoint: Endpoint, status: int, media_type: str, body: bytes | None) -> Iterator[str]:
        """Where an answer is not as the document says; `body` is None for one that was streamed."""
        responses = self._operations[endpoint.path][endpoint.method.lower()]["responses"]
        if str(status) not in responses:
            if status not in ANYWHERE:
                yield f"{status} is not documented"
            return
        said = responses[str(status)]
        if "$ref" in said:
            said = self._components["responses"]["Problem"]
        content = said.get("content", {})
        if not body and not content:
            return
        if media_type not in content:
            yield f"{status} comes as {media_type or 'nothing'}"
            return
        schema = content[media_type]["schema"]
        if body is not None and JSON.fullmatch(media_type):
            yield from self._faults(schema, body)
        elif body is not None and "contentSchema" in schema:
            for line in body.splitlines():
                yield from self._faults(schema["contentSchema"], line)

    def _faults(self, schema: Any, body: bytes) -> Iterator[str]:
        validator = self._validator(orjson.dumps(schema))
        for error in validator.iter_errors(orjson.loads(body)):
            yield f"{'/'.join(map(str, error.instance_path))}: {error.message[:200]}"


def _closed(schema: Any) -> Any:
    """A schema, and those in it, that takes no name but its own."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


class Watch:
    """Sees every answer that is given in this process, and keeps what was wrong with it."""

    def __init__(self, services: Mapping[str, Sequence[Endpoint]]) -> None:
        self._contracts: dict[int, Contract] = {}
        for name, endpoints in services.items():
            self._contracts |= dict.fromkeys(map(id, endpoints), Contract(openapi_document(name, name, endpoints)))
        self.faults: list[str] = []
        self.seen: set[tuple[str, str, int]] = set()

    def runner(self, run: Answering, endpoint: Endpoint) -> Answering:
        """The same handler of an endpoint, watched."""
        if (contract := self._contracts.get(id(endpoint))) is None:
            return run  # An endpoint that a test has made up.

        def note(status: int, media_type: str, body: bytes | None) -> None:
            self.seen.add((endpoint.method, endpoint.path, status))
            call = f"{endpoint.method} {endpoint.path}"
            self.faults += [f"{call}: {status}: {one}" for one in contract.broken(endpoint, status, media_type, body)]

        async def watched(request: web.Request) -> web.StreamResponse:
            try:
                response = await run(request)
            except Problem as problem:
                note(problem.status, "application/problem+json", None)
                raise
            except web.HTTPException as refusal:
                note(refusal.status, "application/problem+json", None)
                raise
            body = response.body if isinstance(response, web.Response) else None
            note(response.status, response.content_type, bytes(body) if isinstance(body, bytes | bytearray) else body)
            return response

        return watched


@contextmanager
def watching(services: Mapping[str, Sequence[Endpoint]]) -> Iterator[Watch]:
    """Watch all services that are made in this process from now on."""
    watch, made = Watch(services), Doorkeeper.runner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Doorkeeper, "runner", lambda self, endpoint: watch.runner(made(self, endpoint), endpoint))
        yield watch
