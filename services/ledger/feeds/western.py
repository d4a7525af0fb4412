"""Bytes that are no UTF-8, of senders who do not declare their character set, or wrongly."""

from __future__ import annotations

from typing import Final

WINDOWS: Final = "cp1252"


def western(raw: bytes) -> tuple[str, str]:
    """The text and the codec that read it: Windows-1252, whose 80 to 9F are the apostrophe of O’Brien and its like,
    where Latin-1 has control characters that nobody sends (WHATWG Encoding reads the one as the other); with one of
    the five bytes that it lacks, Latin-1, which reads anything."""
    try:
        return raw.decode(WINDOWS), WINDOWS
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"
