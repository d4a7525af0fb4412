"""The first reading of an 835: what each transaction comes to, and whether it may be posted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from services.ledger.feeds.x12.envelope import fields
from services.ledger.feeds.x12.model import Envelope, Event, Finding, Header
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.transaction import Remittance, keep

MAX_CLAIM: Final = 4 * 1024 * 1024
_HASHED_AT_ONCE: Final = 128
_HASH_ELEMENT, _HASH_COMPONENT, _HASH_SEGMENT = "\r", "\0", "\n"
"""Three characters that no element can hold once the reader is through with it."""


class Survey(Remittance):
    """What a transaction comes to, and the name of its content. It yields no claims."""

    def __init__(
        self, ordinal: int, envelope: Envelope, st: list[str], component: str, problems: Sequence[Finding]
    ) -> None:
        super().__init__(ordinal, envelope, st, component, problems)
        self._digest = hashlib.sha256()
        self._unhashed: list[list[str]] = []
        self._claim_size = 0
        self._renderers: dict[str, None] = {}
        self._rendered = self._last_rendered = 0

    def take(self, segment: list[str]) -> Sequence[Event]:
        """The next segment after ST."""
        self._unhashed.append(segment)
        if len(self._unhashed) >= _HASHED_AT_ONCE:
            self._flush()
        return super().take(segment)

    def _announced(self, header: Header) -> None:
        if not header.payee_npis:
            self._handlers["NM1"] = self._nm1

    def _nm1(self, segment: list[str]) -> None:
        entity, *_, qualifier, identifier = (text.strip() for text in fields(segment, 9))
        if entity == "82" and qualifier == "XX" and self._status is not None:
            keep(self._renderers, identifier)
            self._rendered += self._last_rendered != self._claims
            self._last_rendered = self._claims

    def _rendering(self) -> tuple[str, ...]:
        return tuple(self._renderers) if self._rendered == self._claims else ()

    def _content_hash(self) -> str:
        self._flush()
        return self._digest.hexdigest()

    def _open_claim(self, segment: list[str], charge_cents: int, paid_cents: int, patient_cents: int) -> None:
        self._claim_size = 0

    def _flush(self) -> None:
        # Empty elements at the end of a segment may as well be left out.
        terse = [_HASH_ELEMENT.join(segment).rstrip(_HASH_ELEMENT) for segment in self._unhashed]
        text = _HASH_SEGMENT.join((*terse, ""))
        self._digest.update(text.replace(self._component, _HASH_COMPONENT).encode())
        self._claim_size += len(text)
        if self._status is None:
            self._claim_size = 0
        elif self._claim_size > MAX_CLAIM:
            raise X12Unreadable(f"A claim of transaction {self._ordinal} is larger than {MAX_CLAIM} bytes")
        self._unhashed.clear()
