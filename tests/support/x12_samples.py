"""The collection of sample 835s beside the repository, where it is present, and what its manifest says of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"

# The rules at the head of the manifest make these unreadable, whatever numbers their rows show.
UNREADABLE = {
    "affect_exhaustive_sample.txt": "no ISA",
    "keiron_blue_cross_nc_sample.txt": "no ISA",
    "derived/20_bad_missing_IEA.835": "cut before IEA",
}
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared samples are not here")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the manifest."""

    name: str
    counts: str
    rules: dict[str, str]

    @property
    def unreadable(self) -> bool:
        return self.counts == "-" or self.name in UNREADABLE


def manifest() -> list[Row]:
    """Every 835 of the collection; none where it is absent."""
    if not (SAMPLES / "MANIFEST.md").is_file():
        return []
    text = (SAMPLES / "MANIFEST.md").read_text().partition("\n## 835\n")[2].partition("\n## 837")[0]
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 9 and re.search(r"\.\w+$", cells[0]):
            rows.append(Row(cells[0], cells[3], dict(zip(("env", "T", "C", "L", "c", "p"), cells[4:10], strict=True))))
    return rows
