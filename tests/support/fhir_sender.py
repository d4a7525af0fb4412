"""An EMR that sends FHIR by HTTP for one company, and what that has left in its books."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.access.policy import EMR_CLIENT
from tests.support.fhir_builder import Raw, body, bundle, charge_item, claim, claim_item, concept, notice, patient
from tests.support.ledger import COUNTS, Answer, Company, LedgerStack, clinic_of, fold

FHIR = "application/fhir+json"


@dataclass(slots=True)
class Sender:
    """An EMR that sends FHIR for one company."""

    company: Company
    client_id: str

    @classmethod
    async def made(cls, stack: LedgerStack, *, locations: int = 1, sources: tuple[str, ...] = ()) -> Sender:
        company = await stack.company(locations=locations)
        return cls(company, await stack.emr_client([company], *sources))

    @property
    def place(self) -> Raw:
        """The first location, by identifier."""
        return {"identifier": {"value": clinic_of(self.company.locations[0])}}

    def charge_item(self, price: str | None = "120.00", **changes: Any) -> Raw:
        return charge_item(price, **{"performingOrganization": self.place, **changes})

    def claim(self, *items: Raw, version: int = 1, **changes: Any) -> Raw:
        return claim(*items, **{"facility": self.place, "meta": {"versionId": str(version)}, **changes})

    def notice(self, amount: str = "25.00", **changes: Any) -> Raw:
        return notice(amount, **{"payee": self.place, **changes})

    async def answer(self, content: bytes, *, token: str | None = None, **headers: str) -> Answer:
        headers.setdefault("Content-Type", FHIR)
        token = token or self.company.token(EMR_CLIENT, client_id=self.client_id)
        stack = self.company.stack
        return await stack.request("POST", "/v1/feeds/fhir", token, data=content, headers=headers)

    async def feed(self, value: Raw | bytes, **more: Any) -> Any:
        """The feed's document, which counts everything once."""
        answer = await self.answer(value if isinstance(value, bytes) else body(value), **more)
        assert answer.status == 200, answer
        feed = answer.body
        assert (feed["state"], feed["format"]) == ("done", "fhir")
        assert feed["received"] == sum(feed[name] for name in COUNTS[1:])
        assert feed == await self.company.get(f"/v1/feeds/{feed['feed_id']}")
        return feed

    async def send(self, *resources: Raw) -> tuple[int, ...]:
        """The counts of a Bundle of these, with what they refer to beside them."""
        feed = await self.feed(bundle(*resources, patient()))
        assert feed["received"] == len(resources) + 1
        return tuple(feed[name] - (name in ("received", "ignored")) for name in COUNTS)

    async def charges(self) -> dict[str, list[tuple[str, int, int]]]:
        """Code, amount and balance of what stands, by what payers call it."""
        rows = (await self.company.get("/v1/charges", limit=500))["items"]
        found: dict[str, list[tuple[str, int, int]]] = {}
        standing = [row for row in rows if row["status"] != "void"]
        for row in sorted(standing, key=lambda row: (row["procedure_code"], row["amount_cents"])):
            found.setdefault(row["external_id"], []).append(
                (row["procedure_code"], row["amount_cents"], row["balance_cents"])
            )
        return found

    async def payments(self) -> list[Any]:
        rows: list[Any] = (await self.company.get("/v1/payments", limit=500))["items"]
        return [row for row in rows if row["amount_cents"]]

    async def retried(self, reason: str, *, done: bool = True) -> Any:
        (row,) = await self.company.exceptions(reason=reason, state="open")
        tried = await self.company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="")
        assert tried.status == 200, tried
        assert tried.body["state"] == ("retried" if done else "open"), tried
        return tried.body

    async def consistent(self) -> None:
        """What is told to the reports is what stands in the books."""
        assert fold(await self.company.events()) == await self.company.totals()


def line(number: int, net: str = "120.00", code: str = "97110", **changes: Any) -> Raw:
    return claim_item(number, net, productOrService=concept(code), **changes)
