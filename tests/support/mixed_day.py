"""A day of one practice's feeds in all formats at once, made up from a seed: what is sent, in the order of a clean day.

Every delivery may come again, in any order and cut short, and the books must end the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support import csv_files
from tests.support.emr import BATCH, Emr
from tests.support.feed_work import check, claim, service
from tests.support.fhir_builder import body, bundle, claim_item, notice, patient
from tests.support.fhir_builder import claim as fhir_claim
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import Answer, Company, clinic_of, patient_body
from tests.support.x12_builder import ProviderLevel, x12_file


@dataclass(frozen=True, slots=True)
class Delivery:
    """One upload, of a format, as it is sent."""

    format: str
    content: bytes
    content_type: str = ""


@dataclass(slots=True)
class Day:
    """A practice with its senders agreed upon."""

    company: Company
    emr: Emr

    @classmethod
    async def of(cls, company: Company) -> Day:
        await csv_files.agree(company)
        clinic = {"alias": "CLINIC", "location_id": str(company.locations[0])}
        mappings = {"clinics": [clinic], "payers": [], "procedures": []}
        assert (await company.send("PUT", "/v1/feed-mappings", mappings, key="")).status == 200
        return cls(company, await Emr.of(company))

    async def send(self, one: Delivery) -> Answer:
        if one.format == "csv":
            return await csv_files.upload(self.company, one.content, token=self.emr.token)
        more = {"Content-Type": one.content_type} if one.content_type else {}
        return await self.company.upload(one.format, one.content, token=self.emr.token, **more)

    def deliveries(self, seed: int) -> list[Delivery]:
        rng = random.Random(seed)
        found = [*self._emr(rng), *self._hl7(rng), *self._fhir(rng), *self._csv(rng)]
        return [*found, *self._x12(rng)]

    def _emr(self, rng: random.Random) -> Iterator[Delivery]:
        events: list[Any] = []
        for n in range(8):  # Charges that the remittances are about.
            events.append(self.emr.charge(f"remitted-{n}", patient=patient_body(f"ACCT-{n}"), amount_cents=10_000))
        for n in range(6):
            person = patient_body(f"SEEN-{n % 3}")
            for version in range(1, rng.randint(2, 4)):
                cents = rng.randrange(1_000, 9_000, 100)
                events.append(self.emr.charge(f"charge-{n}", version, patient=person, amount_cents=cents))
                kind = rng.choice(["copay", "coinsurance", "internal"])
                events.append(
                    self.emr.payment(f"pay-{n}", version, patient=person, amount_cents=cents, payment_type=kind)
                )
            if n % 3 == 0:
                events.append(self.emr.deletion("payment", f"pay-{n}", 9))
        while events:
            some = [events.pop(0) for _ in range(min(len(events), rng.randint(1, 4)))]
            yield Delivery("emr", json.dumps(some).encode(), BATCH)

    def _hl7(self, rng: random.Random) -> Iterator[Delivery]:
        for n in range(6):
            account, cents = f"HL7-{n % 2}", rng.randrange(4_000, 12_000, 100)
            lines = [ft1("CG", f"TX{n}", f"{cents / 100:.2f}")]
            if n % 2:
                lines.append(ft1("PY", f"PAY{n}", f"{cents / 200:.2f}"))
            yield self._dft(*lines, control_id=f"H{n}", time="20260115103000", account=account)
            if n % 3 == 0:
                void = ft1("CD", f"TX{n}", f"{cents / 100:.2f}")
                yield self._dft(void, control_id=f"V{n}", time="20260115113000", account=account)

    def _dft(self, *lines: str, **words: str) -> Delivery:
        return Delivery("hl7v2", message(*lines, **words))

    def _fhir(self, rng: random.Random) -> Iterator[Delivery]:
        place = {"identifier": {"value": clinic_of(self.company.locations[0])}}
        for n in range(3):
            identifier = [{"system": "urn:emr:claim", "value": f"CLM-{n}"}]
            for version in (1, 2):
                prices = [f"{rng.randrange(50, 150)}.00" for _ in range(3 - version)]
                items = [claim_item(place, price) for place, price in enumerate(prices, 1)]
                words: dict[str, Any] = {"id": f"cl{n}", "identifier": identifier, "facility": place}
                one = fhir_claim(*items, **words, meta={"versionId": str(version)})
                yield Delivery("fhir", body(bundle(one, patient())))
            # The last version once more, with a payment of that claim.
            payment = {"identifier": {"system": "urn:payer:eft", "value": f"EFT-{n}"}}
            more: dict[str, Any] = {"payee": place, "payment": payment, "request": {"reference": f"Claim/cl{n}"}}
            paid = [{"system": "urn:emr:notice", "value": f"N-{n}"}]
            told = notice(f"{rng.randrange(10, 40)}.00", id=f"pn{n}", identifier=paid, **more)
            yield Delivery("fhir", body(bundle(one, told, patient())))

    def _csv(self, rng: random.Random) -> Iterator[Delivery]:
        place = self.company.locations[-1]
        rows = [csv_files.row(place, n, Amount=f"{rng.randrange(5, 90)}.50") for n in range(8)]
        yield Delivery("csv", csv_files.table(*rows))
        later = [{**row, "Ver": "2", "Amount": "7.25"} for row in rows[:3]]
        gone = [{**rows[4], "Ver": "3", "State": "void"}]
        yield Delivery("csv", csv_files.table(*rows[5:], *later, *gone, csv_files.row(place, 99)))

    def _x12(self, rng: random.Random) -> Iterator[Delivery]:
        claims = [claim(f"ACCT-{n}", service(), icn=f"ICN-{n}") for n in range(8)]
        stranger = claim("NOBODY", service(), icn="ICN-99")
        withheld = ProviderLevel(reason="WO", cents=1_500, reference="earlier")
        yield Delivery("x12", x12_file([check(*claims[:3], trace="T1"), check(*claims[3:5], trace="T2")]))
        last = check(*claims[5:], stranger, trace="T3", provider_level=[withheld])
        yield Delivery("x12", x12_file([last], control="000000102"))
        # The clearinghouse sends a part of the first file again, under another name.
        yield Delivery("x12", x12_file([check(*claims[3:5], trace="T2")], control="000000103"))
