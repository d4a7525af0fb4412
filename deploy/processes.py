"""What the launchers of private servers share: free ports, bounded waits, processes that die with their owner."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens on a TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll a condition until it holds or the time is over, and say whether it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    death: signal.Signals,
    user: int | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that the kernel sends the signal `death` when we die, by `kill -9` too.

    More exactly when the *thread* that started it ends, so start servers from a thread that lives long enough. The
    server gets a session of its own: Ctrl-C in the terminal reaches us, and we stop it when we are done with it.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            ["setpriv", f"--pdeathsig={death.name.removeprefix('SIG')}", *_identity(user), "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=env,
            start_new_session=True,
        )


def run(command: Sequence[str | Path], *, user: int | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as another user when one is given."""
    return subprocess.run(
        ["setpriv", *_identity(user), "--", *command], capture_output=True, text=True, check=False, cwd=cwd
    )


def _identity(user: int | None) -> list[str]:
    return [] if user is None else [f"--reuid={user}", "--regid=nogroup", "--clear-groups"]


def end(process: subprocess.Popen[bytes], *signals: signal.Signals, seconds: float) -> None:
    """Send the signals in turn until the process has ended, each with its time to work, and SIGKILL at last."""
    for number in (*signals, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return
