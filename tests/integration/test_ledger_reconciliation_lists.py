"""A report that lists its payments, against the books: what differs is named, down to the payment."""

from __future__ import annotations

import random

import pytest

from tests.support.emr import Emr
from tests.support.feed_work import the_exception, true
from tests.support.ledger import LedgerStack
from tests.support.reconciliation import explained, figures, listed, of_list, reconciled, report, rows, told, total

# -- down to the payment ---------------------------------------------------------------------------------------------


async def test_what_is_missing_on_either_side(emr: Emr) -> None:
    await emr.send(emr.payment("p-1"), emr.payment("extra"))
    await emr.send(of_list(emr, listed("p-1", 2_500), listed("lost", 2_500)))
    row = (await rows(emr.company))["copay"]
    # The sums agree and still nothing is right.
    assert (row["difference"], row["status"]) == (figures(0, 0), "broken")
    assert told(row) == [("missing_in_ledger", "lost", "never_received"), ("missing_in_emr", "extra", "not_listed")]
    lost, extra = row["differences"]
    assert (lost["explained"], lost["amount_cents"], lost["ledger"]) == (False, 2_500, None)
    assert (extra["amount_cents"], extra["emr"], extra["ledger"]["amount_cents"]) == (-2_500, None, 2_500)


async def test_amounts_that_differ(emr: Emr) -> None:
    company = emr.company
    await emr.send(*(emr.payment(f"p-{n}") for n in range(4)))
    await emr.send(emr.payment("p-1", 2, amount_cents=2_600))
    await emr.send(
        of_list(emr, listed("p-0", 2_500), listed("p-1", 2_500), listed("p-2", 2_700, 2), listed("p-3", 2_499))
    )
    row = (await rows(company))["copay"]
    assert told(row) == [
        ("amount_differs", "p-1", "later_version"),
        ("amount_differs", "p-2", "newer_in_emr"),
        ("amount_differs", "p-3", "listed_differently"),
    ]
    assert [one["explained"] for one in row["differences"]] == [True, False, False]
    assert (row["status"], explained(row)) == ("broken", {"later_version": (0, -100)})
    # The change arrives late, and what was listed wrongly is reported again.
    await emr.send(emr.payment("p-2", 2, amount_cents=2_700))
    again = of_list(emr, listed("p-0", 2_500), listed("p-1", 2_500), listed("p-2", 2_700, 2), listed("p-3", 2_500))
    await emr.send(again)
    row = (await rows(company))["copay"]
    assert (row["status"], told(row)) == ("explained", [("amount_differs", "p-1", "later_version")])


async def test_what_never_flows_and_what_was_deleted(emr: Emr) -> None:
    company = emr.company
    await emr.send(
        emr.payment("p-1"),
        emr.payment("zero", amount_cents=0),
        emr.payment("internal", payment_type="internal"),
        emr.payment("gone"),
    )
    await emr.send(
        of_list(
            emr,
            listed("p-1", 2_500),
            listed("zero", 0),
            listed("internal", 2_500, payment_type="internal"),
            listed("gone", 2_500),
        )
    )
    await emr.send(emr.deletion("payment", "gone", 2))
    found = await rows(company)
    assert told(found["copay"]) == [
        ("missing_in_ledger", "gone", "deleted"),
        ("missing_in_ledger", "zero", "zero_amount"),
    ]
    assert explained(found["copay"]) == {"deleted": (1, 2_500), "zero_amount": (1, 0)}
    assert told(found["internal"]) == [("missing_in_ledger", "internal", "internal_payment")]
    assert {row["status"] for row in found.values()} == {"explained"}


async def test_a_listed_payment_that_waits_in_the_quarantine(emr: Emr) -> None:
    company = emr.company
    waiting = emr.payment("p-2", method="barter")
    await emr.send(emr.payment("p-1"), waiting)
    await emr.send(of_list(emr, listed("p-1", 2_500), listed("p-2", 2_500)))
    exception = await the_exception(company)
    row = (await rows(company))["copay"]
    assert (row["status"], told(row)) == ("explained", [("missing_in_ledger", "p-2", "quarantined")])
    assert row["differences"][0]["exception_id"] == exception["id"]
    assert row["explained"][0]["exception_ids"] == [exception["id"]]


async def test_what_came_after_the_list(emr: Emr) -> None:
    await emr.send(emr.payment("p-1"))
    await emr.send(of_list(emr, listed("p-1", 2_500)))
    await emr.send(emr.payment("p-2"))
    row = (await rows(emr.company))["copay"]
    assert (row["status"], told(row)) == ("explained", [("missing_in_emr", "p-2", "changed_after_report")])


async def test_a_payment_that_stands_elsewhere_is_found(emr: Emr) -> None:
    """A person corrected the deposit date here; the EMR moved another payment to another type."""
    company = emr.company
    await emr.send(emr.payment("p-1"), emr.payment("p-2"))
    receipt = next(one for one in (await company.get("/v1/payments"))["items"] if one["external_id"] == "p-1")
    today = str(company.today)
    await company.patch(f"/v1/payments/{receipt['id']}", {"deposit_date": today})
    await emr.send(of_list(emr, listed("p-1", 2_500), listed("p-2", 2_500, 2, "wellness")))
    found = await rows(company)
    assert told(found["copay"]) == [
        ("missing_in_ledger", "p-1", "moved_in_ledger"),
        ("missing_in_emr", "p-2", "newer_in_emr"),
    ]
    assert found["copay"]["differences"][0]["ledger"]["date"] == today
    assert told(found["wellness"]) == [("missing_in_ledger", "p-2", "newer_in_emr")]
    await emr.send(emr.payment("p-2", 2, payment_type="wellness"))
    found = await rows(company)
    assert {name: row["status"] for name, row in found.items()} == {"copay": "explained", "wellness": "balanced"}


async def test_a_payment_that_was_moved_does_not_explain_another_amount(emr: Emr) -> None:
    company = emr.company
    await emr.send(emr.payment("p-1"))
    (receipt,) = (await company.get("/v1/payments"))["items"]
    await company.patch(f"/v1/payments/{receipt['id']}", {"deposit_date": "2026-01-07"})
    await emr.send(of_list(emr, listed("p-1", 2_000)), of_list(emr, date="2026-01-07"))
    document = await reconciled(company, to="2026-01-07")
    assert [(row["status"], told(row)) for row in document["items"]] == [
        ("broken", [("missing_in_ledger", "p-1", "listed_differently")]),
        ("broken", [("missing_in_emr", "p-1", "listed_differently")]),
    ]


async def test_what_the_emr_lists_on_another_day_than_it_sent_is_broken(emr: Emr) -> None:
    """Nothing was moved here: the same version says one day in its event and another in the list."""
    await emr.send(emr.payment("p-1"))
    await emr.send(of_list(emr), of_list(emr, listed("p-1", 2_500), date="2026-01-07"))
    document = await reconciled(emr.company, to="2026-01-07")
    assert [(row["status"], told(row)) for row in document["items"]] == [
        ("broken", [("missing_in_emr", "p-1", "listed_differently")]),
        ("broken", [("missing_in_ledger", "p-1", "listed_differently")]),
    ]


async def test_a_list_that_does_not_add_up_proves_nothing(emr: Emr) -> None:
    await emr.send(emr.payment("p-1"))
    await emr.send(report(emr, total("copay", 1, 2_500), payments=[listed("p-1", 2_500), listed("p-2", 0)]))
    row = (await rows(emr.company))["copay"]
    assert (row["status"], row["emr"], row["listed"]) == ("broken", figures(1, 2_500), figures(2, 2_500))
    await emr.send(report(emr, total("copay", 2, 2_500), payments=[listed("p-1", 2_500), listed("p-2", 0)]))
    assert (await rows(emr.company))["copay"]["status"] == "explained"


# -- an EMR of which some events are lost ----------------------------------------------------------------------------


State = tuple[str, str, int]
"""Day, type and cents of a payment."""


def stands(state: State | None) -> State | None:
    """What the ledger makes of a state of the EMR."""
    return None if state is None or state[1] == "internal" or state[2] == 0 else state


@pytest.mark.parametrize("seed", range(4))
async def test_exactly_what_was_lost_is_broken(stack: LedgerStack, seed: int) -> None:
    """Payments are made, changed, moved and deleted; some events never arrive. The EMR reports all it has."""
    rng, emr = random.Random(seed), await Emr.of(await stack.company())
    days, types = ["2026-01-06", "2026-01-07"], ["copay", "other", "internal"]
    theirs: dict[str, tuple[int, State | None]] = {}
    ours: dict[str, tuple[int, State | None]] = {}
    events = []
    for name in (f"p-{n}" for n in range(40)):
        for version in range(1, rng.randint(1, 3) + 1):
            state = (rng.choice(days), rng.choice(types), rng.choice((0, 500, 900)))
            gone = version > 1 and rng.random() < 0.25
            fields = {"transaction_date": state[0], "payment_type": state[1], "amount_cents": state[2]}
            theirs[name] = version, None if gone else state
            if rng.random() < 0.8:
                ours[name] = theirs[name]
                one = emr.deletion("payment", name, version) if gone else emr.payment(name, version, **fields)
                events.append(one)
            if gone:
                break
    rng.shuffle(events)
    await emr.send(*events)
    for day in days:
        said = [
            listed(name, state[2], version, state[1])
            for name, (version, state) in theirs.items()
            if state is not None and state[0] == day
        ]
        await emr.send(of_list(emr, *said, date=day))
    document = await reconciled(emr.company, to=days[-1])
    differing = {
        one["emr_payment_id"] for row in document["items"] for one in row["differences"] if not one["explained"]
    }
    # What never flows is not missed, unless money that it should have taken away still stands.
    lost = {name for name, (_, state) in theirs.items() if stands(state) != stands(ours.get(name, (0, None))[1])}
    assert differing == lost
    assert document["status"] == ("broken" if lost else "explained")
    for row in document["items"]:
        gap = sum(one["amount_cents"] for one in row["differences"])
        assert row["difference"]["amount_cents"] == gap == row["emr"]["amount_cents"] - row["ledger"]["amount_cents"]
    await true(emr.company)
