"""The tokenizer and the totals: any chunking, any separators, any cut and any damage."""

from __future__ import annotations

import io
import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyx12.x12file import X12Reader  # type: ignore[import-untyped]

from services.ledger.feeds.x12.model import Claim, Event, Header, ProviderAdjustment, Transaction
from services.ledger.feeds.x12.reader import MAX_SEGMENT, X12Unreadable, segments
from services.ledger.feeds.x12.remittance import read, survey
from tests.support.x12_builder import ClaimPayment, Payment, ProviderLevel, Service, Syntax, x12_file

COPIED = Path(__file__).resolve().parents[1] / "data" / "x12"
CLEAN = [p for p in sorted(COPIED.iterdir()) if not re.match(r"2\d_bad", p.name)]

cents = st.integers(-50_000, 50_000)
cas = st.tuples(st.sampled_from(["CO", "PR", "OA", "PI"]), st.sampled_from(["45", "253", "2", "23"]), cents)
services = st.builds(
    Service,
    charge_cents=st.integers(0, 100_000),
    adjustments=st.lists(cas, max_size=9),
    code=st.sampled_from(["97110", "97140", "G0283"]),
    modifiers=st.lists(st.sampled_from(["GP", "59", "KX"]), max_size=4),
    control_number=st.sampled_from(["", "1", "LINE 7"]),
)
claims = st.builds(
    ClaimPayment,
    account=st.sampled_from(["PT-1", "PT-2", "9001"]),
    services=st.lists(services, max_size=3),
    charge_only_cents=cents,
    adjustments=st.lists(cas, max_size=8),
    status=st.sampled_from(["1", "2", "4", "22", "25"]),
    last_name=st.sampled_from(["DOE", "NUÑEZ", "O NEIL"]),
)
provider_levels = st.builds(
    ProviderLevel, reason=st.sampled_from(["WO", "FB", "L6"]), cents=cents, reference=st.sampled_from(["", "R1"])
)
payments = st.builds(
    Payment,
    trace=st.sampled_from(["EFT1", "0004512"]),
    claims=st.lists(claims, min_size=1, max_size=3),
    provider_level=st.lists(provider_levels, max_size=3),
)
separators = st.permutations("*~:^|>'+!\x1c\x1d\x1e").map(
    lambda order: Syntax(element=order[0], component=order[1], terminator=order[2], repetition=order[3])
)


def outcome(content: bytes) -> list[Event] | None:
    """Everything the file says, or None if it is refused; anything but X12Unreadable is a failure of the test."""
    try:
        return list(read([content]))
    except X12Unreadable:
        return None


def sample(name: str) -> bytes:
    return (COPIED / name).read_bytes()


@settings(deadline=None)
@given(st.lists(payments, min_size=1, max_size=3))
def test_what_is_built_balances(built: list[Payment]) -> None:
    events = list(read([x12_file(built)]))
    transactions = [event for event in events if isinstance(event, Transaction)]
    assert [t.problems for t in transactions] == [()] * len(built)
    assert [t.header.amount_cents for t in transactions if t.header] == [p.net_cents for p in built]
    assert all(not event.problems for event in events if isinstance(event, Claim))


@settings(deadline=None)
@given(st.lists(payments, min_size=1, max_size=2), separators, st.sampled_from(["", "\n", "\r\n", " \n"]))
def test_separators_and_line_breaks_do_not_matter(built: list[Payment], syntax: Syntax, newline: str) -> None:
    assert list(read([x12_file(built, syntax=replace(syntax, newline=newline))])) == list(read([x12_file(built)]))


@pytest.mark.parametrize("terminator", ["\n", "\r", "\r\n", "\n~", "\r\n~"])
def test_terminators_made_of_line_breaks(terminator: str) -> None:
    """`\\n~` is what TigerShark's examples and a BCBSAL remit have: the break before the terminator."""
    content = sample("10_two_ST_two_payers_one_GS.835")
    broken = content.replace(b"~\n", terminator.encode())
    whole = outcome(content)
    assert whole
    assert outcome(broken) == whole
    if terminator.endswith("~"):
        unended = broken.removesuffix(b"~")
        assert outcome(unended) == whole
        assert outcome(unended * 2) == outcome(content * 2)


@settings(deadline=None)
@given(st.sampled_from(CLEAN), st.lists(st.integers(0, 2000), max_size=40))
def test_chunks_do_not_matter(path: Path, cuts: list[int]) -> None:
    content = path.read_bytes()
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [content[a:b] for a, b in pairwise(edges)]
    assert list(read(chunks)) == list(read([content]))
    assert list(read(content[i : i + 1] for i in range(len(content)))) == list(read([content]))


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1_000_000])
def test_a_long_file_does_not_depend_on_its_chunks(size: int) -> None:
    claim = ClaimPayment(account="PT-1", services=[Service(charge_cents=12_345, adjustments=[("CO", "45", 45)])])
    content = x12_file([Payment(trace="T", claims=[claim] * 2000)]) + sample("12_odd_delimiters_no_newlines.835")
    assert survey([content[i : i + size] for i in range(0, len(content), size)]) == survey([content])
    assert [t.claims for t in survey([content])] == [2000, 1]


@pytest.mark.parametrize("newline", [b"\n", b"", b"\r\n"])
def test_a_file_cut_anywhere_is_refused_or_whole(newline: bytes) -> None:
    content = sample("02_reversal_and_correction_same_835.835").replace(b"~\n", b"~" + newline)
    whole = outcome(content)
    assert whole
    for cut in range(len(content)):
        kept = outcome(content[:cut])
        assert kept is None or (kept == whole and cut > content.rindex(b"~"))


@pytest.mark.parametrize("name", ["14_crlf_terminator_only.835", "01_clean_two_lines.835"])
def test_a_file_cut_after_a_break_in_a_name_is_refused(name: str) -> None:
    content = sample(name).replace(b"~\n", b"\n~")
    whole = outcome(content)
    for cut in range(len(content)):
        assert outcome(content[:cut]) in (None, whole)


def money(events: list[Event]) -> list[object]:
    """What must not change unnoticed."""
    found: list[object] = []
    for event in events:
        if isinstance(event, Header):
            found.append(event.amount_cents)
        elif isinstance(event, ProviderAdjustment):
            found.append(event.cents)
        elif isinstance(event, Claim):
            adjustments = (*event.adjustments, *(a for line in event.lines for a in line.adjustments))
            found.append((event.charge_cents, event.paid_cents, sum(a.cents for a in adjustments)))
    return found


def test_damage_is_refused_or_flagged_and_never_an_error() -> None:
    """One damaged byte, one lost or repeated stretch: either no amount moved, or the file says that something is wrong.

    A stretch without any terminator leaves the segment count as it was, so amounts that moved must not balance.
    """
    rng = random.Random(835)
    for _ in range(4000):
        content = bytearray(rng.choice(CLEAN).read_bytes())
        original = outcome(bytes(content))
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at : at + rng.choice((1, 1, 3, 40, 200))]
            case 3:
                content[at:at] = content[at : at + rng.choice((1, 2, 40))]
        damaged = outcome(bytes(content))
        if damaged is None:
            continue
        clean = not any(event.problems for event in damaged if not isinstance(event, Header | ProviderAdjustment))
        assert original
        assert not clean or money(damaged) == money(original), bytes(content)


@settings(deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_noise_is_refused(noise: bytes, after_isa: bool) -> None:
    start = sample("01_clean_two_lines.835")[:107] if after_isa else b""
    assert outcome(start + noise) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n",
        b"<html><body>Your session has expired</body></html>",
        b"ISA*00*",
        sample("01_clean_two_lines.835")[:105],
        sample("01_clean_two_lines.835").replace(b"~", b"").replace(b"\n", b""),
        sample("01_clean_two_lines.835").decode().encode("utf-16"),
        sample("01_clean_two_lines.835") + b"IEA*1*000000101~",
        sample("01_clean_two_lines.835") + b"and more",
        sample("01_clean_two_lines.835").replace(b"SE*29", b"IEA~ISA~SE*29"),
        sample("01_clean_two_lines.835").replace(b"PAT", b"P\0T"),
        sample("01_clean_two_lines.835").replace(b"GE*1*1~\n", b""),
        sample("01_clean_two_lines.835").replace(b"SE*29*0001~\n", b""),
        sample("10_two_ST_two_payers_one_GS.835").replace(b"SE*29*0001~\n", b""),
        sample("11_same_check_twice_two_ISA.835").replace(b"IEA*1*000000111~\n", b""),
        sample("01_clean_two_lines.835").replace(b"BPR*I*98.36", b"BPR*I*98,36"),
        sample("01_clean_two_lines.835").replace(b"DOE", b"D" * MAX_SEGMENT),
        sample("01_clean_two_lines.835").replace(b"~\n", b":\n"),
        sample("01_clean_two_lines.835").replace(b"~\n", b"*\n"),
    ],
)
def test_what_is_no_whole_remittance_is_refused(content: bytes) -> None:
    with pytest.raises(X12Unreadable) as refusal:
        survey([content])
    assert refusal.value.detail


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_called_that(encoding: str) -> None:
    """Notepad and PowerShell write it; "no ISA" would send a person looking for an ISA that he sees."""
    with pytest.raises(X12Unreadable, match="UTF-16"):
        survey([sample("01_clean_two_lines.835").decode().encode(encoding)])


def test_text_around_interchanges() -> None:
    content = sample("01_clean_two_lines.835")
    whole = outcome(content)
    assert whole
    assert outcome(b"From: payer\r\nSubject: VISA* and ISA-1, GS-1\r\n\r\n" + content) == whole
    assert outcome(b"\xef\xbb\xbf" + content + b"\r\n\x1a\0\0") == whole
    assert outcome(content.replace(b"~\n", b"~\n  ")) == whole
    wrapped = content.replace(b"\n", b"")
    for width in range(60, 104):
        assert outcome(b"\r\n".join(wrapped[i : i + width] for i in range(0, len(wrapped), width))) == whole, width
    several = content + b"\n\n" + sample("12_odd_delimiters_no_newlines.835") + b"\xef\xbb\xbf" + content
    assert [t.ordinal for t in survey([several])] == [1, 2, 3]


@pytest.mark.parametrize(("codec", "name"), [("cp1252", "O’BRIEN"), ("latin-1", "MÜLLER"), ("latin-1", "M\x90LLER")])
def test_names_are_utf8_or_western_segment_by_segment(codec: str, name: str) -> None:
    content = sample("10_two_ST_two_payers_one_GS.835")
    first, _, second = content.partition(b"DOE")
    mixed = "NUÑEZ".encode().join((first, second.replace(b"DOE", name.encode(codec))))
    assert [event.patient.last for event in outcome(mixed) or [] if isinstance(event, Claim)] == ["NUÑEZ", name]


@pytest.mark.parametrize("path", CLEAN, ids=lambda path: path.name)
def test_segments_are_those_of_another_reader(path: Path) -> None:
    text = path.read_bytes().decode("utf-8-sig")
    if path.name.startswith("14_"):
        text = text.replace("\r\n", "~\n")  # pyx12 takes the line break for part of its terminator, and then loses it
    expected = [(s.get_seg_id(), len(s)) for s in X12Reader(io.StringIO(text))]
    assert [(s[0], len(s) - 1) for s in segments([path.read_bytes()])] == expected


def stream(claims: int) -> Iterator[bytes]:
    """One ST with any number of claims, none of it held."""
    frame = x12_file([Payment(trace="T", amount_cents=100 * claims, claims=[ClaimPayment(account="@")])])
    opening, _, closing = frame.partition(b"CLP*@")
    yield opening
    body = b"CLP*PT-%d*1*120*1**12*ICN%d*11*1~NM1*QC*1*DOE*PAT~SVC*HC:97110:GP*120*1**2~CAS*CO*45*119~REF*6R*%d~\n"
    for i in range(0, claims, 500):
        yield b"".join(body % (n, n, n) for n in range(i, i + 500))
    yield (
        closing[closing.index(b"SE*") :].replace(b"SE*", b"SE*%d*0001~" % (5 * claims + 9), 1).partition(b"~")[0] + b"~"
    )
    yield closing[closing.index(b"GE*") :]


def test_memory_does_not_grow_with_the_file() -> None:
    peaks = []
    for claims in (2_000, 12_000):
        tracemalloc.start()
        (transaction,) = survey(stream(claims))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (transaction.claims, transaction.problems) == (claims, ())
    assert peaks[1] < 1.2 * peaks[0] + 500_000
    assert peaks[1] < 8_000_000
