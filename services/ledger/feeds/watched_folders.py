"""The watched directory as a file system: who may take a file, and where it goes afterwards. No database is known here.

    <root>/<company>/incoming/{x12,hl7,fhir,csv/<profile>}/<name>    what the sender writes; the only place where he may
                    /working/.../<id>-<name>                    claimed: renamed, and locked by whoever is at it
                    /done/... and /failed/...                   where it ends; nothing is ever deleted

A rename inside a file system is done by one process or by none, so one process claims a file. Its lock dies with it, so
whatever lies in `working` without a lock was left behind, and is taken up by the next one that looks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from shared.ids import uuid7

_SUFFIXES: Final = {
    ".835": "x12",
    ".x12": "x12",
    ".edi": "x12",
    ".era": "x12",
    ".hl7": "hl7",
    ".fhir": "fhir",
    ".fhir.json": "fhir",
}
_UNFINISHED: Final = (".part", ".tmp", ".filepart")
_NAME_BYTES: Final = 255 - len(".reason.json.tmp")
"""Longest name of a claimed file, in a file system that takes 255 bytes."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

_NO_FILE: Final = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)

Signature = tuple[int, int, int]
"""Of a file's content as far as the file system tells: its number, size and time of change."""
_Key = tuple[Path, str, str]
"""A file by its company's folder, its kind there and its name."""


class NoFile(Exception):
    """What was claimed is a link, a pipe, or a file that we may not read."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A file that is ours to work on. Its id is also the id of its feed, whoever takes it up."""

    base: Path
    """The company's folder."""
    kind: str
    """`x12`, `hl7`, `fhir`, `csv/<profile>`; anything else is no kind that there is."""
    name: str

    @property
    def path(self) -> Path:
        return self.base / "working" / self.kind / self.name

    @property
    def id(self) -> UUID:
        return UUID(self.name[:36])

    def put(self, place: str) -> None:
        """Move it on to `done` or `failed`."""
        target = self.base / place / self.kind
        target.mkdir(parents=True, exist_ok=True)
        self.path.rename(target / self.name)

    def put_back(self) -> None:
        """Back to where it came from, under a name that nothing there has."""
        with ExitStack() as stack:
            folder = incoming = stack.enter_context(_opened(self.base / "incoming"))
            for part in self.kind.split("/"):
                folder = stack.enter_context(_opened(part, folder))
            os.rename(self.path, self.name, dst_dir_fd=folder if folder >= 0 else incoming)

    def explain(self, reason: bytes) -> None:
        """Put a reason beside where the file will be in `failed`."""
        folder = self.base / "failed" / self.kind
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{self.name}.reason.json.tmp"
        draft.write_bytes(reason)
        draft.rename(folder / f"{self.name}.reason.json")


class Incoming:
    """What senders have written, and since when it has not changed."""

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._seen: dict[_Key, tuple[Signature, float]] = {}

    def claim(self, base: Path) -> int:
        """Claim the files of a company that have settled; how many. What is no file, is empty, or is named like one
        that is still being written stays where it is. Raises OSError when one could not be claimed, after the rest."""
        claimed = 0
        failed: OSError | None = None
        present: set[_Key] = set()
        for folder, kind in _folders(base / "incoming"):
            for name, signature in _files(folder):
                present.add((base, kind, name))
                if self._settled((base, kind, name), signature):
                    try:
                        claimed += _take(folder, name, base, kind or _kind_of(name))
                    except OSError as error:
                        failed = error
        for gone in [key for key in self._seen if key[0] == base and key not in present]:
            del self._seen[gone]
        if failed is not None:
            raise failed
        return claimed

    def _settled(self, key: _Key, signature: Signature) -> bool:
        now = time.monotonic()
        before, since = self._seen.get(key, (None, now))
        if before != signature:
            self._seen[key] = signature, now
            return self._settle_seconds <= 0
        return now - since >= self._settle_seconds


def companies(root: Path) -> list[Path]:
    """The folders of companies; none where there is no directory."""
    with suppress(OSError):
        return sorted(Path(one.path) for one in os.scandir(root) if one.is_dir(follow_symlinks=False))
    return []


def working(base: Path) -> list[Claimed]:
    """What was claimed, by whomever, oldest first."""
    found = []
    for folder, kind in _folders(base / "working"):
        found += [Claimed(base, kind, name) for name in _names(folder) if _is_claimed(name)]
    return sorted(found, key=lambda one: one.name)


@contextmanager
def held(claimed: Claimed) -> Iterator[BinaryIO | None]:
    """The file, locked against every other process and every other look of this one; None when somebody else has it, or
    is done with it. Raises NoFile when it is none, or none that we may read."""
    try:
        descriptor = os.open(claimed.path, _FILE)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        if error.errno in _NO_FILE:
            raise NoFile() from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NoFile()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # Between the opening and the lock the one before us may have moved it on.
        yield file if _same(claimed.path, file) else None


def signature_of(file: BinaryIO) -> Signature:
    return _signature(os.fstat(file.fileno()))


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _same(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _folders(top: Path) -> Iterator[tuple[int, str]]:
    """Open folders with files, and the kind of those; at the top itself a file says its kind by its name."""
    with _opened(top) as folder:
        yield folder, ""
        for kind in ("x12", "hl7", "fhir", "unknown", "csv"):
            with _opened(kind, folder) as inside:
                yield inside, kind
                for name in _names(inside) if kind == "csv" else ():
                    with _opened(name, inside) as profile:
                        yield profile, f"csv/{name}"


@contextmanager
def _opened(name: str | Path, folder: int | None = None) -> Iterator[int]:
    """A folder, or one inside an open one, never by way of a link: a sender might point it at another company's.
    -1 where there is none, or none that we may read."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=folder)
    except OSError:
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(descriptor: int) -> list[str]:
    return sorted(os.listdir(descriptor)) if descriptor >= 0 else []


def _files(descriptor: int) -> Iterator[tuple[str, Signature]]:
    for name in _names(descriptor):
        if name.startswith(".") or name.casefold().endswith(_UNFINISHED):
            continue
        with suppress(OSError):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                yield name, _signature(status)


def _take(descriptor: int, name: str, base: Path, kind: str) -> int:
    target = base / "working" / kind
    target.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(name, target / _claimed_name(name), src_dir_fd=descriptor)
    except FileNotFoundError:
        return 0  # Another process was quicker.
    return 1


def _claimed_name(name: str) -> str:
    """A name of our own before the sender's, of which the end is kept where it is too long."""
    given = os.fsencode(name)
    if _is_claimed(name):  # It was put back.
        given = given[37:]
    return f"{uuid7()}-{os.fsdecode(given[-(_NAME_BYTES - 37) :])}"


def _is_claimed(name: str) -> bool:
    with suppress(ValueError):
        return len(name) > 36 and name[36] == "-" and str(UUID(name[:36])) == name[:36]
    return False


def _kind_of(name: str) -> str:
    ends = name.casefold()
    return next((kind for suffix, kind in _SUFFIXES.items() if ends.endswith(suffix)), "unknown")
