"""The character set of an HL7 message: the one that MSH-18 declares (table 0211), or a likely one; never a wrong one
under which letters would be separators."""

from __future__ import annotations

import pytest

from services.ledger.feeds.hl7.reader import Message, Unreadable, read

PLAIN = r"MSH|^~\&|EMR|CLINIC|LEDGER|BILLING|20260115103000||DFT^P03^DFT_P03|EMR1|P|2.5.1"
MESSAGE = f"{PLAIN}\rEVN|P03\rPID|1||MRN1^^^CLINIC^MR||DOE^PAT||19700101\rFT1|1|TX1||20260105||CG|97110\r"


def message(text: str, encoding: str) -> Message:
    return read(text.encode(encoding))


def declaring(charset: str, name: str = "DOE") -> str:
    return MESSAGE.replace("2.5.1\r", f"2.5.1||||||{charset}\r").replace("DOE", name)


def refused(raw: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        read(raw)
    problem = caught.value.problem
    assert (problem.code, problem.segment, problem.field) == ("unknown_charset", "MSH", 18)


@pytest.mark.parametrize(
    ("declared", "codec", "read_with"),
    [
        ("", "utf-8", "utf-8"),
        ("", "latin-1", "cp1252"),
        ("ASCII", "utf-8", "utf-8"),
        ("UNICODE UTF-8", "utf-8", "utf-8"),
        ("utf-8", "utf-8", "utf-8"),
        ("UNICODE", "utf-8", "utf-8"),
        ("UNICODE UTF-8", "latin-1", "cp1252"),
        ("8859/1", "latin-1", "cp1252"),
        ("8859/15~ASCII", "iso8859-15", "iso8859-15"),
        ("ISO 8859/1", "latin-1", "cp1252"),
        ("ISO-8859-1", "latin-1", "cp1252"),
    ],
)
def test_the_character_set_is_the_declared_one_or_a_likely_one(declared: str, codec: str, read_with: str) -> None:
    text = declaring(declared, "NUÑEZ")
    found = message(text, codec)
    assert found.msh.syntax.encoding == read_with
    assert found.segments[2].text(5) == "NUÑEZ"


@pytest.mark.parametrize("declared", ["", "ASCII", "8859/1", "UNICODE UTF-8"])
def test_names_of_windows_are_read_whatever_is_declared(declared: str) -> None:
    """As control characters, which no name may have, they would keep the charge from being posted."""
    text = declaring(declared, "O’BRIEN")
    assert message(text, "cp1252").segments[2].text(5) == "O’BRIEN"
    nothing_there = text.replace("’", "\x81")
    assert message(nothing_there, "latin-1").segments[2].text(5) == "O\x81BRIEN"


def test_every_part_of_8859_reads_its_own_letters() -> None:
    for part, letter in {2: "Ł", 5: "Ж", 7: "Ω", 9: "ğ", 15: "€"}.items():
        assert message(declaring(f"8859/{part}", letter), f"iso8859-{part}").segments[2].text(5) == letter


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("GB 18030-2000", "gb18030", "張亅"),
        ("BIG-5", "big5", "功許蓋四"),
        ("KS X 1001", "euc-kr", "김"),
        ("ISO IR87", "iso2022_jp", "山万"),
        ("~ISO IR87", "iso2022_jp", "山田"),
        ("ASCII~ISO IR87~ISO IR159", "iso2022_jp_1", "骶"),
    ],
)
def test_letters_of_several_bytes_are_letters(declared: str, codec: str, name: str) -> None:
    """Some of their bytes are those of `|`, `^` and the backslash: what is not read by its set falls apart."""
    found = message(declaring(declared, name), codec)
    assert found.segments[2].text(5) == name
    assert found.segments[2].text(7) == "19700101"


@pytest.mark.parametrize("declared", ["GB 18030-2000", "BIG-5", "KS X 1001", "ISO IR87"])
def test_what_is_not_of_such_a_set_is_not_guessed_at(declared: str) -> None:
    refused(declaring(declared, "DOEÿ").encode("latin-1"))


def test_an_unknown_character_set_matters_only_where_it_is_used() -> None:
    """Under CNS 11643 and its like, bytes that look like separators are parts of letters."""
    assert message(declaring("CNS 11643-1992"), "ascii").segments[2].text(5) == "DOE"
    refused(declaring("CNS 11643-1992", "功許蓋").encode("big5"))
    refused(declaring("CNS 11643-1992", "山田").encode("iso2022_jp"))
