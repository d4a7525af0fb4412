"""Lists that are short and made whole, paged as every other list is (`api.md`: `limit`, `cursor`, `{items, next}`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints

from shared.errors import Invalid
from shared.fields import Query

Item = TypeVar("Item")


class WholeList(Query):
    """`cursor`: the name of the last item of the page before."""

    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Annotated[str, StringConstraints(max_length=200)] | None = None


def paged(items: Sequence[Item], names: Sequence[str], query: WholeList) -> tuple[Sequence[Item], str | None]:
    """A page of `items`, whose `names` are in the same order, and the cursor of the next one. Raises Invalid."""
    start = 0
    if query.cursor is not None:
        if query.cursor not in names:
            raise Invalid.field("cursor", "invalid_cursor", "Not a cursor of this list: start again without one")
        start = names.index(query.cursor) + 1
    end = start + query.limit
    return items[start:end], names[end - 1] if end < len(items) else None
