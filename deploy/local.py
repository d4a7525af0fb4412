"""The data folder of a local run, and the secrets that are made once and kept in it."""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deploy.embedded import StartError


def open_data_dir(path: Path) -> Path:
    """The folder, made if need be. Others may pass through it, as PostgreSQL's user must, and read nothing."""
    home = path.expanduser().absolute()
    try:
        if not home.exists():
            home.mkdir(parents=True)
            home.chmod(0o711)
        (home / "logs").mkdir(mode=0o700, exist_ok=True)
        write_private(home / ".writable", "")
        (home / ".writable").unlink()
    except OSError as error:
        raise StartError(f"DATA_DIR {home} cannot be written to ({error.strerror}); choose another") from None
    return home


def write_private(file: Path, text: str) -> None:
    """Write a file that only we can read: the old content or the new one, whenever we die."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file of ours; empty when there is none."""
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise StartError(f"{file} cannot be read: put it back, or delete the data folder to start anew")
    return found


@dataclass(frozen=True, slots=True)
class LocalSecrets:
    """What a person or a deployment would choose, chosen by chance."""

    file: Path
    fresh: bool
    """True at the first start."""
    internal_client_secret: str
    identity_secrets_key: str
    operator_password: str
    demo_password: str

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read them, and make those that are not there yet."""
        kept = read_json(file)
        made = {
            "internal_client_secret": secrets.token_urlsafe(32),
            "identity_secrets_key": secrets.token_urlsafe(32),
            "operator_password": secrets.token_hex(10),
            "demo_password": secrets.token_hex(6),
        }
        chosen = {name: str(kept.get(name) or new) for name, new in made.items()}
        if chosen != kept:
            write_private(file, json.dumps(chosen, indent=2) + "\n")
        return cls(file=file, fresh=not kept, **chosen)

    def set_aside_foreign_data(self, place: Path, *, expected: Path) -> Path | None:
        """Root's databases may lie outside the data folder (see `deploy.postgres`). When that folder was deleted, they
        are what is left of an earlier installation: keep them, but not as ours. Returns where they are then."""
        if not self.fresh or place == expected or not place.exists():
            return None
        return place.rename(place.with_name(f"{place.name}.before-{int(time.time())}"))
