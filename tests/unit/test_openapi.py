"""The OpenAPI documents are whole: what every operation answers is said, and how it refuses. That it is true is seen in
every other test (`tests.support.contract`)."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import validate

from services.ledger.api import ENDPOINTS as LEDGER
from shared.web import Endpoint
from shared.web.openapi import openapi_document
from tests.support.contract import Contract
from tests.support.served import ENDPOINTS

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
DOCUMENTS = {name: openapi_document(name, name, endpoints) for name, endpoints in ENDPOINTS.items()}
OPERATIONS = [
    pytest.param(name, method, path, id=f"{name} {method.upper()} {path}")
    for name, document in DOCUMENTS.items()
    for path, methods in document["paths"].items()
    for method in methods
]
NO_BODY = {"POST /v1/revoke"}
"""Answers 200 without a body (RFC 7009)."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_valid(name: str) -> None:
    validate(DOCUMENTS[name])


@pytest.mark.parametrize(("name", "method", "path"), OPERATIONS)
def test_every_operation_says_what_it_answers(name: str, method: str, path: str) -> None:
    done, refused = _responses(name, method, path)
    assert done
    for status, response in done.items():
        content = response.get("content", {})
        assert bool(content) == (status != "204" and f"{method.upper()} {path}" not in NO_BODY)
        for media_type, body in content.items():
            schema = body["schema"]
            if "$ref" in schema:
                schema = DOCUMENTS[name]["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert schema, f"nothing is said of {media_type}"
            assert "properties" in schema or media_type not in ("application/json", "application/fhir+json")
    assert {"422", "default"} <= set(refused)
    for response in refused.values():
        assert response.get("$ref") == "#/components/responses/Problem" or (
            response["content"]["application/problem+json"] == PROBLEM
        )


HEADS = next(one for one in LEDGER if one.path == "/v1/events/heads")
BULK = next(one for one in LEDGER if one.path == "/v1/payments/bulk")
JSON, LINES = "application/json", "application/x-ndjson"
ID = "0196f0c5-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("endpoint", "status", "media_type", "body", "fault"),
    [
        (HEADS, 200, JSON, f'{{"items":[{{"company_id":"{ID}","version":1}}],"next":null}}', ""),
        (HEADS, 200, JSON, f'{{"items":[{{"company_id":"{ID}","version":1,"code":"A"}}],"next":null}}', "items/0"),
        (HEADS, 200, JSON, '{"items":[{"company_id":"A","version":1}],"next":null}', "items/0/company_id"),
        (HEADS, 200, JSON, f'{{"items":[{{"company_id":"{ID}","version":null}}],"next":null}}', "items/0/version"),
        (HEADS, 200, JSON, '{"items":[]}', "next"),
        (HEADS, 200, "text/csv", "a", "comes as text/csv"),
        (HEADS, 201, JSON, "{}", "201 is not documented"),
        (HEADS, 404, "application/problem+json", None, "404 is not documented"),
        (HEADS, 403, "application/problem+json", None, ""),
        (HEADS, 503, "application/problem+json", None, ""),
        (BULK, 200, LINES, '{"line":1,"status":201}\n', "anyOf"),
    ],
)
def test_an_answer_that_is_not_as_documented_is_noticed(
    endpoint: Endpoint, status: int, media_type: str, body: str | None, fault: str
) -> None:
    contract = Contract(DOCUMENTS["ledger"])
    found = list(contract.broken(endpoint, status, media_type, None if body is None else body.encode()))
    assert bool(found) == bool(fault), found
    assert all(fault in one for one in found)


def _responses(name: str, method: str, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said of success, and of refusals."""
    responses = DOCUMENTS[name]["paths"][path][method]["responses"]
    done = {status: response for status, response in responses.items() if status.startswith("2")}
    return done, {status: response for status, response in responses.items() if status not in done}
