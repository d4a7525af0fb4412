"""Records go from process to process as their values alone."""

from __future__ import annotations

import pickle
from copy import copy
from dataclasses import replace

from shared.records import record


@record
class One:
    only: str


@record
class Two:
    first: int
    second: tuple[One, ...] = ()


def _sent(what: object) -> object:
    return pickle.loads(pickle.dumps(what))  # noqa: S301 - our own


def test_what_comes_back_is_what_was_sent() -> None:
    for sent in (One("a"), One(""), Two(1), Two(2, (One("a"), One("b")))):
        assert _sent(sent) == copy(sent) == sent
        assert hash(_sent(sent)) == hash(sent)
    assert replace(Two(1), second=(One("a"),)) == Two(1, (One("a"),))


def test_the_names_of_its_fields_stay_here() -> None:
    assert b"second" not in pickle.dumps(Two(1))
