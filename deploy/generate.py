"""Writes what is generated from the code: `docs/openapi/*.json` and `docs/asyncapi.json`.

`python -m deploy.generate` writes; `--check` only compares and fails when a file is not what the code says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.identity.api import ENDPOINTS as IDENTITY
from services.ledger.api import ENDPOINTS as LEDGER
from services.ledger.feeds.cloudevents import EVENT_MODELS
from services.ledger.feeds.consumer import SUBSCRIPTION
from services.reporting.api import ENDPOINTS as REPORTING
from shared.bus import BILLING_EVENTS, EMR_FEED
from shared.contracts.identity_events import HEARTBEAT, STATES, Heartbeat
from shared.contracts.ledger_events import POSTING, PostingEvent
from shared.web.openapi import openapi_document

DOCS: Final = Path(__file__).parent.parent / "docs"
_TITLES: Final = {
    "identity": ("Identity: companies, users, roles and tokens", IDENTITY),
    "ledger": ("Ledger: charges, payments and feeds", LEDGER),
    "reporting": ("Reporting: payment balancing", REPORTING),
}


def asyncapi_document() -> dict[str, Any]:
    """AsyncAPI 3.0: what the services publish and what an EMR integration may publish to them."""
    published: dict[str, type[BaseModel]] = {POSTING: PostingEvent, **STATES, HEARTBEAT: Heartbeat}
    models = list(dict.fromkeys([*published.values(), *EVENT_MODELS.values()]))
    refs, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    by_model = {model: ref for (model, _), ref in refs.items()}
    messages = {
        name: {
            "name": name,
            "contentType": "application/json",
            "headers": {"type": "object", "properties": {"ce-id": {"type": "string"}, "ce-type": {"const": name}}},
            "payload": by_model[model],
        }
        for name, model in {**published, **EVENT_MODELS}.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Practice billing events", "version": "1", "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "channels": {
            "billing-events": _channel(BILLING_EVENTS, list(published)),
            "emr-feed": _channel(EMR_FEED, list(EVENT_MODELS)),
        },
        "operations": {
            "publishBillingEvents": {"action": "send", "channel": {"$ref": "#/channels/billing-events"}},
            "takeEmrEvents": {
                "action": "receive",
                "channel": {"$ref": "#/channels/emr-feed"},
                "description": f"Consumed from the quorum queue {SUBSCRIPTION.queue}",
            },
        },
        "components": {"messages": messages, "schemas": schemas["$defs"]},
    }


_DESCRIPTION: Final = (
    "Every message is a CloudEvents 1.0 event; the payloads below are its `data`. On billing.events the body is the"
    " whole envelope (structured). On emr.feed both structured mode and binary mode (ce- headers) are taken. The"
    " routing key is the event's type, but for the heartbeat (`heartbeat.identity`). Delivery is at least"
    " once: `source` and `id` tell repetitions."
)


def _channel(exchange: str, names: list[str]) -> dict[str, Any]:
    return {
        "address": exchange,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def generated() -> dict[Path, str]:
    """Every generated file with its text."""
    documents: dict[Path, Any] = {
        DOCS / "openapi" / f"{name}.json": openapi_document(name, title, endpoints)
        for name, (title, endpoints) in _TITLES.items()
    }
    documents[DOCS / "asyncapi.json"] = asyncapi_document()
    return {path: json.dumps(document, indent=1, sort_keys=True) + "\n" for path, document in documents.items()}


def main() -> None:
    """Write the files, or compare them."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        if stale:
            raise SystemExit(f"not what the code says: {', '.join(p.name for p in stale)}; run `make docs`")
        return
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
