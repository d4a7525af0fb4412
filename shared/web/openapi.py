"""The OpenAPI 3.1 document of a service, generated from its endpoints; and a page that shows it without scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared.access.principal import Guard
from shared.web.endpoint import Endpoint

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "request_id", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("field", "code", "message")},
            },
        },
    },
}
_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_DESCRIPTION = "Every GET answers HEAD, too: the same status and headers, without the body."
_NDJSON = "application/x-ndjson"
_FHIR = "application/fhir+json"


def openapi_document(name: str, title: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """A valid OpenAPI 3.1 document: every endpoint with its guard, models and errors."""
    named = dict.fromkeys(m for e in endpoints for m in (e.body, e.answer, e.refusal))
    models: list[type[BaseModel]] = [m for m in named if m is not None]
    refs, schemas = models_json_schema([(m, "validation") for m in models], ref_template="#/components/schemas/{model}")
    by_model: dict[Any, Any] = {model: ref for (model, _), ref in refs.items()}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_model)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": _DESCRIPTION},
        "servers": [{"url": f"/{name}"}, {"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Problem": _PROBLEM},
            "responses": {
                "Problem": {
                    "description": "A problem (RFC 9457); nothing was stored",
                    "content": _PROBLEM_CONTENT,
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(endpoint: Endpoint, refs: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"{endpoint.method} {endpoint.path}".lower()).strip("_"),
        "description": guard_text(endpoint.guard),
        "parameters": [*_path_parameters(endpoint.path), *_query_parameters(endpoint), *_headers(endpoint)],
        "responses": {
            **{str(status): _answer(endpoint, refs) for status in (endpoint.status, *endpoint.also) if status < 300},
            **{status: _refusal(endpoint, refs) for status in _problems(endpoint)},
        },
    }
    if not endpoint.guard.public:
        operation["security"] = [{"token": []}]
    if endpoint.body is not None:
        # No body says the same as an empty object, where that is a good one.
        required = any(field.is_required() for field in endpoint.body.model_fields.values())
        content = {"application/json": {"schema": refs[endpoint.body]}}
        operation["requestBody"] = {"required": required, "content": content}
    elif endpoint.raw_types:
        operation["requestBody"] = {"required": True, "content": {name: {"schema": {}} for name in endpoint.raw_types}}
    return operation


def _answer(endpoint: Endpoint, refs: Mapping[Any, Any]) -> dict[str, Any]:
    if endpoint.status == 204 or not endpoint.answer_type:
        return {"description": "Done"}
    content = {endpoint.answer_type: {"schema": _schema(endpoint, refs)}}
    if "format" in endpoint.query.model_fields:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {"description": "Done", "content": content}


def _schema(endpoint: Endpoint, refs: Mapping[Any, Any]) -> Any:
    """Of a body: a document; lines, each a document; or a text or file in a format of its own."""
    if endpoint.answer is None:
        binary = endpoint.answer_type == "application/octet-stream"
        return {"type": "string", "format": "binary"} if binary else {"type": "string"}
    if endpoint.answer_type == _NDJSON:
        return {"type": "string", "contentMediaType": _NDJSON, "contentSchema": refs[endpoint.answer]}
    return refs[endpoint.answer]


def _refusal(endpoint: Endpoint, refs: Mapping[Any, Any]) -> dict[str, Any]:
    """A problem; or, where a standard of its own asks for that, its way of saying no."""
    if endpoint.refusal is None:
        return {"$ref": "#/components/responses/Problem"}
    kind = _FHIR if _FHIR in endpoint.raw_types else "application/json"
    return {"description": "A problem", "content": {**_PROBLEM_CONTENT, kind: {"schema": refs[endpoint.refusal]}}}


def _problems(endpoint: Endpoint) -> list[str]:
    """The statuses of what can go wrong here; `default` stands for those that can anywhere (429, 500, 503)."""
    found = {"422", "default", *(str(status) for status in endpoint.also if status >= 400)}
    if not endpoint.guard.public:
        found |= {"401", "403"}
    if "{" in endpoint.path:
        found.add("404")
    if endpoint.method != "GET":
        found |= {"400", "408", "409", "413", "415"}
    parameters = endpoint.query.model_fields.keys()
    if "min_version" in parameters:  # A report: of a version not reached, in a format not given, of no such location.
        found |= {"406", "409", "404"} if "location_id" in parameters else {"406", "409"}
    return sorted(found - {str(endpoint.status)})


def guard_text(guard: Guard) -> str:
    """Who may call, in words."""
    if guard.public:
        return "Anyone."
    if guard.authenticated:
        return "Anyone signed in."
    allowed = [f"`{level}` in `{area}`" for area, level in guard.any_of]
    allowed += [
        who
        for who, yes in (
            ("any member of the company", guard.member),
            ("the operator", guard.operator),
            ("an EMR client", guard.emr),
            ("an internal client", guard.internal),
            ("who has to enrol a second factor", guard.enrolment),
        )
        if yes
    ]
    return "Allowed to: " + ", or ".join(allowed) + "."


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    schema = endpoint.query.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": value}
        for name, value in schema.get("properties", {}).items()
    ]


def _headers(endpoint: Endpoint) -> list[dict[str, Any]]:
    if not endpoint.idempotent:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
    return [{"name": "Idempotency-Key", "in": "header", "required": True, "schema": schema}]


def docs_page(document: Mapping[str, Any]) -> web.Response:
    """A plain list of the operations; the full document is one link away."""
    rows = "".join(
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation['summary'])}</td><td>{escape(operation['description'])}</td></tr>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    title = escape(document["info"]["title"])
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1>"
        f"<p><a href=openapi.json>OpenAPI 3.1 document</a></p>"
        f"<table><thead><tr><th>Method<th>Path<th>What<th>Who</tr></thead><tbody>{rows}</tbody></table></html>"
    )
    return web.Response(text=page, content_type="text/html")
