"""One resource against its R4 model, with what is wrong as issues. What the library lets pass and R4 does not, is
checked before it: null, numbers for dates, modifier extensions that nobody here understands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from services.ledger.feeds.fhir.issues import Issue

Model = TypeVar("Model", bound=BaseModel)

_MAX_DEPTH: Final = 50
_ISSUES_SHOWN: Final = 20
_ELEMENT: Final = re.compile(r"_?[A-Za-z][A-Za-z0-9]{0,63}")
_DATES: Final = frozenset(("birthDate", "created", "date", "end", "lastUpdated", "start", "issued", "occurrence"))
_DATE_ENDINGS: Final = ("Date", "DateTime", "Instant", "Time")
_UNREAD: Final = frozenset(("contained", "text"))
"""The narrative says nothing to a program; what is contained is validated when something refers to it."""


def validated(model: type[Model], raw: dict[str, Any], path: str) -> tuple[Model | None, tuple[Issue, ...]]:
    """The resource, or every issue that was found in it."""
    unsafe = tuple(_unsafe(raw, path))
    if Issue("too_deep", path) in unsafe:
        return None, unsafe[-1:]
    try:
        resource = model.model_validate({name: raw[name] for name in raw if name not in _UNREAD})
    except ValidationError as error:
        rows = error.errors(include_input=False, include_context=False, include_url=False)
        return None, tuple(dict.fromkeys(_issue(row["type"], row["loc"], path) for row in rows[:_ISSUES_SHOWN]))
    except Exception:
        # The library looks some types up by the names in the input, and lets the KeyError of a wrong one through.
        return None, (Issue("invalid_resource", path),)
    # Only now is it sure that every name in the paths is one of R4, and none that the sender made up.
    return (None, unsafe[:_ISSUES_SHOWN]) if unsafe else (resource, ())


def _unsafe(raw: dict[str, Any], path: str) -> Iterable[Issue]:
    waiting: list[tuple[Any, str, int]] = [({name: raw[name] for name in raw if name not in _UNREAD}, path, 0)]
    while waiting:
        value, at, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            yield Issue("too_deep", path)
            return
        if isinstance(value, list):
            waiting += [(one, f"{at}[{i}]", depth + 1) for i, one in enumerate(value) if isinstance(one, dict | list)]
            continue
        for name, inner in value.items():
            if inner is None or (isinstance(inner, list) and None in inner and not _has_extensions(value, name)):
                # The library takes null for an element that is required, and for an item of a list.
                yield Issue("invalid_value", _below(at, name))
                continue
            if name in ("modifierExtension", "implicitRules", "_implicitRules"):
                yield Issue("modifier_extension", f"{at}.{name}")
            elif isinstance(inner, dict | list):
                waiting.append((inner, _below(at, name), depth + 1))
            elif (name in _DATES or name.endswith(_DATE_ENDINGS)) and not isinstance(inner, str | None):
                yield Issue("invalid_value", _below(at, name))


def _has_extensions(value: dict[str, Any], name: str) -> bool:
    """Null stands in a list only to keep the place of a primitive that has extensions instead (FHIR 2.6.2.3)."""
    return name.startswith("_") or f"_{name}" in value


def _issue(kind: str, location: tuple[int | str, ...], path: str) -> Issue:
    if kind == "extra_forbidden":
        location = location[:-1]  # its last part is a name that the sender made up
    at = path
    for part in location:
        at = f"{at}[{part}]" if isinstance(part, int) else at if part == "root" else _below(at, part)
    if kind == "extra_forbidden":
        return Issue("unknown_field", at)
    return Issue("missing_field" if kind.endswith("missing") else "invalid_value", at)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if _ELEMENT.fullmatch(name) else path
