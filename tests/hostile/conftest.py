"""The services that the hostile tests of one file share."""

from collections.abc import AsyncIterator

import pytest

from tests.support.databases import Databases
from tests.support.served import Served, running


@pytest.fixture(scope="module")
async def services(databases: Databases) -> AsyncIterator[dict[str, Served]]:
    async with running(databases) as served:
        yield served
