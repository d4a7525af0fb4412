"""Every random history of commands keeps the books whole: P1, P2, balanced transfers, events that say the same."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.domain.books import PATIENT, PAYER, Books, LineKey, Lines, Words
from services.ledger.domain.journal import Journal
from shared.contracts.ledger_events import Posting
from tests.support.ledger_acts import Clerk, Memory

COMPANY = UUID(int=42)
LOCATIONS = [UUID(int=1), UUID(int=2)]
histories = st.tuples(st.randoms(use_true_random=False), st.integers(5, 60))


def worked(history: tuple[random.Random, int]) -> Memory:
    rng, times = history
    clerk = Clerk(rng, COMPANY, LOCATIONS)
    memory = Memory.of(clerk)
    memory.work(clerk, times)
    return memory


@given(histories)
def test_receipts_and_charges_add_up(history: tuple[random.Random, int]) -> None:
    books = worked(history).books
    for payment in books.payments.values():
        # P1
        parts = payment.applied_cents + payment.provider_level_cents + payment.unapplied_cents
        assert payment.words.amount_cents == parts
        assert payment.unapplied_cents == payment.lines.between("cash", ("unapplied",)) - (
            payment.applied_cents + payment.provider_level_cents
        )
        if payment.source != "era" and payment.reverses_id is None and payment.refunds_id is None:
            assert payment.available_cents >= 0
            assert payment.applied_cents >= 0
    for charge in books.charges.values():
        # P2
        assert charge.amount_cents == charge.applied_cents + charge.adjusted_cents + charge.balance_cents
        assert charge.amount_cents >= 0
        if charge.state == "void":
            assert (charge.due[PAYER], charge.due[PATIENT], charge.applied_cents) == (0, 0, 0)


@given(histories)
def test_nobody_is_asked_for_less_than_nothing(history: tuple[random.Random, int]) -> None:
    """While people only charge, pay and write off, neither party's part of a charge falls below zero."""
    rng, times = history
    acts = ("charge", "change_charge", "charge_state", "adjust_charge", "transfer", "payment", "apply", "remittance")
    clerk = Clerk(rng, COMPANY, LOCATIONS, only=acts)
    memory = Memory.of(clerk)

    def check() -> None:
        for charge in memory.books.charges.values():
            assert min(charge.due.values()) >= 0
            assert charge.payer_id or charge.due[PAYER] == 0

    memory.work(clerk, times, check)


@given(histories)
def test_figures_are_the_sums_of_the_transfers(history: tuple[random.Random, int]) -> None:
    memory = worked(history)
    receipts: dict[UUID, Lines] = {}
    due: Counter[tuple[UUID, str]] = Counter()
    for row in memory.journal.rows["transfer"]:
        assert row["amount_cents"] > 0
        assert row["debit"] != row["credit"]
        if row["payment_id"]:
            key = LineKey(row["debit"], row["credit"], row["detail"], row["charge_id"])
            receipts.setdefault(row["payment_id"], Lines()).add(key, row["amount_cents"])
        if row["charge_id"]:
            due[row["charge_id"], row["debit"]] += row["amount_cents"]
            due[row["charge_id"], row["credit"]] -= row["amount_cents"]
    for payment_id, payment in memory.books.payments.items():
        assert receipts.get(payment_id, Lines()).net == payment.lines.net
    for charge_id, charge in memory.books.charges.items():
        assert {party: due[charge_id, party] for party in (PAYER, PATIENT)} == charge.due
        assert due[charge_id, "unapplied"] == charge.applied_cents
        assert due[charge_id, "adjustment"] == charge.adjusted_cents
        assert -due[charge_id, "revenue"] == charge.amount_cents


@given(histories)
def test_cash_of_every_method_is_what_the_receipts_say(history: tuple[random.Random, int]) -> None:
    memory = worked(history)
    cash: Counter[str] = Counter()
    for row in memory.journal.rows["transfer"]:
        for account, cents in ((row["debit"], row["amount_cents"]), (row["credit"], -row["amount_cents"])):
            if account == "cash":
                cash[row["detail"]] += cents
    told: Counter[str] = Counter()
    for payment in memory.books.payments.values():
        told[payment.words.method] += payment.words.amount_cents
    assert {k: v for k, v in cash.items() if v} == {k: v for k, v in told.items() if v}


_RECEIPT_WORDS = ("deposit_date", "method", "location_id", "payer_id", "patient_id", "batch_number", "check_number")
_CHARGE_WORDS = ("patient_id", "location_id", "payer_id", "date_of_service", "procedure_code")


def in_the_books(books: Books) -> tuple[Counter[Any], Counter[Any]]:
    """What the balancing tables must show, read off the documents."""
    receipts: Counter[Any] = Counter()
    for payment in books.payments.values():
        words = (payment.payment_id, *(getattr(payment.words, name) for name in _RECEIPT_WORDS))
        receipts[words, "count"] = 0 if payment.words.withdrawn else 1
        receipts[words, "applied"] = payment.applied_cents
        receipts[words, "adjusted"] = payment.adjusted_cents
        receipts[words, "provider_level"] = payment.provider_level_cents
        receipts[words, "unapplied"] = payment.unapplied_cents
    charges: Counter[Any] = Counter()
    for charge in books.charges.values():
        words = (charge.charge_id, *(getattr(charge, name) for name in _CHARGE_WORDS))
        charges[words, "charged_cents"] = charge.amount_cents
        charges[words, "applied_cents"] = charge.applied_cents
        charges[words, "adjusted_cents"] = charge.adjusted_cents
        charges[words, "payer_balance_cents"] = charge.due[PAYER]
        charges[words, "patient_balance_cents"] = charge.due[PATIENT]
    return receipts, charges


def told_by(journal: Journal) -> tuple[Counter[Any], Counter[Any]]:
    """The same, added up from the events, as they leave: by way of JSON and the contract."""
    receipts: Counter[Any] = Counter()
    charges: Counter[Any] = Counter()
    for event in journal.events:
        posting = Posting.model_validate_json(orjson.dumps(event))
        for receipt in posting.receipts:
            words = (receipt.payment_id, *(getattr(receipt, name) for name in _RECEIPT_WORDS))
            receipts[words, "count"] += receipt.count
            for part in receipt.parts:
                receipts[words, part.kind] += part.amount_cents
                assert (part.charge_id is None) == (part.kind in ("unapplied", "provider_level"))
                if part.kind == "unapplied":
                    assert part.patient_id == receipt.patient_id
        for change in posting.charges:
            words = (change.charge_id, *(getattr(change, name) for name in _CHARGE_WORDS))
            for name in ("charged_cents", "applied_cents", "adjusted_cents", "payer_balance_cents"):
                charges[words, name] += getattr(change, name)
            charges[words, "patient_balance_cents"] += change.patient_balance_cents
    return receipts, charges


def without_zeros(found: Counter[Any]) -> dict[Any, int]:
    return {key: value for key, value in found.items() if value}


@given(histories)
def test_the_events_alone_rebuild_every_figure_under_its_words(history: tuple[random.Random, int]) -> None:
    memory = worked(history)
    told, books = told_by(memory.journal), in_the_books(memory.books)
    assert without_zeros(told[0]) == without_zeros(books[0])
    assert without_zeros(told[1]) == without_zeros(books[1])


@given(histories)
def test_a_part_of_a_receipt_lies_where_its_charge_lies(history: tuple[random.Random, int]) -> None:
    memory = worked(history)
    parts: Counter[Any] = Counter()
    for event in memory.journal.events:
        for receipt in Posting.model_validate(event).receipts:
            for part in receipt.parts:
                if part.kind in ("applied", "adjusted"):
                    place = (part.patient_id, part.charge_id, part.charge_location_id, part.procedure_code)
                    parts[receipt.payment_id, part.kind, *place] += part.amount_cents
    for (_, _, patient_id, charge_id, location_id, code), cents in parts.items():
        charge = memory.books.charges[charge_id]
        if cents:
            assert (patient_id, location_id, code) == (charge.patient_id, charge.location_id, charge.procedure_code)
    applied: Counter[Any] = Counter()
    for (_, kind, _, charge_id, _, _), cents in parts.items():
        applied[charge_id] += cents if kind == "applied" else 0
    assert without_zeros(applied) == {
        charge.charge_id: charge.applied_cents for charge in memory.books.charges.values() if charge.applied_cents
    }


@given(histories)
def test_a_refused_command_leaves_no_trace(history: tuple[random.Random, int]) -> None:
    rng, times = history
    clerk = Clerk(rng, COMPANY, LOCATIONS)
    memory = Memory.of(clerk)
    for _ in range(times):
        command = clerk.command()
        before = snapshot(memory)
        refusals = len(memory.refused)
        answer = memory.post(command)
        if len(memory.refused) > refusals:
            assert snapshot(memory) == before
        elif isinstance(answer, dict):
            clerk.learn(command, answer)


def snapshot(memory: Memory) -> Any:
    books = copy.deepcopy(
        (memory.books.version, memory.books.charges, memory.books.patients, memory.books.payers, memory.books.documents)
    )
    payments = {
        key: (payment.words, dict(payment.lines.net), payment.refunded_cents, payment.reversed_by)
        for key, payment in memory.books.payments.items()
    }
    return books, payments, {table: len(rows) for table, rows in memory.journal.rows.items()}


@given(histories)
def test_versions_are_gapless_and_every_row_names_one(history: tuple[random.Random, int]) -> None:
    memory = worked(history)
    versions = [row["version"] for row in memory.journal.rows["posting"]]
    assert versions == list(range(1, memory.books.version + 1))
    assert [event["version"] for event in memory.journal.events] == versions
    ordinals: dict[int, list[int]] = {}
    for row in memory.journal.rows["transfer"]:
        ordinals.setdefault(row["version"], []).append(row["ordinal"])
    assert all(found == list(range(1, len(found) + 1)) for found in ordinals.values())


def test_histories_reach_every_kind_of_act() -> None:
    """The generator is worth something only if most kinds of command are accepted, and most refusals are met."""
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    exceptions: Counter[str] = Counter()
    for seed in range(40):
        memory = worked((random.Random(seed), 60))
        accepted.update(event["kind"] for event in memory.journal.events)
        refused.update(memory.refused)
        exceptions.update(row["reason"] for row in memory.journal.rows["feed_exception"])
    assert set(accepted) >= {
        "patient",
        "payer",
        "charge",
        "charge_correction",
        "charge_active",
        "charge_void",
        "adjustment",
        "transfer",
        "payment",
        "application",
        "correction",
        "reversal",
        "refund",
        "emr_payment",
        "emr_charge",
        "remittance",
        "remittance_claims",
    }
    assert set(refused) >= {"over_applied", "charge_void", "already_reversed", "not_a_receipt", "over_refunded"}
    assert set(exceptions) >= {"predetermination", "ambiguous_line", "over_applied", "unknown_code"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(-3, 3)), max_size=12))
def test_lines_cancel_out_whatever_their_order(moves: list[tuple[str, str, int]]) -> None:
    lines, back = Lines(), Lines()
    for debit, credit, cents in moves:
        if debit != credit:
            lines.add(LineKey(debit, credit, "", None), cents)
    for debit, credit, cents in reversed(moves):
        if debit != credit:
            back.add(LineKey(debit, credit, "", None), cents)
    for one in "abc":
        for other in "abc":
            if one != other:
                assert lines.between(one, (other,)) == back.between(one, (other,)) == -lines.between(other, (one,))
    assert all(cents > 0 for _, cents in lines.oriented())
    for key, cents in lines.oriented():
        lines.add(key.swapped(), cents)
    assert not lines.net


def test_words_are_compared_by_value() -> None:
    day = Clerk(random.Random(1), COMPANY, LOCATIONS).today
    assert Words(1, "cash", day) == Words(1, "cash", day)
