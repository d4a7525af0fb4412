"""Every 835 sample gives what the manifest says: counts, envelope, and the three balancing rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ledger.feeds.x12.model import Claim, EnvelopeFault, Event, Transaction
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.remittance import read, survey
from tests.support.x12_samples import SAMPLES, Row, manifest, needs_samples

COPIED = Path(__file__).resolve().parents[1] / "data" / "x12"


def violations(events: list[Event]) -> dict[str, int]:
    """The columns of the manifest. A fault of GE or IEA counts once, however many transactions it concerns."""
    claims = [event for event in events if isinstance(event, Claim)]
    whole = [p.code for event in events if isinstance(event, Transaction | EnvelopeFault) for p in event.problems]
    parts = [p.code for claim in claims for p in claim.problems]
    patient = [
        claim.patient_cents
        - sum(
            a.cents for a in (*claim.adjustments, *(a for s in claim.lines for a in s.adjustments)) if a.group == "PR"
        )
        for claim in claims
        if not (claim.is_reversal or claim.is_predetermination)  # these may leave CLP05 out
    ]
    return {
        "env": whole.count("envelope_mismatch"),
        "T": whole.count("transaction_unbalanced"),
        "C": parts.count("claim_unbalanced"),
        "L": parts.count("line_unbalanced"),
        "c": sum(bool(c.lines) and sum(s.charge_cents for s in c.lines) != c.charge_cents for c in claims),
        "p": sum(difference != 0 for difference in patient),
    }


@needs_samples
def test_the_manifest_is_read_whole() -> None:
    files = {str(p.relative_to(SAMPLES / "835")) for p in (SAMPLES / "835").rglob("*") if p.is_file()}
    assert {row.name for row in manifest()} == files


@needs_samples
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row.name)
def test_sample_gives_what_the_manifest_says(row: Row) -> None:
    content = (SAMPLES / "835" / row.name).read_bytes()
    if row.unreadable:
        with pytest.raises(X12Unreadable):
            survey([content])
        return
    events = list(read([content]))
    remittances = [event for event in events if isinstance(event, Transaction) and event.set_id == "835"]
    assert f"{sum(r.claims for r in remittances)}/{sum(r.lines for r in remittances)}" == row.counts
    expected = {rule: 0 if cell in ("OK", "-") else int(cell) for rule, cell in row.rules.items()}
    assert violations(events) == expected


@needs_samples
def test_other_transaction_sets_are_counted_and_not_read() -> None:
    for path in sorted((SAMPLES / "837").iterdir()):
        transactions = survey([path.read_bytes()])
        assert transactions, path.name
        assert all(t.set_id != "835" and t.header is None and not t.content_hash for t in transactions), path.name
    mixed = survey([(SAMPLES / "835" / "pyx12_mult_isa.835").read_bytes()])
    assert [t.set_id for t in mixed].count("835") == 4
    assert [t.set_id for t in mixed].count("278") == 6


EXPECTED_REASON = {
    "22_bad_SE_count.835": "envelope_mismatch",
    "23_bad_IEA_control.835": "envelope_mismatch",
    "24_bad_ISA_whitespace_collapsed.835": "envelope_mismatch",
    "25_bad_unbalanced_BPR.835": "transaction_unbalanced",
    "27_bad_amount_text.835": "envelope_mismatch",
}
CUT_OR_FOREIGN = {"20_bad_missing_IEA.835", "28_bad_html_instead_of_edi.835", "29_bad_empty.835"}


@pytest.mark.parametrize("path", sorted(COPIED.iterdir()), ids=lambda path: path.name)
def test_derived_sample_is_taken_quarantined_or_refused(path: Path) -> None:
    if path.name in CUT_OR_FOREIGN:
        with pytest.raises(X12Unreadable):
            survey([path.read_bytes()])
        return
    reasons = {transaction.reason for transaction in survey([path.read_bytes()])}
    assert reasons == {EXPECTED_REASON.get(path.name)}


def test_the_same_check_in_two_interchanges_hashes_the_same() -> None:
    first, second = survey([(COPIED / "11_same_check_twice_two_ISA.835").read_bytes()])
    assert first.content_hash == second.content_hash
    assert first.header
    assert second.header
    assert first.header.envelope.interchange_control != second.header.envelope.interchange_control
