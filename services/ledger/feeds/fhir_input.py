"""A FHIR input as a whole, a body or a file: who sent it, whether there is anything in it to keep, and its posting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from services.ledger.feeds import intake, mappings
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import Outcome
from services.ledger.feeds.fhir.reader import ACCEPTED
from services.ledger.feeds.fhir_posting import ask_all, post_feed, understood
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import Chunks
from services.ledger.service import Ledger
from shared.errors import Invalid, PayloadTooLarge

MAX_BYTES: Final = 8 << 20
"""Resources refer to each other, so that an input is held in memory as a whole."""


class FhirUnreadable(Invalid):
    """Nothing of an input can be used, and nothing of it is kept."""

    code = "fhir_unreadable"

    def __init__(self, refused: Sequence[Outcome]) -> None:
        issue = refused[0].issues[0]
        super().__init__(f"{issue.code}: {issue.diagnostics}")
        self.refused = refused
        """With the issues, as an OperationOutcome tells them."""


class FhirInput(BaseModel):
    """By whose word an input is read. Kept with the feed, so that whoever finishes it reads it by the same."""

    model_config = ConfigDict(frozen=True)

    client_id: str | None = None
    """The EMR client that sent it; None for a person, and for a file of the watched directory."""

    async def examine(self, chunks: Chunks) -> Posting:
        """Read it to its end, outside the event loop; raises FhirUnreadable and PayloadTooLarge."""
        return await asyncio.to_thread(self._examine, chunks)

    def _examine(self, chunks: Chunks) -> Posting:
        body = bytearray()
        for piece in chunks:
            body += piece
            if len(body) > MAX_BYTES:
                raise PayloadTooLarge()
        found = list(outcomes(bytes(body)))
        if refused := _unusable(found):
            raise FhirUnreadable(refused)
        return Posting(self, bytes(body), found)


@dataclass(frozen=True, slots=True)
class Posting:
    """An input that was read to its end."""

    input: FhirInput
    body: bytes
    found: Sequence[Outcome]
    """What it says to a company that has no procedure codes of its own."""

    async def __call__(self, ledger: Ledger, feed: Feed, correlation_id: str) -> None:
        """Post every resource, ignore or quarantine it, and close the feed. Raises Unavailable when the books are
        away."""
        found = self.found
        if (await mappings.read(ledger.pool, feed.company_id)).procedures:
            found = await understood(ledger, feed.company_id, self.body)
        asked = await ask_all(ledger, feed, found, self.input.client_id)
        await post_feed(ledger, feed, asked, correlation_id)
        await intake.close_feed(ledger.pool, feed)


def alone(issue: Issue) -> Outcome:
    """An issue that is about the input as a whole."""
    return Outcome(0, issue.expression, "", "refused", issues=(issue,))


def _unusable(found: Sequence[Outcome]) -> list[Outcome]:
    """Why there is nothing here to keep: one fault of all of it, or no resource that anybody could work with."""
    if any(issue.severity == "fatal" for outcome in found for issue in outcome.issues):
        return list(found)
    if any(outcome.state != "refused" or outcome.kind in ACCEPTED for outcome in found):
        return []
    return list(found) or [alone(Issue("nothing_known", "Bundle.entry"))]
