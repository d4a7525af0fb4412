"""The HL7 v2 tokenizer and the batch protocol: separators, character sets, escapes, line ends, and any damage."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.feeds.hl7.batch import batches
from services.ledger.feeds.hl7.reader import MAX_FIELDS, MAX_SEGMENTS, Message, Syntax, Unreadable, content_of, read
from tests.support.hl7_samples import SAMPLES, mutations

HEADER = r"MSH|^~\&|EMR|CLINIC|LEDGER|BILLING|20260115103000||DFT^P03^DFT_P03|EMR1|P|2.5.1"
MESSAGE = f"{HEADER}\rEVN|P03\rPID|1||MRN1^^^CLINIC^MR~SSN^^^^SS||DOE&VAN^PAT\rFT1|1|TX1||20260105||CG|97110\r"


def message(text: str = MESSAGE, encoding: str = "utf-8") -> Message:
    return read(text.encode(encoding))


def refusal(raw: bytes | str) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read(raw.encode() if isinstance(raw, str) else raw)
    return caught.value


def test_fields_are_numbered_as_the_standard_numbers_them() -> None:
    msh, _, pid, ft1 = message().segments
    assert [msh.raw(n) for n in (1, 2, 3, 10, 12)] == ["|", "^~\\&", "EMR", "EMR1", "2.5.1"]
    assert (msh.text(9), msh.text(9, 2), msh.text(9, 3), msh.text(9, 4)) == ("DFT", "P03", "DFT_P03", "")
    assert (pid.text(3), pid.text(3, 4), pid.text(3, 5)) == ("MRN1", "CLINIC", "MR")
    assert [pid.syntax.part(raw, 5) for raw in pid.repetitions(3)] == ["MR", "SS"]
    assert (pid.text(5), pid.text(5, 1, 2), pid.text(5, 1, 3), pid.text(5, 2)) == ("DOE", "VAN", "", "PAT")
    assert (ft1.text(7), ft1.text(7, 2), ft1.text(7, 1, 2), ft1.text(99), ft1.raw(99)) == ("97110", "", "", "", "")
    assert ft1.repetitions(99) == []


def test_the_separators_are_those_that_msh_declares() -> None:
    swapped = MESSAGE.translate(str.maketrans("|^~\\&", "#!@%*"))
    given_, expected = message(swapped), message()
    assert [s.name for s in given_.segments] == [s.name for s in expected.segments]
    for ours, theirs in zip(given_.segments[1:], expected.segments[1:], strict=True):
        assert [ours.text(n, c, s) for n in range(9) for c in (1, 2, 3) for s in (1, 2)] == [
            theirs.text(n, c, s) for n in range(9) for c in (1, 2, 3) for s in (1, 2)
        ]


@pytest.mark.parametrize("separators", ["^~", "", "^~\\", "^^\\&", "^~\\&#x", "^~\\A", "|~\\&", "^~\\ "])
def test_separators_that_cannot_be_told_apart_are_refused(separators: str) -> None:
    problem = refusal(f"MSH|{separators}|EMR|CLINIC\rPID|1\r").problem
    assert (problem.code, problem.segment, problem.sequence, problem.field) == ("bad_syntax", "MSH", 1, 2)


def test_a_truncation_character_is_allowed() -> None:
    """MSH-2 may have a fifth character since 2.7."""
    assert message(MESSAGE.replace("^~\\&", "^~\\&#", 1)).msh.syntax == Syntax()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r", "\r\n\r\n", "\n\r"])
def test_any_line_end_will_do(end: str) -> None:
    assert message(MESSAGE.replace("\r", end)) == message()


@pytest.mark.parametrize("around", [("\x0b", "\x1c\r"), ("\ufeff", ""), ("\r\n ", "\n\x1a"), ("", "\x1c")])
def test_what_lies_around_a_message_is_not_part_of_it(around: tuple[str, str]) -> None:
    assert message(around[0] + MESSAGE.strip() + around[1]) == message()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", r"a|b^c&d~e\f"),
        (r"line\.br\line", "line\nline"),
        (r"\X41\\X0D\\XC3A9\\xE9\ ", "A\ré\\xE9\\"),
        (r"\XE9\ ", "é"),
        (r"O\X92\Brien", "O’Brien"),
        (r"\X00\ ", r"\X00" + "\\"),
        (r"\X4\ ", r"\X4" + "\\"),
        (r"\Z99\ \H\very\N\ ", "\\Z99\\ \\H\\very\\N\\"),
        (r"C:\TEMP", r"C:\TEMP"),
        ("100\\", "100\\"),
        ("\\\\", "\\\\"),
        ("  trimmed ", "trimmed"),
        ('""', ""),
    ],
)
def test_escapes(raw: str, text: str) -> None:
    """Chapter 2.7. What is not known is kept, and no escape can bring in what a database does not take."""
    assert message(f"{HEADER}\rNTE|1||{raw}\r").segments[1].text(3) == text


@given(st.text(st.characters(exclude_categories=["Cs"])), st.permutations("|^~\\&#!@%*"))
def test_escaping_comes_back(text: str, order: list[str]) -> None:
    syntax = Syntax(*order[:5])
    escaped = syntax.escape_text(text)
    assert not set(escaped) & {syntax.field, syntax.component, syntax.repetition, syntax.subcomponent, "\r", "\n"}
    assert syntax.unescape(escaped) == text


def test_a_segment_that_was_torn_is_refused_with_its_place() -> None:
    """A line break inside a field (mirth 1275): the rest of the line would be lost, and with it an amount."""
    torn = MESSAGE + "FT1|2|TX2||20260105||CG|97110^THERA\rPEUTIC^C4|||1|60.00\r"
    error = refusal(torn)
    assert (error.problem.code, error.problem.segment, error.problem.sequence) == ("segment_sequence", "FT1", 2)
    assert error.msh is not None
    assert error.msh.text(10) == "EMR1"


def test_a_name_in_small_letters_is_still_that_segment() -> None:
    assert message(MESSAGE.replace("FT1", "ft1")).segments[-1].name == "FT1"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "segment_sequence"),
        (b"\r\n", "segment_sequence"),
        (b"PID|1\rMSH|^~\\&|", "segment_sequence"),
        ("MSH|^~\\&|EMR".encode("utf-16"), "segment_sequence"),
        (MESSAGE.encode() + MESSAGE.encode(), "segment_sequence"),
        (b"MSH", "bad_syntax"),
        (b"MSHA^~\\&A", "bad_syntax"),
        (MESSAGE.encode() + b"NTE|\x00\r", "bad_syntax"),
        (MESSAGE.encode() + b"NTE|1\r" * MAX_SEGMENTS, "too_long"),
        (MESSAGE.encode() + b"\r" * MAX_SEGMENTS + b"NTE|1", "too_long"),
        (MESSAGE.encode() + b"NTE" + b"|" * MAX_FIELDS + b"|\r", "too_long"),
        (HEADER.encode() + b"|" * MAX_FIELDS, "too_long"),
    ],
)
def test_what_is_no_single_message_is_refused(raw: bytes, code: str) -> None:
    assert refusal(raw).problem.code == code


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    assert len(read(MESSAGE.encode(), len(MESSAGE)).segments) == 4
    with pytest.raises(Unreadable):
        read(MESSAGE.encode(), len(MESSAGE) - 1)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_read_or_refused(path: Path) -> None:
    """The refused ones are those that are malformed by their names; of a batch, only the bad message."""
    read_, refused = 0, 0
    try:
        for batch in batches(path.read_bytes()):
            for raw in batch.messages:
                try:
                    read(raw)
                    read_ += 1
                except Unreadable:
                    refused += 1
    except Unreadable:
        refused += 1
    malformed = re.search(r"malformed|missing-msh|segment-header-length", path.name)
    assert (refused > 0) == bool(malformed)
    assert read_ == (2 if "mid-" in path.name else 0) if malformed else read_ >= 1


def test_messages_of_a_file_come_one_by_one() -> None:
    second = MESSAGE.replace("EMR1", "EMR2")
    for file in (MESSAGE + second, f"\x0b{MESSAGE}\x1c\r\n\x0b{second}\x1c\r", f"\ufeff\n{MESSAGE}\n\n{second}"):
        (batch,) = batches(file.encode())
        assert (batch.header, batch.faults) == (None, ())
        assert [read(raw).msh.text(10) for raw in batch.messages] == ["EMR1", "EMR2"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("file", [MESSAGE, f"BHS|^~\\&|EMR\r{MESSAGE}BTS|1\r"])
def test_a_file_in_utf_16_is_called_that(file: str, encoding: str) -> None:
    with pytest.raises(Unreadable, match="UTF-16"):
        batches(file.encode(encoding))


def test_a_file_of_batches() -> None:
    bhs = HEADER.replace("MSH", "BHS").replace("||DFT^P03^DFT_P03|EMR1|P|2.5.1", "||NIGHT||B{}")
    file = f"FHS|^~\\&|EMR\r{bhs.format(1)}\r{MESSAGE}{MESSAGE}BTS|2\r{bhs.format(2)}\rBTS|0|none\rFTS|2\r"
    first, second = batches(file.encode())
    assert first.header
    assert second.header
    assert (first.header.text(11), len(first.messages), first.faults) == ("B1", 2, ())
    assert (second.header.text(11), second.messages, second.faults) == ("B2", (), ())
    uncounted = file.replace("BTS|2", "BTS").replace("FTS|2", "FTS|")
    assert [batch.faults for batch in batches(uncounted.encode())] == [(), ()]


BHS = "BHS|^~\\&|EMR\r"
FHS = "FHS|^~\\&|EMR\r"


@pytest.mark.parametrize(
    ("file", "faults"),
    [
        (f"{BHS}{MESSAGE}BTS|2\r", [["BTS"]]),
        (f"{BHS}{MESSAGE}BTS|one\r", [["BTS"]]),
        (f"{BHS}{MESSAGE}", [["BTS"]]),
        (f"{MESSAGE}BTS|1\r", [["BTS"]]),
        (f"{BHS}{MESSAGE}{BHS}{MESSAGE}BTS|1\r", [["BTS"], []]),
        (f"{FHS}{BHS}{MESSAGE}BTS|1\rFTS|2\r", [["FTS"]]),
        (f"{FHS}{BHS}{MESSAGE}BTS|1\r", [["FTS"]]),
        (f"{FHS}{BHS}{MESSAGE}", [["BTS", "FTS"]]),
        (f"{BHS}{MESSAGE}BTS|1\rFTS|1\r", [["FTS"]]),
        (f"{FHS}FTS|1\r", [["FTS"]]),
        (f"{FHS}{BHS}BTS|0\r{FHS}{BHS}BTS|0\rFTS|1\r", [["FTS"], []]),
        (f"BHS|^~\r{MESSAGE}BTS|1\r", [["BHS"]]),
        (f"\x0b{MESSAGE}\x1c\r\x0b{MESSAGE}", [["MSH"]]),
    ],
)
def test_what_may_have_lost_messages_is_told(file: str, faults: list[list[str]]) -> None:
    assert [[fault.segment for fault in batch.faults] for batch in batches(file.encode())] == faults


def test_what_lies_outside_any_message_is_refused_like_a_message() -> None:
    """It is the rest of a message whose head was lost; the others are unharmed."""
    (batch,) = batches(f"PID|1||MRN9\r{MESSAGE}".encode())
    assert [raw[:3] for raw in batch.messages] == [b"PID", b"MSH"]
    first, second = batches(f"{BHS}{MESSAGE}BTS|1\rFT1|9\r".encode())
    assert (first.faults, [raw[:3] for raw in second.messages]) == ((), [b"FT1"])


def test_no_message_at_all() -> None:
    for nothing in (b"", b"\r\n", b"\xef\xbb\xbf", b"\x0b\x1c\r"):
        with pytest.raises(Unreadable):
            batches(nothing)


def test_no_damage_raises_anything_else() -> None:
    for raw in mutations(3_000, seed=7):
        with suppress(Unreadable):
            for batch in batches(raw):
                for one in batch.messages:
                    with suppress(Unreadable):
                        read(one)


@given(st.binary(max_size=300), st.sampled_from([b"", b"MSH|^~\\&|", HEADER.encode() + b"\r"]))
def test_no_bytes_raise_anything_else(raw: bytes, start: bytes) -> None:
    with suppress(Unreadable):
        for batch in batches(start + raw):
            for one in batch.messages:
                read(one)


def _segments(raw: bytes) -> list[list[str]] | None:
    with suppress(Unreadable):
        return [segment.fields for segment in read(raw).segments]
    return None


def test_what_tells_messages_apart_is_all_that_is_read() -> None:
    """So two messages of one content come to the same, whatever stands around them."""
    for raw in mutations(2_000, seed=17):
        content = content_of(raw)
        assert _segments(content) == _segments(raw)
        assert content_of(b"\x0b" + content.replace(b"\r", b"\r\n") + b"\x1c\r\n") == content
