"""Ids are made by the server: in the order of time, and never twice, whoever makes them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from shared.ids import uuid7


def test_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    made = [uuid7() for _ in range(2_000)]
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    times = [one.int >> 80 for one in made]
    assert times == sorted(times)
    assert len(set(made)) == len(made)


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda _: [uuid7().int & (1 << 62) - 1 for _ in range(2_000)], range(8)))
    made = [one for part in parts for one in part]
    assert len(set(made)) == len(made)


def test_a_process_that_was_forked_does_not_go_on_with_the_randomness_of_its_parent() -> None:
    uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(uuid7().bytes for _ in range(50)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        raw = told.read()
    os.waitpid(child, 0)
    theirs = {UUID(bytes=raw[at : at + 16]).int & (1 << 62) - 1 for at in range(0, len(raw), 16)}
    mine = {uuid7().int & (1 << 62) - 1 for _ in range(50)}
    assert len(theirs) == 50
    assert not theirs & mine
