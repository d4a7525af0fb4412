"""FHIR payments by HTTP on a real database: notices, reconciliations, and money that is told of twice."""

from __future__ import annotations

import pytest

from tests.support.fhir_builder import Raw, bundle, detail, patient, reconciliation
from tests.support.fhir_sender import Sender, line
from tests.support.ledger import COUNTS, LedgerStack
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file


def at_clinic(sender: Sender) -> list[Raw]:
    """A claim with the patient that a notice is for."""
    return [sender.claim(line(1))]


async def test_a_notice_is_a_payment_of_its_patient(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    assert await sender.send(sender.notice(), *at_clinic(sender)) == (2, 2, 0, 0, 0)
    (row,) = await sender.payments()
    assert (row["amount_cents"], row["source"], row["deposit_date"], row["check_number"]) == (
        25_00,
        "emr",
        "2026-01-05",
        "EFT-901",
    )
    assert (row["payer_id"], row["location_id"]) == (None, str(sender.company.locations[0]))
    assert await sender.send(sender.notice(), *at_clinic(sender)) == (2, 0, 2, 0, 0)
    more = sender.notice("30.00", meta={"versionId": "2"})
    assert await sender.send(more, *at_clinic(sender)) == (2, 1, 1, 0, 0)
    assert (await sender.company.sums())["amount_cents"] == 30_00
    gone = sender.notice("30.00", meta={"versionId": "2"}, status="cancelled")
    assert await sender.send(gone) == (1, 1, 0, 0, 0)
    assert (await sender.company.sums())["amount_cents"] == 0
    assert await sender.send(
        sender.notice("0.00", id="n2", payment={"reference": "PaymentReconciliation/x"}), *at_clinic(sender)
    ) == (2, 0, 1, 1, 0)
    await sender.consistent()


async def test_a_payers_payment_is_applied_where_its_claim_is_one_charge(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    two = sender.claim(line(1), line(2, "45.00"), identifier=[{"value": "CLM-2"}], id="cl2")
    await sender.send(sender.claim(line(1)), two)
    sent = reconciliation(
        "170.00", detail("80.00"), detail("100.00", "CLM-2"), detail("5.00", "CLM-X"), detail("-15.00", None, "advance")
    )
    feed = await sender.feed(sent)
    assert [feed[name] for name in COUNTS] == [1, 1, 0, 0, 0]
    assert (feed["control_total_cents"], feed["posted_total_cents"], feed["exceptions"]) == (170_00, 170_00, 2)
    (row,) = await sender.payments()
    assert (row["source"], row["check_number"], row["method"]) == ("era", "EFT-900", "other")
    payer = await sender.company.get(f"/v1/payers/{row['payer_id']}")
    assert (payer["name"], payer["code"]) == ("Example Health", "PAYER-1")
    sums = await sender.company.sums()
    assert (sums["amount_cents"], sums["applied_cents"], sums["provider_level_cents"], sums["unapplied_cents"]) == (
        170_00,
        80_00,
        -15_00,
        105_00,
    )
    assert await sender.company.reasons() == {"ambiguous_line": 1, "unmatched_claim": 1}
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 40_00)]
    assert row["location_id"] == str(sender.company.locations[0])
    assert (await sender.feed(sent))["duplicates"] == 1
    # The claim that was missing comes, and the part of it is tried again.
    await sender.retried("unmatched_claim", done=False)
    await sender.send(sender.claim(line(1, "9.00"), identifier=[{"value": "CLM-X"}], id="cl3"))
    await sender.retried("unmatched_claim")
    await sender.retried("ambiguous_line", done=False)
    assert (await sender.company.sums())["applied_cents"] == 85_00
    await sender.consistent()


async def test_a_reconciliation_may_change_and_be_taken_back(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1)))
    versions = [
        reconciliation("80.00", detail("80.00"), detail("-9.00", "CLM-X"), detail("9.00", "CLM-Y")),
        reconciliation("70.00", detail("70.00"), meta={"versionId": "2"}),
        reconciliation("70.00", detail("70.00"), meta={"versionId": "3"}),
    ]
    assert [(await sender.feed(one))["posted"] for one in versions] == [1, 1, 0]
    assert [(await sender.feed(one))["ignored"] for one in versions] == [1, 1, 0]
    sums = await sender.company.sums()
    assert (sums["payments"], sums["amount_cents"], sums["applied_cents"]) == (1, 70_00, 70_00)
    rows = await sender.company.exceptions(reason="unmatched_claim")
    assert len(rows) == 2
    answer = await sender.company.send("POST", f"/v1/exceptions/{rows[0]['id']}/retry", key="")
    assert answer.body["history"][-1]["reason"] == "stale_version"
    other = reconciliation("71.00", detail("71.00"), meta={"versionId": "3"})
    assert (await sender.feed(other))["quarantined"] == 1
    gone = reconciliation("70.00", detail("70.00"), meta={"versionId": "4"}, status="cancelled")
    assert (await sender.feed(gone))["posted"] == 1
    assert (await sender.company.sums())["amount_cents"] == 0
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 120_00)]
    assert (await sender.feed(gone))["duplicates"] == 1
    await sender.consistent()


async def test_a_payer_may_take_money_back_from_a_claim(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1)), sender.claim(line(1, "60.00"), identifier=[{"value": "CLM-2"}], id="cl2"))
    await sender.feed(reconciliation("80.00", detail("80.00")))
    moved = reconciliation(
        "0.00", detail("50.00", "CLM-2"), detail("-50.00"), identifier=[{"value": "R-2"}], paymentIdentifier=None
    )
    assert (await sender.feed(moved))["posted"] == 1
    assert await sender.charges() == {"CLM-5": [("97110", 120_00, 90_00)], "CLM-2": [("97110", 60_00, 10_00)]}
    # More than is open, unless what is taken back is taken back first.
    anew = reconciliation("80.00", detail("110.00"), detail("-30.00"), identifier=[{"value": "R-4"}])
    assert (await sender.feed({**anew, "paymentIdentifier": {"value": "EFT-902"}}))["exceptions"] == 0
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 10_00)]
    nothing = reconciliation("0.00", identifier=[{"value": "R-3"}], paymentIdentifier=None)
    assert (await sender.feed(nothing))["ignored"] == 1
    await sender.consistent()


async def test_the_name_of_a_claim_is_no_account_number(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1), identifier=[{"value": "CLM-2"}]))
    await sender.feed(reconciliation("80.00", detail("80.00", "ABC-1001")))
    assert await sender.company.reasons() == {"unmatched_claim": 1}
    assert (await sender.company.sums())["unapplied_cents"] == 80_00


async def test_an_835_finds_the_lines_of_a_claim(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1), line(2, "45.00", "97140")))
    services = (Service(charge_cents=120_00), Service(charge_cents=45_00, code="97140"))
    answer = await sender.company.upload(
        "x12", x12_file([Payment(trace="T1", claims=(ClaimPayment(account="CLM-5", services=services),))])
    )
    assert (answer.body["posted"], answer.body["exceptions"]) == (1, 0), answer
    assert [balance for _, _, balance in (await sender.charges())["CLM-5"]] == [0, 0]


async def test_a_payer_that_was_mapped(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    payer = await sender.company.payer()
    mapping = {"alias": "example health", "payer_id": payer["id"]}
    agreed = {"clinics": [], "payers": [mapping], "procedures": []}
    assert (await sender.company.send("PUT", "/v1/feed-mappings", agreed)).status == 200
    await sender.feed(reconciliation("80.00"))
    (row,) = await sender.payments()
    assert (row["payer_id"], row["unapplied_cents"]) == (payer["id"], 80_00)


async def test_what_does_not_add_up_waits_for_a_person(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    feed = await sender.feed(reconciliation("80.00", detail("79.99")))
    assert (feed["quarantined"], feed["control_total_cents"], feed["difference_cents"]) == (1, 80_00, 80_00)
    (row,) = await sender.company.exceptions()
    assert (row["reason"], row["source"]) == ("unbalanced", "era")
    assert row["detail"]["errors"][0]["difference_cents"] == 1
    await sender.retried("unbalanced", done=False)


async def test_a_notice_for_a_patient_waits_for_him_and_is_then_his(stack: LedgerStack) -> None:
    """As an EMR sends it that knows no number of the payment (Canvas): alone, for a patient who may be unknown here."""
    sender = await Sender.made(stack)
    told = sender.notice(
        request={"reference": "Patient/p77"}, payment={"display": "Unused"}, paymentDate=None, identifier=None
    )
    assert await sender.send(told) == (1, 0, 0, 0, 1)
    await sender.company.patient("p77")
    (waits,) = await sender.company.exceptions()
    await sender.company.post(f"/v1/exceptions/{waits['id']}/retry", status=200)
    (row,) = await sender.payments()
    assert (row["amount_cents"], row["deposit_date"]) == (25_00, "2026-01-05")
    assert await sender.send(told) == (1, 0, 1, 0, 0)
    await sender.consistent()


@pytest.mark.parametrize("notice_first", [True, False])
async def test_the_same_money_under_two_names_is_posted_once(stack: LedgerStack, notice_first: bool) -> None:
    sender = await Sender.made(stack)
    told = sender.notice("80.00", payment={"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}})
    inputs = [bundle(told, *at_clinic(sender), patient()), reconciliation("80.00")]
    for value in inputs if notice_first else reversed(inputs):
        await sender.feed(value)
    sums = await sender.company.sums()
    assert (sums["payments"], sums["amount_cents"]) == (1, 80_00)
    for reversed_by_a_person in (False, True):
        if reversed_by_a_person:
            (row,) = await sender.payments()
            await sender.company.post(f"/v1/payments/{row['id']}/reversal", {})
        sums = await sender.company.sums()
        for value in inputs:
            feed = await sender.feed(value)
            assert feed["posted"] == feed["quarantined"] == 0
        assert await sender.company.sums() == sums


async def test_the_same_name_with_other_money_waits(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    told = sender.notice("25.00", payment={"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}})
    assert await sender.send(told, *at_clinic(sender), reconciliation("80.00")) == (3, 2, 0, 0, 1)
    assert await sender.company.reasons() == {"conflict": 1}
    assert (await sender.company.sums())["amount_cents"] == 80_00
    # Until a person has found out which one was received, and reverses the other.
    (wrong,) = await sender.payments()
    await sender.company.post(f"/v1/payments/{wrong['id']}/reversal", {})
    await sender.retried("conflict")
    amounts = sorted(row["amount_cents"] for row in await sender.payments())
    assert amounts == sorted([-wrong["amount_cents"], 25_00, 80_00])


async def test_a_notice_that_was_withdrawn_hides_no_payment(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    payment = {"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}}
    await sender.send(sender.notice("80.00", payment=payment), *at_clinic(sender))
    sent = reconciliation("80.00")
    assert (await sender.feed(sent))["ignored"] == 1
    await sender.send(sender.notice("80.00", payment=payment, status="cancelled"))
    assert (await sender.feed(sent))["posted"] == 1
    assert (await sender.company.sums())["amount_cents"] == 80_00
