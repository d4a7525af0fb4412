"""The raw form of a feed in a temporary file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, Self, TypeAlias

PIECE: Final = 1 << 20


class Spooled:
    """What is in an open file by now; each iteration reads it from its beginning, wherever the file stands."""

    def __init__(self, descriptor: int, file: BinaryIO | None = None) -> None:
        self.descriptor = descriptor
        self._open = file
        self.size = os.fstat(descriptor).st_size

    @classmethod
    def of(cls, file: BinaryIO) -> Self:
        """What was written to it until now."""
        file.flush()
        return cls(file.fileno(), file)

    def __iter__(self) -> Iterator[bytes]:
        place = 0
        while piece := os.pread(self.descriptor, PIECE, place):
            yield piece
            place += len(piece)


Chunks: TypeAlias = Sequence[bytes] | Spooled
"""The raw form of a feed, to be read as often as somebody wants."""
