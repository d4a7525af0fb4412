"""Damages what is well formed: bytes of any format, and values of JSON. The same seed damages in the same way."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

STRANGE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        7,
        10**30,
        0.5,
        1e308,
        "",
        " ",
        "\x00",
        "\ud800",
        "x" * 300,
        "2026-02-30",
        "2026-01-05",
    ),
    *(
        "{}",
        "#",
        "urn:x",
        "12.345",
        "-5.00",
        "1e9",
        "٣",
        [],
        [None],
        [[]],
        {},
        {"a": {}},
        [{"a": [1]}],
        {"value": "-1"},
    ),
]
"""What a field may hold in place of what belongs there."""


def damaged(content: bytes, tokens: Sequence[bytes], draw: random.Random) -> bytes:
    """The content with a few stretches lost, repeated, moved, overwritten or cut off; or whole. `tokens`: what means
    something in its format."""
    raw = bytearray(content)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8))):
        at = draw.randrange(len(raw) + 1)
        length = draw.choice((1, 1, 2, 8, 60))
        match draw.randrange(8):
            case 0:
                raw[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del raw[at : at + length]
            case 2:
                raw[at:at] = raw[at : at + length]
            case 3:
                raw[at:at] = draw.choice(tokens)
            case 4:
                raw[at : at + length] = draw.choice(tokens)
            case 5:
                piece = bytes(raw[at : at + length])
                del raw[at : at + length]
                to = draw.randrange(len(raw) + 1)
                raw[to:to] = piece
            case 6:
                separator = draw.choice(tokens)
                parts = bytes(raw).split(separator)
                one, other = draw.randrange(len(parts)), draw.randrange(len(parts))
                parts[one], parts[other] = parts[other], parts[one]
                raw = bytearray(separator.join(parts))
            case _ if draw.random() < 0.2:
                del raw[at:]
    return bytes(raw)


def bent(value: Any, draw: random.Random) -> Any:
    """The value with a few members replaced, taken out, put in or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        places = _places(value)
        if not places:
            break
        holder, key = draw.choice(places)
        match draw.randrange(5):
            case 0 | 1:
                holder[key] = copy.deepcopy(draw.choice(STRANGE))
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[draw.choice(("id", "value", "data", "extension", "status", "a"))] = draw.choice(STRANGE)
            case _:
                other, place = draw.choice(places)
                if (holder, key) != (other, place):
                    holder[key] = copy.deepcopy(other[place])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]
