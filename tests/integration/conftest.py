"""What most tests of a service begin with; a module that wants it otherwise has a fixture of its own by that name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.csv_files import agree
from tests.support.databases import Databases
from tests.support.drop import Drop
from tests.support.emr import Emr
from tests.support.identity import IdentityStack
from tests.support.ledger import Company, LedgerStack


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    """A running ledger on a database of the module's own."""
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    """One with two locations, and empty books."""
    return await stack.company(locations=2)


@pytest.fixture
async def emr(company: Company) -> Emr:
    """The EMR of that company."""
    return await Emr.of(company)


@pytest.fixture
async def drop(stack: LedgerStack, tmp_path: Path) -> Drop:
    """The folder of a company that has agreed how its bank writes CSV."""
    company = await stack.company()
    await agree(company)
    return Drop(company, tmp_path)


@pytest.fixture(scope="module")
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    """A running identity on a database of the module's own."""
    async with IdentityStack.fresh(databases) as running:
        yield running
