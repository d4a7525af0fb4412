"""Structured or binary: what makes one object of a CloudEvent, whichever way it came."""

from __future__ import annotations

import pytest

from services.ledger.feeds.cloudevents import structured

HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
EVENT = {"specversion": "1.0", "id": "2", "source": "s", "type": "t", "data": {"a": 1}}


@pytest.mark.parametrize("content_type", ["application/json", "", "application/octet-stream"])
def test_in_binary_mode_the_headers_are_the_attributes(content_type: str) -> None:
    whole = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"a": 1}}
    assert structured(content_type, {**HEADERS, "x-other": "1"}, {"a": 1}) == whole
    assert structured(content_type, {name.upper(): text for name, text in HEADERS.items()}, {"a": 1}) == whole


@pytest.mark.parametrize(
    "content_type",
    ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8", "Application/CloudEvents+JSON"],
)
def test_the_content_type_alone_says_that_an_event_is_structured(content_type: str) -> None:
    """Its attributes may stand in headers too, for whoever routes by them. Types have no case (RFC 9110, 8.3.1)."""
    assert structured(content_type, HEADERS, EVENT) == EVENT


def test_without_headers_it_can_only_be_structured() -> None:
    assert structured("", {}, EVENT) == EVENT
