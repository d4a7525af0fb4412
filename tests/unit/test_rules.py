"""docs/rules.md names the code of every rule there is, and no others; the threat model what is ever deleted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FEEDS = re.compile(r"ledger/(feeds/|domain/(emr|totals)|api/(feeds|hl7|csvfiles|payments)\.py)")
"""Whose rules are in docs/feeds.md, or say that lines and files can be read."""
ELSEWHERE = {"date_in_future", "invalid_date", "date_out_of_range", "too_many_parameters", "token_stale"}
"""Codes of single fields, which are made in other ways, and of what every service refuses alike."""


def codes(path: Path) -> Iterator[str]:
    """Codes that a module refuses with."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = [node.args[1]] if name == "Invalid.field" and len(node.args) > 1 else []
        if name in {"Invalid", "Conflict", "Forbidden", "Unauthenticated"}:
            given += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        yield from (one.value for one in given if isinstance(one, ast.Constant))


def test_every_rule_stands_in_the_document_and_no_other_does() -> None:
    paths = [path for path in (ROOT / "services").rglob("*.py") if not FEEDS.search(str(path))]
    made = {code for path in paths for code in codes(path)}
    rows = [line for line in (ROOT / "docs/rules.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    named = {code for line in rows for code in re.findall(r"`([a-z_]+)`", line.strip("|").split("|")[-1])}
    assert len(made) > 40
    assert made - named == set()
    assert named - made == ELSEWHERE
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "shared").rglob("*.py"))
    sources += (ROOT / "services/ledger/wire.py").read_text("utf-8")
    assert [code for code in ELSEWHERE if f'"{code}"' not in sources] == []


def test_what_is_ever_deleted_is_written_down() -> None:
    """Rows of no other table are: a class of data is kept for good unless the threat model says otherwise."""
    texts = {
        p: p.read_text("utf-8")
        for one in ("services", "shared")
        for end in ("py", "sql")
        for p in (ROOT / one).rglob(f"*.{end}")
    }
    found = {table for text in texts.values() for table in re.findall(r"delete from ([a-z_]+|{table})", text, re.I)}
    assert not [path for path, text in texts.items() if re.search(r"\btruncate (table )?[a-z]+;", text)]
    # Two places go through a list: the factors of a person, and what reporting derives.
    found = (found - {"{table}"}) | {"totp", "recovery_code", "passkey", "external_login"}
    model = (ROOT / "docs/threat-model.md").read_text("utf-8")
    paragraph = re.search(r"What is ever deleted.*?\n\n", model, re.DOTALL)
    assert paragraph is not None
    assert set(re.findall(r"`([a-z_]+)`", paragraph[0])) == found
