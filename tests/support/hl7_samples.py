"""HL7 v2 samples: those kept here, those shared beside the project when they are there, and damaged ones."""

from __future__ import annotations

import random
from pathlib import Path

COPIED = Path(__file__).resolve().parents[1] / "data" / "hl7"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "samples" / "hl7v2"
SAMPLES = [path for folder in (COPIED, SHARED) if folder.is_dir() for path in sorted(folder.rglob("*.*"))]


def mutations(count: int, seed: int) -> list[bytes]:
    """Samples with bytes changed, taken out, put in twice, swapped or cut off."""
    chance = random.Random(seed)
    originals = [path.read_bytes() for path in SAMPLES if path.stat().st_size < 12_000]
    special = b'|^~\\&\r\n\x0b\x1c\x00\xff\xc3MSHFT1BTS0-."X'
    found = []
    for _ in range(count):
        raw = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 1, 2, 5, 30))):
            at = chance.randrange(len(raw) + 1)
            length = chance.choice((0, 1, 1, 4, 40))
            match chance.randrange(4):
                case 0:
                    raw[at : at + length] = bytes(chance.choice(special) for _ in range(length))
                case 1:
                    del raw[at : at + length]
                case 2:
                    raw[at:at] = raw[at : at + length]
                case _:
                    raw[at : at + 1] = bytes([chance.randrange(256)])
        found.append(bytes(raw[: chance.choice((len(raw), len(raw), chance.randrange(len(raw) + 1)))]))
    return found
