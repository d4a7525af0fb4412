"""Whatever is sent, it is answered; no money gets lost on the way; nothing that was sent is echoed."""

from __future__ import annotations

import copy
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.feeds.fhir.answer import operation_outcome
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import ChargeFact, Outcome, PaymentFact, VoidFact
from tests.support.fhir_builder import (
    body,
    bundle,
    charge_item,
    claim,
    claim_item,
    detail,
    invoice,
    invoice_line,
    money,
    notice,
    patient,
    reconciliation,
)

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "fhir"
MARK = "Zyxwvut"
EVERYTHING = bundle(
    charge_item(),
    claim(claim_item(1), claim_item(2, "45.00")),
    invoice(invoice_line(chargeItemReference={"reference": "ChargeItem/ci1"}, chargeItemCodeableConcept=None)),
    reconciliation("80.00", detail()),
    notice(),
    patient(),
)
STRANGE: list[Any] = [
    None, True, 0, -1, 7, 10**30, 0.5, "", " ", MARK, f"{MARK}\x00", "\ud800", "2026-13-45", "{}", "[1", "#", "urn:x",
    [], [None], [[]], {}, {MARK: MARK}, [{MARK: [MARK]}], {"reference": f"#{MARK}"}, {"value": MARK},
    {"resourceType": MARK}, {"resourceType": "Patient", "id": "p1"}, [{"coding": [{"code": MARK}]}],
]  # fmt: skip


def check(found: list[Outcome]) -> None:
    """What holds for every input."""
    for outcome in found:
        errors = [issue for issue in outcome.issues if issue.severity != "warning"]
        assert (outcome.state == "refused") == bool(errors)
        assert (outcome.state == "ignored") == bool(outcome.reason)
        assert (outcome.state == "facts") == bool(outcome.facts)
        for fact in outcome.facts:
            assert 1 <= len(fact.key) <= 200
            assert fact.key.isascii()
            assert fact.key.isprintable()
            assert 1 <= fact.version <= 1 << 53
            if not isinstance(fact, VoidFact):
                assert fact.amount_cents >= 0
        if outcome.state == "facts":
            assert outcome.amount_cents == posted(outcome)
    assert MARK not in json.dumps(operation_outcome(found))


def posted(outcome: Outcome) -> int:
    return sum(fact.amount_cents for fact in outcome.facts if isinstance(fact, ChargeFact | PaymentFact))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value where something could be put."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def mutate(value: Any, draw: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 4)):
        where = places(value)
        if not where:
            break
        holder, key = draw.choice(where)
        match draw.randrange(4):
            case 0:
                holder[key] = copy.deepcopy(draw.choice(STRANGE))
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                name = draw.choice([MARK, "value", "extension", "contained", "status", "_status", "id"])
                holder[name] = copy.deepcopy(draw.choice(STRANGE))
            case _:
                other, place = draw.choice(where)
                holder[key] = copy.deepcopy(other[place])
    return value


@given(st.integers(0, 10**9))
def test_mutations_never_fail(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(5):
        check(list(outcomes(body(mutate(EVERYTHING, draw)))))


@given(st.binary(max_size=200))
def test_bytes_never_fail(content: bytes) -> None:
    check(list(outcomes(content)))


def test_torn_and_bent_bytes_never_fail() -> None:
    content, draw = body(EVERYTHING), random.Random(1)
    for _ in range(300):
        bent = bytearray(content[: draw.randrange(len(content))] if draw.random() < 0.3 else content)
        for _ in range(draw.randint(1, 3)):
            bent[draw.randrange(len(bent))] = draw.randrange(256)
        assert list(outcomes(bytes(bent))) is not None


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("r4spec_*.json")), ids=lambda path: path.stem)
def test_mutated_samples_never_fail(path: Path) -> None:
    value, draw = json.loads(path.read_bytes()), random.Random(2)
    for _ in range(20):
        check(list(outcomes(body(mutate(value, draw)))))


amounts = st.one_of(
    st.decimals(0, 10**6, places=2).map(str),
    st.sampled_from(["0", "1.005", "1e3", "-1.00", "99999999999", "0.10"]),
)
readable_charge = st.sampled_from(["billable", "billed", "planned", "unknown", "entered-in-error", "aborted"])
document_status = st.sampled_from(["active", "draft", "cancelled"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A resource, and the cents that can be read in it unless it is a deletion."""
    kind = draw(st.sampled_from(["ChargeItem", "Claim", "Invoice", "PaymentReconciliation"]))
    currency = draw(st.sampled_from(["USD", "USD", "USD", "EUR"]))
    texts = draw(st.lists(amounts, min_size=1, max_size=4))
    cents = sum(_readable(text) for text in texts) if currency == "USD" else 0
    if kind == "ChargeItem":
        status = draw(readable_charge)
        made = charge_item(priceOverride=money(texts[0], currency), status=status)
        cents = _readable(texts[0]) if currency == "USD" else 0
    elif kind == "Claim":
        status = draw(document_status)
        lines = [claim_item(i, net=money(text, currency)) for i, text in enumerate(texts, 1)]
        made = claim(*lines, status=status)
    elif kind == "Invoice":
        status = draw(st.sampled_from(["draft", "issued", "balanced", "cancelled"]))
        texts = [text.removeprefix("-") for text in texts]
        cents = sum(_readable(text) for text in texts) if currency == "USD" else 0
        parts = [[{"type": "base", "amount": money(text, currency)}] for text in texts]
        made = invoice(*(invoice_line(sequence=i, priceComponent=one) for i, one in enumerate(parts, 1)), status=status)
    else:
        status = draw(document_status)
        details = [detail(text) for text in texts] if draw(st.booleans()) else []
        made = reconciliation(None, *details, paymentAmount=money(texts[0], currency), status=status)
        cents = _readable(texts[0]) if currency == "USD" else 0
    return made, 0 if status in ("cancelled", "entered-in-error", "aborted") else cents


def _readable(text: str) -> int:
    scaled = Decimal(text) * 100
    return int(scaled) if scaled == int(scaled) and scaled <= 99_999_999_999 else 0


@given(st.lists(documents(), max_size=6))
def test_money_in_is_money_out(made: list[tuple[dict[str, Any], int]]) -> None:
    """Money stated = money of facts + ignored + refused, resource by resource and in total."""
    found = list(outcomes(body(bundle(*(one for one, _ in made), patient()))))[: len(made)]
    check(found)
    assert [outcome.amount_cents for outcome in found] == [cents for _, cents in made]
    held = sum(outcome.amount_cents for outcome in found if outcome.state != "facts")
    assert sum(map(posted, found)) + held == sum(cents for _, cents in made)
