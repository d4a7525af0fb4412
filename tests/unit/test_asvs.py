"""docs/asvs.md keeps to its own rules: each requirement once, statuses counted, everything that is named exists. In the
threat model as well."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
DOCUMENT = (ROOT / "docs/asvs.md").read_text("utf-8")
STATUSES = ("met", "not applicable", "open")
SUFFIXES = (".conf", ".lock", ".md", ".py", ".sql", ".toml", ".txt", ".yml")
HEAD = re.compile(
    r"^(\d+) requirements: (\d+) met, (\d+) not applicable, (\d+) open\."
    r" Of those met, (\d+) are shown by tests and (\d+) by reading\.$",
    re.MULTILINE,
)


class Row(NamedTuple):
    chapter: str
    id: str
    asks: str
    status: str
    how: str
    shown_by: tuple[str, ...]


def rows(document: str) -> list[Row]:
    """The tables' rows, with the heading of the chapter they stand under."""
    found, chapter = [], ""
    for line in document.splitlines():
        if line.startswith("## "):
            chapter = line.split()[1]
        elif line.startswith("| V"):
            id_, asks, status, how, shown_by = (cell.strip() for cell in line.strip("|").split("|"))
            found.append(Row(chapter, id_, asks, status, how, tuple(re.findall(r"`([^`]*)`", shown_by))))
    return found


def levels() -> dict[str, int]:
    lines = (TESTS / "data/asvs_ids.txt").read_text("utf-8").splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    assert len({id_ for id_, _ in pairs}) == len(pairs)
    return {id_: int(level) for id_, level in pairs}


@cache
def functions(path: Path) -> frozenset[str]:
    """Names of the functions of a module, those of its classes too."""
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_test(name: str) -> bool:
    """Whether `path::test_name`, from `tests/` on, is there."""
    path, _, function = name.partition("::")
    return function.startswith("test_") and (TESTS / path).is_file() and function in functions(TESTS / path)


@cache
def sections(path: Path) -> frozenset[str]:
    """The anchors of a document's headings, as they are made of its words."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings)


def files(row: Row) -> Iterable[str]:
    """Files and folders of the project that a row names."""
    for name in re.findall(r"`([^`\s]+)`", row.how):
        if name.endswith(SUFFIXES) or (name[0].isalpha() and name.endswith("/")):
            yield name


ROWS = rows(DOCUMENT)


def test_each_requirement_stands_there_once_in_order_and_in_its_chapter() -> None:
    assert [row.id for row in ROWS] == list(levels())
    assert [row for row in ROWS if row.id.split(".")[0] != row.chapter] == []


def test_the_list_holds_levels_1_and_2_and_of_authorization_all() -> None:
    """As ASVS 5.0.0 counts them: 70 of level 1, 183 of level 2, six of level 3 in V8."""
    assert Counter(levels().values()) == {1: 70, 2: 183, 3: 6}
    assert {id_.split(".")[0] for id_, level in levels().items() if level == 3} == {"V8"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_says_something_that_can_be_looked_at(row: Row) -> None:
    assert row.status in STATUSES
    assert row.asks
    assert row.how.endswith(".")
    for name in row.shown_by:
        assert is_test(name), name
    for name in files(row):
        assert (ROOT / name).exists(), name
    links = re.findall(r"\]\(([\w-]+\.md)#([\w-]+)\)", row.how)
    for document, section in links:
        assert section in sections(ROOT / "docs" / document), section
    if row.status == "met":
        assert row.shown_by or links or list(files(row)), "by which test, document or file?"


def test_the_head_counts_right() -> None:
    head = HEAD.search(DOCUMENT)
    assert head is not None
    count = Counter(row.status for row in ROWS)
    shown = sum(1 for row in ROWS if row.status == "met" and row.shown_by)
    numbers = [len(ROWS), *(count[status] for status in STATUSES), shown, count["met"] - shown]
    assert list(map(int, head.groups())) == numbers


def test_the_threat_model_names_tests_that_exist() -> None:
    named = re.findall(r"`(\S+::\S+)`", (ROOT / "docs/threat-model.md").read_text("utf-8"))
    assert len(named) > 50
    assert [name for name in named if not is_test(name)] == []
