"""The whole of an input, for what one resource says about another: patients, places, charge items."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Final, TypeVar

from fhir.resources.R4B.reference import Reference
from pydantic import BaseModel

from services.ledger.feeds.fhir.validation import validated

Raw = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)
_NAMES_KEPT: Final = 20


class Document:
    """The resources of one input by their names. A name that two of them bear names neither."""

    def __init__(
        self, entries: Sequence[tuple[str, Raw]], aliases: Collection[str] = (), accompanying: Sequence[Raw] = ()
    ) -> None:
        self.aliases = aliases
        """Procedure codes of the sender's own that count beside CPT and HCPCS."""
        self._by_name: dict[str, Raw | None] = {}
        self._loaded: dict[tuple[int, type[BaseModel]], BaseModel | None] = {}
        self._speaking = {id(raw) for _, raw in entries} - {id(raw) for raw in accompanying}
        self._invoices = [entry for entry in entries if _is_billing(entry[1]) and self.speaks(entry[1])]
        for full_url, raw in entries:
            own = f"{raw.get('resourceType')}/{raw['id']}" if isinstance(raw.get("id"), str) else ""
            for name in {full_url, own} - {""}:
                self._by_name[name] = None if name in self._by_name else raw

    def speaks(self, raw: Raw) -> bool:
        """Whether a resource is posted itself, and not only here, or in another, for others to refer to."""
        return id(raw) in self._speaking

    def target(self, reference: Reference | None, raw: Raw, full_url: str = "") -> Raw | None:
        """What a reference inside `raw` points at, if that is in the input."""
        text = reference.reference if reference else None
        return self._target(text, raw, full_url) if text else None

    def load(self, raw: Raw | None, model: type[Model]) -> Model | None:
        """A resource as its model; None where it is of another type or not valid."""
        if raw is None or raw.get("resourceType") != model.__name__:
            return None
        key = (id(raw), model)
        if key not in self._loaded:
            self._loaded[key] = validated(model, raw, "")[0]
        found = self._loaded[key]
        return found if isinstance(found, model) else None

    def names(self, reference: Reference | None, raw: Raw, full_url: str = "") -> tuple[str, ...]:
        """Everything that the target of a reference is known by, best first: business identifiers, then its id."""
        if reference is None:
            return ()
        found = [reference.identifier.value if reference.identifier else None]
        target = self.target(reference, raw, full_url)
        if target is not None:
            identifiers = target.get("identifier")
            for identifier in identifiers if isinstance(identifiers, list) else [identifiers]:
                if isinstance(identifier, dict) and isinstance(identifier.get("value"), str):
                    found.append(identifier["value"])
        found.append(logical_id(reference.reference))
        return tuple(dict.fromkeys(name for name in found if name))[:_NAMES_KEPT]

    @cached_property
    def billed(self) -> frozenset[int]:
        """The charge items, by `id()`, that some invoice of the input bills."""
        found = set()
        for full_url, raw in self._invoices:
            lines = raw.get("lineItem")
            for line in lines if isinstance(lines, list) else []:
                reference = line.get("chargeItemReference") if isinstance(line, dict) else None
                text = reference.get("reference") if isinstance(reference, dict) else None
                target = self._target(text, raw, full_url) if isinstance(text, str) else None
                if target is not None:
                    found.add(id(target))
        return frozenset(found)

    def _target(self, text: str, raw: Raw, full_url: str) -> Raw | None:
        if text.startswith("#"):
            contained = raw.get("contained")
            inside = [one for one in contained if isinstance(one, dict)] if isinstance(contained, list) else []
            return next((one for one in inside if one.get("id") == text[1:]), None)
        text = text.partition("/_history/")[0]
        if ":" not in text:
            # A relative reference is meant relative to the server that the referring entry is on (FHIR 2.36.4.1).
            base = full_url.removesuffix(f"{raw.get('resourceType')}/{raw.get('id')}")
            if base != full_url and (found := self._by_name.get(base + text)) is not None:
                return found
        return self._by_name.get(text)


def _is_billing(raw: Raw) -> bool:
    """Of a draft or a cancelled invoice the charge items speak for themselves."""
    return raw.get("resourceType") == "Invoice" and raw.get("status") in ("issued", "balanced")


def logical_id(text: str | None) -> str:
    """The id at the end of `Patient/1`, with or without a server before it; nothing for `#1` and `urn:uuid:`, which
    mean something only inside the input."""
    if not text or text.startswith(("#", "urn:")):
        return ""
    return text.partition("/_history/")[0].rpartition("/")[2]
