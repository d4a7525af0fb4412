"""Finding RabbitMQ, or unpacking Debian's into a cache folder: without root, and without starting a service."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Debian's command on the PATH insists on users of its own; this one behind it does not.
DEBIAN_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
ADVICE = "as root `apt-get install rabbitmq-server`, or set AMQP_URL to the address of a running broker"


class RabbitError(RuntimeError):
    """The broker could not be found, started or asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The start script of a RabbitMQ, and the folder its packages were unpacked into if they were."""

    server: Path
    root: Path | None = None

    def environment(self) -> dict[str, str]:
        """The variables that let the shell and the linker find Erlang."""
        path = os.environ.get("PATH", os.defpath)
        if self.root is None:
            return {"PATH": path}
        libraries = (*self.root.glob("lib/*-linux-gnu"), *self.root.glob("usr/lib/*-linux-gnu"))
        return {"PATH": f"{self.root}/usr/bin:{path}", "LD_LIBRARY_PATH": ":".join(map(str, libraries))}


def find_or_install() -> Installation:
    """The RabbitMQ of this machine, else the one in the cache, else Debian's, downloaded into the cache."""
    if DEBIAN_SERVER.exists():
        return Installation(DEBIAN_SERVER)
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None:
        return Installation(Path(on_path).resolve())
    cache = _cache_folder()
    with (cache / "lock").open("ab") as lock:  # test workers come here side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = cache / "rabbitmq"
        if not root.exists():
            _unpack(root)
    return Installation(root / DEBIAN_SERVER.relative_to("/"), root)


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "practice-billing"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a user without a home
        folder = Path(f"/var/tmp/practice-billing-{os.geteuid()}")  # noqa: S108 - its owner is checked
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise RabbitError(f"{folder} belongs to another user")
    return folder


def _unpack(root: Path) -> None:
    if shutil.which("apt-get") is None:
        raise RabbitError(f"RabbitMQ is not installed and this is no Debian to get it from: install it, {ADVICE}")
    print("Getting RabbitMQ and Erlang from Debian, about 40 MB, once", file=sys.stderr, flush=True)
    work = root.with_name("unfinished")
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "archives/partial", "packages", "root"):
        (work / folder).mkdir(parents=True)
    # Erlang whole, whatever parts of it the machine has: half of it there and half of it here would not work.
    blocks = Path("/var/lib/dpkg/status").read_text(errors="replace").split("\n\n")
    kept = [block for block in blocks if not re.match(r"Package: (erlang|rabbitmq)", block)]
    (work / "status").write_text("\n\n".join(kept))
    _apt(work, "update")
    plan = _apt(work, "--simulate", "--no-install-recommends", "install", "rabbitmq-server")
    _apt(work, "download", *re.findall(r"^Inst (\S+)", plan, re.MULTILINE))
    for package in (work / "packages").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, work / "root"], check=True)
    # Erlang's scripts name the folder that Debian would have put it into.
    for script in (work / "root/usr/lib/erlang").rglob("bin/*"):
        content = script.read_bytes()
        if content.startswith(b"#!"):
            script.write_bytes(content.replace(b"/usr/lib/erlang", os.fsencode(root / "usr/lib/erlang")))
    (work / "root").rename(root)
    shutil.rmtree(work)


def _apt(work: Path, *arguments: str) -> str:
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
        raise RabbitError(f"could not get RabbitMQ from Debian ({done.stderr.strip()[-500:]}): {ADVICE}")
    return done.stdout
