"""The HL7 v2 samples as data, and what is left of them when they are damaged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from services.ledger.feeds.hl7.batch import batches
from services.ledger.feeds.hl7.dft import understand
from services.ledger.feeds.hl7.model import Profile
from services.ledger.feeds.hl7.reader import Unreadable, read
from tests.support.hl7_samples import COPIED, SHARED, mutations

TABLE_0017 = ("CG", "CD", "PY", "AJ", "CO")


EXPECTED: dict[str, list[tuple[str, int | None]] | str] = {
    "01_charge_two_lines": [("CG", 12000), ("CG", 6000)],
    "02_payment_copay_PY": [("PY", 2500)],
    "03_adjustment_AJ": [("AJ", 4000)],
    "04_credit_void_CD": [("CD", 6000)],  # for the ledger: voids TX1002 of 01
    "06_copay_CO": [("CO", 2500)],
    "07_resend_same_control_id": [("CG", 12000), ("CG", 6000)],  # for the ledger: a duplicate of 01
    "08_same_control_id_other_content": [("CG", 24000)],  # for the ledger: a conflict with 01
    "10_no_FT1": "segment_sequence",
    "11_unknown_type": "unknown_kind",
    "12_bad_amount": "bad_amount",
    "13_no_control_id": "missing_field",
    "14_lf_only": [("CG", 6000)],
    "15_non_ascii_name": [("CG", 6000)],
    "16_escapes": [("CG", 6000)],
    "17_over_64KB": [("CG", 6000)] * 420,
    "19_mllp_no_end_block": "batch_mismatch",
    "20_batch_count_mismatch": "batch_mismatch",
    "21_enhanced_mode": [("CG", 6000)],
    "22_wrong_processing_id": "wrong_processing_id",
    "23_P11_with_insurance": [("CG", 12000)],
    "24_mixed_CG_PY": "bad_amount",
}


@pytest.mark.parametrize("path", sorted(COPIED.iterdir()), ids=lambda path: path.stem)
def test_derived_samples(path: Path) -> None:
    found: list[tuple[str, int | None]] = []
    codes: set[str] = set()
    for batch in batches(path.read_bytes()):
        codes.update(fault.code for fault in batch.faults)
        for raw in batch.messages:
            financial = understand(read(raw))
            codes.update(problem.code for problem in financial.problems)
            found += [(t.kind, t.amount_cents) for t in financial.transactions]
    expected = EXPECTED[path.stem]
    assert codes == ({expected} if isinstance(expected, str) else set())
    assert isinstance(expected, str) or found == expected


def test_every_derived_sample_is_expected() -> None:
    assert {path.stem for path in COPIED.iterdir()} == set(EXPECTED)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not here")
def test_dft_and_bar_samples() -> None:
    found = {}
    for path in sorted(SHARED.glob("*.hl7")):
        if re.search(r"dft|bar-", path.name, re.IGNORECASE):
            financial = understand(read(path.read_bytes()))
            assert financial.problems == ()
            assert financial.ignored == ("BAR" in path.name)
            found[path.stem] = [t.amount_cents for t in financial.transactions]
    assert {name: amounts for name, amounts in found.items() if amounts} == {
        "cosyte_dft-p03-charge": [15000, 4500],
        "msft_DFT-P03-01": [10000, 12000],
        "msft_DFT-P03-02": [10000, 12000],
        "msft_DFT-P11-01": [10000, 7000],
    }


def test_no_damage_raises_and_none_posts_in_part() -> None:
    """Of a damaged message either every line is understood, or none."""
    for raw in mutations(3_000, seed=11):
        try:
            found = batches(raw)
        except Unreadable:
            continue
        for one in (one for batch in found for one in batch.messages):
            try:
                financial = understand(read(one), replace(Profile(), missing_amount="fee_schedule"))
            except Unreadable:
                continue
            assert len(financial.transactions) in (0, financial.lines)
            assert bool(financial.transactions) == (
                financial.lines > 0 and not financial.problems and not financial.ignored
            )
            assert all(t.kind in TABLE_0017 and "\0" not in t.key for t in financial.transactions)
