"""Heads of the sealed chains, kept outside of the database (quality 3.5): without them a chain that was written anew
from its first row, or a database put back to last week, would look whole.

`SEAL_DIR` holds for each service `<service>-heads.jwsl`, one signed head a line (a compact JWS, ES256), appended to and
never rewritten, and `<service>-keys.json`, the public keys that verify them (a JWK set). The private key is `SEAL_KEY`,
or is made at the first start and kept in `<service>-key.pem`. Lines are written out to the disk before anything goes
on; the file is opened by its name each time, so it may be renamed away and is begun again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self
from uuid import UUID

import orjson
import structlog
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from shared.config import Config
from shared.crash import point
from shared.seal import Head

_ALGORITHM: Final = "ES256"
_TYPE: Final = "audit-head"
log = structlog.get_logger("seal")


class BadHead(Exception):
    """A line of a file of heads that our key did not sign; says which."""


@dataclass(slots=True)
class HeadFile:
    """The heads of one service. `keep` appends those that have moved since they were kept last."""

    directory: Path
    service: str
    key: ECKey
    _kept: dict[UUID, int] | None = None

    @classmethod
    def of(cls, config: Config, service: str) -> Self | None:
        """By the settings; None, and a warning, where no place outside of the database is named."""
        if config.seal_dir is None:
            log.warning("heads_not_kept", reason="SEAL_DIR is not set")
            return None
        config.seal_dir.mkdir(parents=True, exist_ok=True)
        if config.seal_key is not None:
            key = ECKey.import_key(config.seal_key.get_secret_value())
        else:
            key = _own_key(config.seal_dir / f"{service}-key.pem")
        _publish(keys_path(config.seal_dir, service), key)
        return cls(config.seal_dir, service, key)

    @property
    def path(self) -> Path:
        return heads_path(self.directory, self.service)

    def keep(self, heads: Sequence[Head], at: datetime) -> int:
        """How many lines were appended. Blocks until they are on the disk."""
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_torn_line(file.fileno())
            if self._kept is None:
                public = {self.key.thumbprint(): self.key}
                self._kept = {
                    head.company_id: head.seq for _, head in read(self.path, self.service, public, loose=True)
                }
            moved = [head for head in heads if self._kept.get(head.company_id) != head.seq]
            if not moved:
                return 0
            lines = "".join(f"{self._signed(head, at)}\n" for head in moved).encode()
            half = len(lines) // 2
            os.write(file.fileno(), lines[:half])
            point("seal.mid_heads")
            os.write(file.fileno(), lines[half:])
            os.fsync(file.fileno())
        _sync_directory(self.directory)
        self._kept |= {head.company_id: head.seq for head in moved}
        return len(moved)

    def _signed(self, head: Head, at: datetime) -> str:
        facts = {
            "service": self.service,
            "company_id": str(head.company_id),
            "seq": head.seq,
            "hash": head.hash.hex(),
            "at": at,
        }
        header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": self.key.thumbprint()}
        return jws.serialize_compact(header, orjson.dumps(facts, option=orjson.OPT_UTC_Z), self.key, [_ALGORITHM])


def heads_path(directory: Path, service: str) -> Path:
    return directory / f"{service}-heads.jwsl"


def keys_path(directory: Path, service: str) -> Path:
    return directory / f"{service}-keys.json"


def public_keys(path: Path) -> dict[str, ECKey]:
    """The keys of a JWK set, by `kid`."""
    return {row["kid"]: ECKey.import_key(row) for row in orjson.loads(path.read_bytes())["keys"]}


def read(
    path: Path, service: str, keys: Mapping[str, ECKey], *, loose: bool = False, size: int | None = None
) -> Iterator[tuple[int, Head]]:
    """The heads of a file with their lines' numbers, one at a time; of its first `size` bytes only, if given. Raises
    BadHead for a line that is not signed by one of the keys; `loose`: such a line is passed over."""
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                return  # Still being written, or cut off by a crash: it was never relied upon.
            try:
                yield number, _verified(line.rstrip().decode("ascii"), service, keys)
            except (JoseError, ValueError, KeyError, TypeError, UnicodeDecodeError):
                if not loose:
                    raise BadHead(f"line {number} of {path.name} is not a head that this service signed") from None


def _verified(line: str, service: str, keys: Mapping[str, ECKey]) -> Head:
    kid = jws.extract_compact(line.encode()).headers()["kid"]
    signed = jws.deserialize_compact(line, keys[kid], [_ALGORITHM])
    facts = orjson.loads(signed.payload)
    if signed.headers()["typ"] != _TYPE or facts["service"] != service:
        raise ValueError(line)
    return Head(UUID(facts["company_id"]), int(facts["seq"]), bytes.fromhex(facts["hash"]))


def _drop_torn_line(file: int) -> None:
    """Take away what a crash left of a line at the end."""
    size = end = os.fstat(file).st_size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(file, end)


def _own_key(path: Path) -> ECKey:
    """The key in a file, which is made if it is not there. Of several processes that make one, one wins."""
    if not path.exists():
        made = ECKey.generate_key("P-256", private=True).as_pem(private=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return ECKey.import_key(path.read_bytes())


def _publish(path: Path, key: ECKey) -> None:
    """Add the public part of a key to the set; earlier ones stay, for earlier heads."""
    keys = orjson.loads(path.read_bytes())["keys"] if path.exists() else []
    kid = key.thumbprint()
    if any(row["kid"] == kid for row in keys):
        return
    row = {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": _ALGORITHM}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(orjson.dumps({"keys": [*keys, row]}))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
