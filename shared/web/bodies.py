"""Reading JSON bodies and query strings: malformed is 400, well-formed but wrong is 422 with the fields named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from multidict import MultiMapping
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from shared.errors import BadRequest, FieldError, Invalid

Model = TypeVar("Model", bound=BaseModel)

_MAX_PARAMETERS = 200
_MAX_REPEATS = 100
_OURS = re.compile(r"[a-z][a-z0-9_-]*|\[key\]")
_SENTENCES = {"missing": "Required", "extra_forbidden": "There is no such field here"}
"""Where pydantic's own speak of inputs, which a caller has never heard of."""
_INTEGER = re.compile(r"-?[0-9]{1,19}")


def load_json(raw: bytes) -> Any:
    """Parse a JSON body. Refuses what the standard parser lets pass: repeated names, NaN, non-UTF-8, a BOM.

    Raises BadRequest for text that is not JSON, Invalid for repeated names and non-finite numbers."""
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON in UTF-8") from None
    except ValueError:  # The standard library refuses integers of more than 4,300 digits.
        raise Invalid.field("body", "number_out_of_range", "A number in the body is out of range") from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Invalid.field("body", "duplicate_key", "A name is repeated in a JSON object")
    return found


def _no_constant(_: str) -> Any:
    raise Invalid.field("body", "not_a_number", "NaN and Infinity are not numbers here")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_no_constant)


def parse_body(model: type[Model], raw: bytes, *, prefix: str = "") -> tuple[Model, bytes]:
    """The validated body and the SHA-256 of its canonical form (sorted names, no white space)."""
    value = load_json(raw)
    try:
        canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # A lone surrogate, or an integer over 64 bits: let the model name the field.
        canonical = b""
    try:
        parsed = model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise Invalid(errors=field_errors(error, prefix)) from None
    return parsed, hashlib.sha256(canonical).digest()


def parse_query(model: type[Model], query: MultiMapping[str]) -> Model:
    """Query parameters into a model: a list field takes every repetition, any other field exactly one."""
    if len(query) > _MAX_PARAMETERS:
        raise Invalid.field("query", "too_many_parameters", f"At most {_MAX_PARAMETERS} query parameters")
    lists = {name for name, field in _fields(model).items() if _is_list(field)}
    integers = {name for name, field in _fields(model).items() if _is_integer(field)}
    values: dict[str, Any] = {}
    for name in dict.fromkeys(query):
        found = query.getall(name)
        if name in lists:
            if len(found) > _MAX_REPEATS:
                raise Invalid.field(name, "too_many", f"At most {_MAX_REPEATS} values")
            values[name] = found
        elif len(found) > 1:
            raise Invalid.field(name, "repeated", "May be given once")
        elif name in integers and not _INTEGER.fullmatch(found[0]):
            raise Invalid.field(name, "invalid_integer", "Must be a whole number, digits only")
        else:
            values[name] = found[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Invalid(errors=field_errors(error)) from None


def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _is_list(field: FieldInfo) -> bool:
    return "list[" in str(field.annotation) or "tuple[" in str(field.annotation)


def _is_integer(field: FieldInfo) -> bool:
    """pydantic itself also reads `1_000`, ` 1` and other scripts' digits as numbers (quality case 27)."""
    return re.search(r"\bint\b", str(field.annotation)) is not None


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """Pydantic's findings as ours; never the input, never a name that the caller made up."""
    found = []
    for row in error.errors(include_input=False, include_context=False, include_url=False)[:50]:
        path = ".".join(map(_part, row["loc"]))
        if row["type"] == "extra_forbidden":
            path = ".".join(map(str, row["loc"]))
            path = path if len(path) <= 100 and path.isascii() and path.isprintable() else "(unknown)"
        message = _SENTENCES.get(row["type"], row["msg"])
        found.append(FieldError(f"{prefix}{path}" or "body", row["type"], message))
    return found


def _part(part: int | str) -> str:
    """A name of ours, which is in small letters, or a place in a list; and not a key of a mapping the caller filled."""
    return str(part) if isinstance(part, int) or _OURS.fullmatch(part) else "(key)"
