"""Password hashing: Argon2id off the event loop, in few threads with a short queue, equally slow for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shared.errors import Unavailable

Result = TypeVar("Result")

_THREADS: Final = 2
_QUEUE: Final = 64
_COMMON: Final = "common_passwords.txt"
_CONTEXT: Final = "context_words.txt"


@cache
def common_passwords() -> frozenset[str]:
    """The blocklist, in the form in which passwords are compared with it."""
    lines = resources.files(__package__).joinpath(_COMMON).read_text("utf-8").splitlines()
    return frozenset(line.casefold() for line in lines if not line.startswith("#"))


@cache
def context_words() -> frozenset[str]:
    """The words that everybody here knows, casefolded."""
    lines = resources.files(__package__).joinpath(_CONTEXT).read_text("utf-8").splitlines()
    return frozenset(word.casefold() for line in lines if not line.startswith("#") for word in line.split())


class Hasher:
    """The parameters are OWASP's for Argon2id (19 MiB, two passes); tests inject weaker ones. 19 MiB a hash is why
    the queue is short: what does not fit is refused with 503, before it costs anything."""

    def __init__(self, *, time_cost: int = 2, memory_cost: int = 19_456, queue: int = _QUEUE) -> None:
        self._argon2 = PasswordHasher(time_cost=time_cost, memory_cost=memory_cost, parallelism=1)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="argon2")
        self._room = _THREADS + queue
        self._nobodys = self._argon2.hash("the password of a user that does not exist")

    async def hash(self, password: str) -> str:
        """The encoded hash, salt and parameters included."""
        return await self._run(lambda: self._argon2.hash(password))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is right. For a user that does not exist (None) it takes as long and is never right."""
        right = await self._run(lambda: self._matches(encoded or self._nobodys, password))
        return right and encoded is not None

    def is_weak(self, encoded: str) -> bool:
        """Whether it was made with other parameters than the present ones."""
        return self._argon2.check_needs_rehash(encoded)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            return self._argon2.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._room <= 0:
            raise Unavailable("Too many sign-ins at once")
        self._room -= 1
        future = self._threads.submit(work)
        # Room is made when the work is over, not when the caller has gone away: the thread is busy until then.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        self._room += 1
