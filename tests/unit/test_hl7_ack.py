"""Acknowledgements: which code in which mode, what is echoed, where the fault is, and that nothing else is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import get_args

import pytest

from services.ledger.feeds.hl7.ack import CONDITIONS, MAX_ERRORS, acknowledge, acknowledge_batch, answer_code
from services.ledger.feeds.hl7.batch import batches
from services.ledger.feeds.hl7.dft import header_of, understand
from services.ledger.feeds.hl7.model import Code, Problem
from services.ledger.feeds.hl7.reader import Message, Segment, Unreadable, header_line, read
from tests.support.hl7_samples import COPIED, mutations

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)
MSH = r"MSH|^~\&|EMR^1.2^ISO|CLINIC|LEDGER|BILLING|20260115103000||DFT^P03^DFT_P03|EMR1|P|2.5.1"
BAD_AMOUNT = Problem("bad_amount", "FT1", 2, 11, "The value is not an amount")
NO_TRANSACTION = Problem("segment_sequence", "FT1", 1, None, "There is none")
TRAINING = Problem("wrong_processing_id", "MSH", 1, 11, "Not here")


def msh(text: str = MSH, codec: str = "utf-8") -> Segment:
    return header_line(text.encode(codec))


def ack(header: Segment | None, *problems: Problem) -> bytes:
    return acknowledge(header, problems, control_id="A1", now=NOW)


def lines(header: Segment | None, *problems: Problem) -> list[str]:
    return ack(header, *problems).decode().splitlines()


def test_an_acknowledgement_is_addressed_back_and_names_the_message() -> None:
    assert ack(msh()) == (
        rb"MSH|^~\&|LEDGER|BILLING|EMR^1.2^ISO|CLINIC|20260115103005+0000||ACK^P03^ACK|A1|P|2.5.1"
        b"\rMSA|AA|EMR1\r"
    )


def test_a_refusal_says_where_and_why() -> None:
    assert lines(msh(), BAD_AMOUNT, NO_TRANSACTION)[1:] == [
        "MSA|AE|EMR1|The value is not an amount",
        "ERR||FT1^2^11|102^Data type error^HL70357|E|bad_amount|||The value is not an amount",
        "ERR||FT1^1|100^Segment sequence error^HL70357|E|segment_sequence|||There is none",
    ]


@pytest.mark.parametrize("version", ["2.1", "2.2", "2.3", "2.3.1", "2.4"])
def test_before_2_5_an_error_is_one_field(version: str) -> None:
    assert lines(msh(MSH.replace("2.5.1", version)), BAD_AMOUNT, NO_TRANSACTION)[2:] == [
        "ERR|FT1^2^11^102&Data type error&HL70357",
        "ERR|FT1^1^^100&Segment sequence error&HL70357",
    ]


def test_every_problem_has_a_condition_of_table_0357() -> None:
    assert set(CONDITIONS) == set(get_args(Code))
    rejecting = {code for code, condition in CONDITIONS.items() if condition.rejects}
    unfit = {"unsupported_type", "unsupported_event", "wrong_processing_id", "unsupported_version"}
    assert rejecting == {*unfit, "unknown_sender"}


ORIGINAL = {"": ("AA", "AE", "AR")}
ENHANCED = {
    "AL|": ("CA", "CE", "CR"),
    "AL|NE": ("CA", "CE", "CR"),
    "AL|AL": ("CA", "CE", "CR"),
    "al|al": ("CA", "CE", "CR"),
    "NE|AL": ("AA", "AE", "AR"),
    "|AL": ("AA", "AE", "AR"),
    "NE|NE": ("", "", ""),
    "NE|": ("", "", ""),
    "ER|NE": ("", "CE", "CR"),
    "SU|NE": ("CA", "", ""),
    "NE|ER": ("", "AE", "AR"),
    "NE|SU": ("AA", "", ""),
    "ER|AL": ("AA", "CE", "CR"),
    "SU|AL": ("CA", "AE", "AR"),
    "YES|NE": ("CA", "CE", "CR"),
}


@pytest.mark.parametrize(("asked", "codes"), [*ORIGINAL.items(), *ENHANCED.items()])
def test_the_answer_is_the_one_that_is_asked_for(asked: str, codes: Sequence[str]) -> None:
    """Table 0155. At most one: a second answer would be taken for the answer to the next message."""
    header = msh(f"{MSH}|||{asked}")
    for problems, code in zip(((), (BAD_AMOUNT,), (BAD_AMOUNT, TRAINING)), codes, strict=True):
        assert answer_code(header, problems) == code
        assert ack(header, *problems).count(b"MSA|") == (1 if code else 0)
        assert not code or f"MSA|{code}|EMR1".encode() in ack(header, *problems)


def test_an_acknowledgement_is_never_acknowledged() -> None:
    for kind in ("ACK", "ACK^P03", "ack^P03^ACK"):
        header = msh(MSH.replace("DFT^P03^DFT_P03", kind))
        assert ack(header) == ack(header, TRAINING) == b""


def test_what_has_no_readable_header_is_answered_without_a_name() -> None:
    with pytest.raises(Unreadable) as caught:
        read(b"PID|1||MRN1\r")
    assert caught.value.msh is None
    assert lines(None, caught.value.problem)[:2] == [
        r"MSH|^~\&|||||20260115103005+0000||ACK|A1|P|2.5.1",
        "MSA|AE||The message does not begin with MSH",
    ]


def test_what_is_unreadable_after_its_header_is_answered_by_name() -> None:
    with pytest.raises(Unreadable) as caught:
        read(f"{MSH}\rPID|1\rtorn".encode())
    assert lines(caught.value.msh, caught.value.problem)[1].startswith("MSA|AE|EMR1|")


def test_the_answer_speaks_the_senders_language() -> None:
    text = r"MSH#!@%*#EMR Ł#CLINIC#LEDGER#BILLING#20260115103000##DFT!P03#E*1#P#2.5.1######8859/2"
    answer = ack(read(text.encode("iso8859-2")).msh, BAD_AMOUNT).decode("iso8859-2")
    header, msa, err, _ = answer.split("\r")
    assert header == "MSH#!@%*#LEDGER#BILLING#EMR Ł#CLINIC#20260115103005+0000##ACK!P03!ACK#A1#P#2.5.1######8859/2"
    assert msa == "MSA#AE#E*1#The value is not an amount"
    assert err.startswith("ERR##FT1!2!11#102!Data type error!HL70357#E#bad_amount")


def test_own_words_cannot_break_the_answer() -> None:
    odd = Problem("internal", "FT1", 1, 2, "a|b^c\rd")
    assert lines(msh(), odd)[1] == r"MSA|AE|EMR1|a\F\b\S\c\X0D\d"


def test_errors_are_bounded() -> None:
    assert len(lines(msh(), *[BAD_AMOUNT] * 5_000)) == 2 + MAX_ERRORS


def test_a_batch_is_answered_as_a_batch() -> None:
    bhs = header_line(rb"BHS|^~\&|EMR|CLINIC|LEDGER|BILLING|20260115||N||B7")
    answers = [ack(msh()), b"", ack(msh(MSH.replace("EMR1", "EMR2")), BAD_AMOUNT)]
    whole = acknowledge_batch(bhs, answers, control_id="AB1", now=NOW)
    assert whole.startswith(rb"BHS|^~\&|LEDGER|BILLING|EMR|CLINIC|20260115103005+0000||||AB1|B7" + b"\r")
    assert whole.endswith(b"\rBTS|2\r")
    (batch,) = batches(whole)
    assert batch.faults == ()
    assert [read(raw).segments[1].text(2) for raw in batch.messages] == ["EMR1", "EMR2"]
    assert acknowledge_batch(None, [], control_id="AB2", now=NOW).endswith(b"\rBTS|0\r")


DERIVED = {
    "01_charge_two_lines": "AA EMR0001",
    "02_payment_copay_PY": "AA EMR0002",
    "03_adjustment_AJ": "AA EMR0003",
    "04_credit_void_CD": "AA EMR0004",
    "06_copay_CO": "AA EMR0006",
    "07_resend_same_control_id": "AA EMR0001",
    "08_same_control_id_other_content": "AA EMR0001",  # the ledger, which knows 01, makes this AE
    "10_no_FT1": "AE EMR0010",
    "11_unknown_type": "AE EMR0011",
    "12_bad_amount": "AE EMR0012",
    "13_no_control_id": "AE ",
    "14_lf_only": "AA EMR0014",
    "15_non_ascii_name": "AA EMR0015",
    "16_escapes": "AA EMR0016",
    "17_over_64KB": "AA EMR0017",
    "19_mllp_no_end_block": "AE EMR0018A",  # as a file; over MLLP it is never answered
    "20_batch_count_mismatch": "AE EMR0018A, AE EMR0018B",
    "21_enhanced_mode": "CA EMR0021",
    "22_wrong_processing_id": "AR EMR0022",
    "23_P11_with_insurance": "AA EMR0023",
    "24_mixed_CG_PY": "AE EMR0024",
}


def answers(content: bytes) -> list[bytes]:
    """What each message of a file is answered; the faults of its batch are faults of the message."""
    found = []
    for batch in batches(content):
        for raw in batch.messages:
            header: Segment | None
            try:
                message = read(raw)
                header, problems = message.msh, understand(message).problems
            except Unreadable as error:
                header, problems = error.msh, (error.problem,)
            found.append(ack(header, *batch.faults, *problems))
    return found


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_derived_samples_get_the_stated_answer(name: str) -> None:
    (path,) = COPIED.glob(f"{name}.*")
    found = [read(answer).segments[1] for answer in answers(path.read_bytes())]
    assert ", ".join(f"{msa.text(1)} {msa.text(2)}" for msa in found) == DERIVED[name]
    for secret in (b"DOE", b"MRN000123", b"ACCT5001", b"7001", b"19700101", b"97110", b"sixty"):
        assert all(secret not in answer for answer in answers(path.read_bytes()))


def test_the_answer_to_any_damage_is_a_readable_message() -> None:
    seen: list[Message] = []
    for raw in mutations(2_000, seed=13):
        with suppress(Unreadable):
            seen += [read(answer) for answer in answers(raw) if answer]
    assert len(seen) > 1_500
    for message in seen:
        assert message.segments[1].name == "MSA"
        assert message.segments[1].text(1)[0] in "AC"
        assert header_of(message.msh).message_type == "ACK"
