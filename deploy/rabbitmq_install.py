"""Finding RabbitMQ, or unpacking Debian's into a cache folder: without root, and without starting a service."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy import debian

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
        return {"PATH": f"{self.root}/usr/bin:{path}", "LD_LIBRARY_PATH": debian.libraries(self.root)}


def find_or_install() -> Installation:
    """The RabbitMQ of this machine, else the one in the cache, else Debian's, downloaded into the cache."""
    if DEBIAN_SERVER.exists():
        return Installation(DEBIAN_SERVER)
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None:
        return Installation(Path(on_path).resolve())
    try:
        # Erlang whole, whatever parts of it the machine has: half of it there and half of it here would not work.
        root = debian.unpacked("rabbitmq-server", whole="erlang|rabbitmq", mend=_name_their_folder)
    except debian.DebianError as error:
        raise RabbitError(f"{error}: {ADVICE}") from None
    return Installation(root / DEBIAN_SERVER.relative_to("/"), root)


def _name_their_folder(now: Path, later: Path) -> None:
    """Erlang's scripts name the folder that Debian would have put it into."""
    for script in (now / "usr/lib/erlang").rglob("bin/*"):
        content = script.read_bytes()
        if content.startswith(b"#!"):
            script.write_bytes(content.replace(b"/usr/lib/erlang", os.fsencode(later / "usr/lib/erlang")))
