"""docs/hostile-input.md has each case once, and names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.test_asvs import is_test

LINES = (Path(__file__).parents[2] / "docs/hostile-input.md").read_text("utf-8").splitlines()
CASES = {int(line.split("|")[1]): re.findall(r"`(\S+::\S+)`", line) for line in LINES if re.match(r"\| \d", line)}


def test_each_case_stands_there_in_order() -> None:
    assert [*CASES] == [*range(1, 25), *range(55, 65), *range(76, 83)]


def test_each_is_shown_by_tests_that_exist() -> None:
    for case, named in CASES.items():
        assert named, case
        assert [name for name in named if not is_test(name)] == [], case
