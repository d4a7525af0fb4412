"""Short ways to feed a company and to look at what waits in its quarantine."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.support.emr import Emr
from tests.support.ledger import COUNTS, Company, fold
from tests.support.x12_builder import Cas, ClaimPayment, Payment, Service, x12_file

PAID: tuple[Cas, ...] = (("CO", "45", 2_000),)
DAY = "2026-01-05"


def service(**fields: Any) -> Service:
    """A line of 100.00, paid 80.00."""
    return Service(**{"charge_cents": 10_000, "adjustments": PAID, **fields})


def claim(account: str, *services: Service, **fields: Any) -> ClaimPayment:
    return ClaimPayment(**{"account": account, "services": services, "icn": f"ICN{uuid4().hex[:8]}", **fields})


def check(*claims: ClaimPayment, trace: str = "", **fields: Any) -> Payment:
    return Payment(**{"trace": trace or f"T{uuid4().hex[:12]}", "claims": claims, **fields})


async def charge_of(company: Company, account: str, **fields: Any) -> Any:
    """A charge of 100.00 of the patient with this account number, for `service()`."""
    found = (await company.post("/v1/patients/search", {"account_number": account}, status=200))["items"]
    patient = found[0] if found else await company.patient(account)
    if "payer_id" not in fields:
        fields["payer_id"] = (await company.payer())["id"]
    return await company.charge(patient, **{"date_of_service": DAY, **fields})


async def remit(company: Company, *payments: Payment) -> Any:
    """Upload one 835 file; the feed."""
    answer = await company.upload("x12", x12_file(payments))
    assert answer.status == 200, answer
    return answer.body


async def the_exception(company: Company, **params: Any) -> Any:
    """The only one there is."""
    (row,) = await company.exceptions(**params)
    return row


async def retried(company: Company, row: Any, **more: Any) -> Any:
    """The exception after a retry."""
    answer = await company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="", **more)
    assert answer.status == 200, answer
    return answer.body


async def true(company: Company) -> None:
    """Whatever was done: every feed's counts add up, every item is counted once, and the events say what the books
    say."""
    for feed in (await company.get("/v1/feeds", limit=500))["items"]:
        assert feed["received"] == sum(feed[name] for name in COUNTS[1:]), feed
        assert feed["difference_cents"] == feed["control_total_cents"] - feed["posted_total_cents"]
        waiting = [row for row in await company.exceptions(feed_id=feed["feed_id"]) if row["quarantined"]]
        assert feed["quarantined"] >= sum(row["state"] != "retried" for row in waiting)
        if all(row["state"] == "retried" for row in waiting):
            assert feed["quarantined"] == 0
    assert fold(await company.events()) == await company.totals()


async def register_clinic(company: Company, clinic: str, place: int = 0) -> None:
    await company.stack.owner.execute(
        "update directory_location set emr_location_id = $3 where company_id = $1 and location_id = $2",
        company.company_id,
        company.locations[place],
        clinic,
    )


async def feed_now(company: Company, feed: Any) -> dict[str, int]:
    """The counts of a feed that are not zero."""
    document = await company.get(f"/v1/feeds/{feed['feed_id']}")
    return {name: document[name] for name in COUNTS[1:] if document[name]}


def unknown(emr: Emr, clinic: str, payment_id: str = "p-1", **fields: Any) -> dict[str, Any]:
    """A payment at a clinic that nobody has."""
    return emr.payment(payment_id, emr_clinic_id=clinic, **fields)
