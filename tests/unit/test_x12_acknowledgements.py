"""TA1, 997, 999 and 277: what the samples say, what is written in answer, and that neither ever fails otherwise."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyx12.params import params
from pyx12.x12file import X12Reader
from pyx12.x12n_document import x12n_document

from services.ledger.feeds.x12.acknowledgements import Acknowledgement, Event, SegmentError, read
from services.ledger.feeds.x12.claim_status import BatchStatus, ClaimStatus, LineStatus, Status
from services.ledger.feeds.x12.model import Finding
from services.ledger.feeds.x12.reader import X12Unreadable, segments
from services.ledger.feeds.x12.remittance import contents
from services.ledger.feeds.x12.replies import Interchange, implementation_ack_999, interchanges, ta1

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
COPIED = Path(__file__).resolve().parents[1] / "data" / "x12"
AT = datetime(2026, 1, 2, 3, 4)

ISA = "ISA*00*          *00*          *ZZ*PAYER          *ZZ*CLINIC         *260105*1200*^*00501*000000042*{}*T*:~"
GS = "GS*{}*PAYER*CLINIC*20260105*1200*7*X*{}~"
END = "GE*1*7~IEA*1*000000042~"


def sample(name: str) -> bytes:
    path = SAMPLES / "837" / name
    if not path.is_file():
        pytest.skip("the samples are not here")
    return path.read_bytes()


def verdicts(content: bytes) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(e.kind, e.status, e.codes) for e in read([content]) if isinstance(e, Acknowledgement)]


def claims(content: bytes) -> list[ClaimStatus]:
    return [event for event in read([content]) if isinstance(event, ClaimStatus)]


def findings(content: bytes) -> list[str]:
    return [event.detail for event in read([content]) if isinstance(event, Finding)]


def one(body: str, set_id: str = "999", version: str = "005010X231A1") -> bytes:
    """A file with one transaction of these segments."""
    functional = "HN" if set_id == "277" else "FA"
    count = body.count("~") + 2
    text = f"{ISA.format(0)}{GS.format(functional, version)}ST*{set_id}*0001*{version}~{body}SE*{count}*0001~{END}"
    return text.encode()


# --- reading -------------------------------------------------------------------------------------------------


def test_accepted_999() -> None:
    content = sample("imsweb_x12_999_accepted.txt")
    transaction, group, _ = read([content])
    assert isinstance(transaction, Acknowledgement)
    assert isinstance(group, Acknowledgement)
    assert (transaction.functional_id, transaction.group_control, transaction.transaction_control) == (
        "HC",
        "17456",
        "0001",
    )
    assert transaction.accepted
    assert group.accepted
    assert (group.included, group.received, group.taken) == (1, 1, 1)
    assert findings(content) == ["IEA02 '000000001' differs from ISA13 '000000286'"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("imsweb_x12_999_rejected.txt", SegmentError("NM", "17", "", ("1",))),
        ("pyx12_834_eol_in_element.999", SegmentError("N3", "12", "", ("8",), (("1", "6"),))),
    ],
)
def test_rejected_999(name: str, error: SegmentError) -> None:
    content = sample(name)
    assert verdicts(content) == [("transaction", "R", ("5",)), ("group", "R", ())]
    transaction, _ = read([content])
    assert isinstance(transaction, Acknowledgement)
    assert (transaction.accepted, transaction.errors) == (False, (error,))


def test_another_accepted_999() -> None:
    assert verdicts(sample("pyx12_834_ls_le_ls.999")) == [("transaction", "A", ()), ("group", "A", ())]


def test_accepted_277ca() -> None:
    batch, claim = read([sample("imsweb_x12_277CA_accepted.txt")])
    assert batch == BatchStatus(
        level="receiver",
        trace="000000674",
        statuses=(Status("A1", "20"),),
        accepted=True,
        amount_cents=125_00,
        accepted_cents=125_00,
        rejected_cents=0,
    )
    assert claim == ClaimStatus(
        claim_id="5781",
        trace="5781",
        payer_control_number="1107000000014420",
        clearinghouse_number="",
        statuses=(Status("A2", "20"),),
        accepted=True,
        action="WQ",
        amount_cents=125_00,
        status_date=date(2011, 3, 11),
        service_from=None,  # 10010101: a masked day is none
        service_to=None,
        payer="NYSDOH",
        lines=(),
    )


def test_rejected_277ca() -> None:
    (claim,) = claims(sample("imsweb_x12_277CA_rejected.txt"))
    # The action says WQ, accept, but A7 is a rejection: the category counts.
    assert (claim.claim_id, claim.category, claim.code, claim.action, claim.accepted) == (
        "3920394930203",
        "A7",
        "562",
        "WQ",
        False,
    )
    assert claim.payer_control_number == "1107000000001120"


def test_277ca_with_lines() -> None:
    content = sample("kreddys_277CA.test.0001.edi")
    assert [(c.claim_id, c.accepted, c.amount_cents) for c in claims(content)] == [
        ("4001/1339", True, 200_00),
        ("2890/4", False, 500_00),
        ("00000000000000000000", False, 300_00),
    ]
    assert claims(content)[1].lines == (
        LineStatus(control_number="11", statuses=(Status("A3", "122"), Status("A3", "153", "82")), accepted=False),
    )
    assert claims(content)[0].service_to == date(2006, 1, 31)
    (batch,) = (event for event in read([content]) if isinstance(event, BatchStatus))
    assert (batch.accepted_cents, batch.rejected_cents) == (200_00, 800_00)


def test_answer_to_a_status_request() -> None:
    found = claims(sample("imsweb_x12_277_x212.txt"))
    assert [claim.claim_id for claim in found] == [f"1234{n}" for n in (5, 6, 7, 8, 9, 0, 1, 2)]
    assert sum(claim.amount_cents for claim in found) == 2030_00
    assert all(claim.accepted for claim in found)


def test_277_with_statuses_out_of_place() -> None:
    content = sample("genformai_sample-277.edi")
    (claim,) = claims(content)
    assert (claim.claim_id, claim.statuses, claim.accepted) == ("CLAIM123", (), None)
    assert findings(content) == ["STC01 is not a claim status", "SE01 is '16', but there are 15 segments"]


@pytest.mark.parametrize(
    "name", ["genformai_sample-837.edi", "irobayna_wheelchair.edi", "moov-io_sample.txt", "moov-io_sample_2.txt"]
)
def test_837_is_no_acknowledgement(name: str) -> None:
    content = sample(name)
    with pytest.raises(X12Unreadable, match="no acknowledgement"):
        list(read([content]))


def test_ta1() -> None:
    content = f"{ISA.format(0)}TA1*000000905*260105*1200*R*025~IEA*0*000000042~".encode()
    (verdict,) = read([content])
    assert isinstance(verdict, Acknowledgement)
    assert (verdict.kind, verdict.interchange_control, verdict.accepted, verdict.codes) == (
        "interchange",
        "000000905",
        False,
        ("025",),
    )


def test_ta1_alone_whose_sender_counts_it_as_a_group() -> None:
    """IEA01 counts groups, of which there are none; but some write 1 for the TA1, and a rejection must not be lost."""
    told = "TA1*000000905*260105*1200*R*025~"
    for body, sent in ((told, 1), (told * 2, 2)):
        content = f"{ISA.format(0)}{body}IEA*1*000000042~".encode()
        assert [verdict[1] for verdict in verdicts(content)] == ["R"] * sent
        found = contents([content * 2])
        assert (found.acknowledgements, found.transactions) == (2 * sent, ())


@pytest.mark.parametrize(
    "text",
    [
        f"{ISA}IEA*1*000000042~",
        f"{ISA}TA1*000000905*260105*1200*A*000~IEA*2*000000042~",
        f"{ISA}TA1*000000905*260105*1200*A*000~IEA*1*000000043~",
        f"{ISA}TA1*000000905*260105*1200*A*000~LX*1~IEA*1*000000042~",
        f"{ISA}TA1*000000905*260105*1200*A*000~IEA*1*000000042~{ISA}IEA*1*000000042~",
    ],
    ids=["no TA1", "two groups", "another number", "a stray segment", "the next is empty"],
)
def test_an_interchange_that_may_have_lost_something_is_refused(text: str) -> None:
    with pytest.raises(X12Unreadable, match="without any transaction"):
        contents([text.format(0, 0).encode()])


def test_997_and_a_group_accepted_in_part() -> None:
    body = "AK1*HC*9~AK2*837*1~AK5*A~AK2*837*2~AK3*NM1*8**8~AK4*9*67*1~AK4*3**7~AK5*R*5*I5~AK9*P*2*2*1~"
    accepted, rejected, group = read([one(body, "997", "004010")])
    assert isinstance(accepted, Acknowledgement)
    assert isinstance(rejected, Acknowledgement)
    assert isinstance(group, Acknowledgement)
    assert (accepted.accepted, accepted.errors, rejected.accepted, rejected.codes) == (True, (), False, ("5", "I5"))
    assert rejected.errors == (SegmentError("NM1", "8", "", ("8",), (("9", "1"), ("3", "7"))),)
    assert (group.status, group.accepted, group.taken) == ("P", False, 1)


def test_missing_verdicts_are_found() -> None:
    assert findings(one("AK1*HC*9~AK2*837*1~AK2*837*2~IK5*A~AK9*A*2*2*2~")) == [
        "A transaction is named in AK2, but nothing is said about it"
    ]
    assert findings(one("AK1*HC*9~AK2*837*1~IK5*A~")) == ["A group is named in AK1, but AK9 says nothing about it"]


def test_several_claims_of_one_patient() -> None:
    body = "HL*1**20*1~NM1*PR*2*P~HL*2*1*PT~TRN*2*A~STC*A2:20*20260105*WQ*10~TRN*2*B~STC*A1:20**U*.5~REF*1K*X~"
    first, second = claims(one(body, "277", "005010X214"))
    assert (first.claim_id, first.accepted, first.payer_control_number, first.payer) == ("A", True, "", "P")
    assert (second.claim_id, second.accepted, second.payer_control_number) == ("B", False, "X")
    assert (first.amount_cents, second.amount_cents) == (10_00, 50)


# --- writing -------------------------------------------------------------------------------------------------


def answers(content: bytes, **options: bool) -> list[bytes]:
    """Every answer that could be given to a file, each read again by two readers."""
    written = []
    for interchange in interchanges([content]):
        written.append(ta1(interchange, control=7, at=AT, **options))
        ack = implementation_ack_999(interchange, control=8, at=AT)
        written += [ack] if ack else []
    for answer in written:
        assert not [event for event in read([answer]) if isinstance(event, Finding)]
        reader = X12Reader(io.StringIO(answer.decode()))
        assert list(reader)
        assert not reader.pop_errors()
    return written


def derived(number: int) -> bytes:
    (path,) = COPIED.glob(f"{number:02}_*")
    return path.read_bytes()


def remittance(st: str = "ST*835*0001~", se: str = "SE*3*0001~", end: str = END, asked: int = 1) -> bytes:
    return f"{ISA.format(asked)}{GS.format('HP', '005010X221A1')}{st}BPR*I*0*C*NON~{se}{end}".encode()


def test_good_remittance() -> None:
    assert [answer.decode() for answer in answers(remittance())] == [
        "ISA*00*          *00*          *ZZ*CLINIC         *ZZ*PAYER          *260102*0304*^*00501*000000007*0*T*:~\n"
        "TA1*000000042*260105*1200*A*000~\n"
        "IEA*0*000000007~\n",
        "ISA*00*          *00*          *ZZ*CLINIC         *ZZ*PAYER          *260102*0304*^*00501*000000008*0*T*:~\n"
        "GS*FA*CLINIC*PAYER*20260102*0304*8*X*005010X231A1~\n"
        "ST*999*0001*005010X231A1~\n"
        "AK1*HP*7*005010X221A1~\n"
        "AK2*835*0001~\n"
        "IK5*A~\n"
        "AK9*A*1*1*1~\n"
        "SE*6*0001~\n"
        "GE*1*8~\n"
        "IEA*1*000000008~\n",
    ]


@pytest.mark.parametrize("st", ["ST*835*0001~", "ST*835*0001*005010X221A1~"])
def test_999_is_valid_to_an_independent_validator(st: str) -> None:
    """With and without ST03: the writer of that very library cannot do without."""
    answer = answers(remittance(st))[1]
    assert (b"AK2*835*0001*005010X221A1~" in answer) == ("X221" in st)
    assert x12n_document(params(), io.StringIO(answer.decode()), None, None, None)


@pytest.mark.parametrize(
    ("content", "envelope", "transactions", "group"),
    [
        (remittance(), "000", ["A"], ("A",)),
        (derived(22), "000", ["R4"], ("R",)),
        (derived(23), "001", [], None),
        (derived(20), "023", [], None),
        (remittance(end="GE*2*7~IEA*1*000000042~"), "000", ["A"], ("R", "5")),
        (remittance(end="GE*1*8~IEA*1*000000042~"), "000", ["A"], ("R", "4")),
        (remittance(se="SE*3*0002~"), "000", ["R3"], ("R",)),
        (remittance(end="IEA*1*000000042~"), "022", [], None),
        (remittance(end="GE*1*7~IEA*2*000000042~"), "021", [], None),
        (remittance(end="GE*1*7~"), "023", [], None),
        (remittance(end="GE*1*7\x00~" + END), "024", [], None),
        (
            remittance("ST*835*1~SE*2*1~ST*820*2~SE*2*2~ST*835*0001~", end="GE*3*7~IEA*1*000000042~"),
            "000",
            ["A", "R1", "A"],
            ("P",),
        ),
    ],
)
def test_verdict(content: bytes, envelope: str, transactions: list[str], group: tuple[str, ...] | None) -> None:
    told = [verdict for answer in answers(content) for verdict in verdicts(answer)]
    assert told[0] == ("interchange", "A" if envelope == "000" else "R", (envelope,))
    assert [status + "".join(codes) for kind, status, codes in told if kind == "transaction"] == transactions
    assert [(status, *codes) for kind, status, codes in told if kind == "group"] == ([group] if group else [])


def test_duplicate_and_faulty_content() -> None:
    (interchange,) = interchanges([remittance()])
    assert verdicts(ta1(interchange, control=1, at=AT, duplicate=True)) == [("interchange", "R", ("025",))]
    answer = implementation_ack_999(interchange, control=1, at=AT, faulty={1})
    assert verdicts(answer or b"") == [("transaction", "R", ("5",)), ("group", "R", ())]


def test_who_is_answered() -> None:
    assert [one.wants_reply for one in interchanges([remittance(asked=1) + remittance(asked=0)])] == [True, False]
    (interchange,) = interchanges([one("AK1*HC*9~AK9*A*0*0*0~")])
    assert implementation_ack_999(interchange, control=1, at=AT) is None
    with pytest.raises(X12Unreadable):
        interchanges([b"<html>"])


def test_separators_avoid_what_is_repeated() -> None:
    content = remittance().decode().replace("*", "|").replace("GS|HP|PAYER", "GS|HP|PA*Y:R").encode()
    (_, answer) = answers(content)
    head = next(iter(segments([answer])))
    assert (answer[3:4], head[16], answer[-2:]) == (b"|", ">", b"~\n")
    group = next(segment for segment in segments([answer]) if segment[0] == "GS")
    assert group[3] == "PA*Y:R"


@pytest.mark.parametrize("path", sorted((SAMPLES / "835").rglob("*.*")), ids=lambda path: path.name)
def test_every_835_sample_can_be_answered(path: Path) -> None:
    try:
        assert answers(path.read_bytes())
    except X12Unreadable:
        assert b"ISA*" not in path.read_bytes()


# --- robustness ----------------------------------------------------------------------------------------------

SOURCES = [
    remittance(),
    one("AK1*HC*9~AK2*837*1~AK3*NM1*8**8~AK4*9*67*1~AK5*R*5~AK9*P*2*2*1~", "997"),
    one("HL*1**20*1~NM1*PR*2*P~HL*2*1*PT~TRN*2*A~STC*A2:20*20260105*WQ*10~SVC*HC:1*5~STC*A3:1**U~", "277"),
    *(path.read_bytes() for path in sorted((SAMPLES / "837").glob("*")) if "999" in path.name or "277" in path.name),
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    parts = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.randrange(len(parts)) for _ in range(2))
        match draw.randrange(5):
            case 0:
                del parts[at : min(end, at + 40)]
            case 1:
                parts[at:at] = parts[at : min(end, at + 60)]
            case 2:
                parts[at] = draw.randrange(256)
            case 3:
                parts[at] = draw.choice(b"*:~^\r\n")
            case _:
                rows = bytes(parts).split(b"~")
                draw.shuffle(rows)
                parts = bytearray(b"~".join([rows[0], *rows[1:]]))
        parts = parts or bytearray(b"~")
    return bytes(parts)


@given(st.sampled_from(SOURCES), st.integers(0, 10**9))
def test_mutations_are_read_or_refused(content: bytes, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(10):
        damaged = mutated(content, draw)
        found: list[Event] = []
        with suppress(X12Unreadable):
            found = list(read([damaged]))
        for event in found:
            assert not isinstance(event, ClaimStatus) or event.accepted is None or event.statuses
        try:
            answered: list[Interchange] = interchanges([damaged])
        except X12Unreadable:
            continue
        for interchange in answered:
            for answer in (ta1(interchange, control=1, at=AT), implementation_ack_999(interchange, control=1, at=AT)):
                assert answer is None or not [e for e in read([answer]) if isinstance(e, Finding)]


@given(st.binary(max_size=300))
def test_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(X12Unreadable):
        list(read([content]))


@given(st.sampled_from(SOURCES), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_chunks_do_not_matter(content: bytes, sizes: list[int]) -> None:
    def events(chunks: list[bytes]) -> list[Event] | str:
        try:
            return list(read(chunks))
        except X12Unreadable as unreadable:
            return unreadable.detail

    chunks, at = [], 0
    for size in sizes:
        chunks.append(content[at : at + size])
        at += size
    assert events([*chunks, content[at:]]) == events([content])
