"""Looking passwords up in a list of breached ones that the operator keeps beside identity (ASVS 5.0 6.2.12)."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

_DIGITS: Final = 40
_LINE: Final = re.compile(rb"([0-9A-Fa-f]{40}):[0-9]{1,12}\r?\n?\Z")
_LONGEST: Final = 64


class BreachedPasswords:
    """A file in the form in which Have I Been Pwned gives its Pwned Passwords to download: a line is the SHA-1 of a
    password in hexadecimal digits, a colon and how often it was seen; in order of the digits. It is opened once and
    never loaded: a lookup reads some forty pieces of it. A new file takes effect with a restart.

    SHA-1 is the list's choice; nothing is protected by it here."""

    def __init__(self, path: Path) -> None:
        """Raises SystemExit for a file that is not there or is none of these."""
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise SystemExit(f"BREACHED_PASSWORDS cannot be read: {error.strerror}") from None
        self._size = os.fstat(self._file.fileno()).st_size
        first, last = (self._line(0, self._size)[1], self._line(max(0, self._size - _LONGEST), self._size)[1])
        if not (_LINE.match(first) and (self._size <= _LONGEST or _LINE.match(last))):
            self.close()
            raise SystemExit("BREACHED_PASSWORDS must have lines of SHA1:COUNT in order of the hash")

    def __contains__(self, password: str) -> bool:
        """Whether the list has this password as it was typed. Reads from the disk: not for the event loop."""
        wanted = hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper().encode()
        low, high = 0, self._size  # Lines that begin here or later, and before there.
        while low < high:
            middle = (low + high) // 2
            begin, line = self._line(middle, high)
            found = line[:_DIGITS].upper()
            if begin >= high or wanted < found:
                high = middle
            elif found < wanted:
                low = begin + len(line)
            else:
                return True
        return False

    def close(self) -> None:
        self._file.close()

    def _line(self, place: int, end: int) -> tuple[int, bytes]:
        """The first line that begins at a place or after it, and where; at `end` or later it is of no interest."""
        start = max(0, place - 1)  # A line begins after a line break, and the first one at the beginning.
        piece = os.pread(self._file.fileno(), 2 * _LONGEST, start)
        skipped = piece.find(b"\n") + 1 if place else 0
        if place and not skipped:
            return end, b""
        line, line_break, _ = piece[skipped:].partition(b"\n")
        return start + skipped, line + line_break
