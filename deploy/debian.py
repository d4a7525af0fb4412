"""Programs of Debian's that this machine lacks, unpacked into a cache folder: without root, and without starting a
service."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class DebianError(RuntimeError):
    """A package could not be had; says why."""


def unpacked(package: str, *, whole: str = "", mend: Callable[[Path, Path], None] | None = None) -> Path:
    """The folder with a package and what it needs that this machine lacks, downloaded at the first time.

    `whole`: pattern of packages that are taken whether the machine has them or not. `mend(now, later)`: changes files
    that must know their own folder. Raises DebianError."""
    cache = _cache_folder()
    with (cache / "lock").open("ab") as lock:  # test workers come here side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = cache / package.removesuffix("-server")
        if not root.exists():
            _unpack(root, package, whole, mend)
    return root


def libraries(root: Path) -> str:
    """For the linker: where the libraries of unpacked packages are."""
    return ":".join(map(str, (*root.glob("lib/*-linux-gnu"), *root.glob("usr/lib/*-linux-gnu"))))


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "practice-billing"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a user without a home
        folder = Path(f"/var/tmp/practice-billing-{os.geteuid()}")  # noqa: S108 - its owner is checked
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise DebianError(f"{folder} belongs to another user")
    return folder


def _unpack(root: Path, package: str, whole: str, mend: Callable[[Path, Path], None] | None) -> None:
    if shutil.which("apt-get") is None:
        raise DebianError(f"{package} is not installed and this is no Debian to get it from")
    print(f"Getting {package} from Debian, once", file=sys.stderr, flush=True)
    work = root.with_name("unfinished")
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "archives/partial", "packages", "root"):
        (work / folder).mkdir(parents=True)
    blocks = Path("/var/lib/dpkg/status").read_text(errors="replace").split("\n\n")
    kept = [block for block in blocks if not (whole and re.match(rf"Package: ({whole})", block))]
    (work / "status").write_text("\n\n".join(kept))
    _apt(work, package, "update")
    plan = _apt(work, package, "--simulate", "--no-install-recommends", "install", package)
    _apt(work, package, "download", *re.findall(r"^Inst (\S+)", plan, re.MULTILINE))
    for file in (work / "packages").glob("*.deb"):
        subprocess.run(["dpkg", "-x", file, work / "root"], check=True)
    if mend:
        mend(work / "root", root)
    (work / "root").rename(root)
    shutil.rmtree(work)


def _apt(work: Path, package: str, *arguments: str) -> str:
    """Run apt-get on lists and a status file of our own, so that it needs no rights and is never out of date."""
    options = {
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "archives",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "",
    }
    done = subprocess.run(
        ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items()), *arguments],
        cwd=work / "packages",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DebianError(f"could not get {package} from Debian ({done.stderr.strip()[-500:]})")
    return done.stdout
