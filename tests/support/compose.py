"""The compose files as a real compose parser reads and merges them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
EXAMPLE: Final = (ROOT / "deploy/env.example").read_text()
SECRETS: Final = re.findall(r"^([A-Z_]+)=$", EXAMPLE, re.MULTILINE)
PLAIN: Final = ("docker-compose.yml",)
TLS: Final = ("docker-compose.yml", "deploy/compose.tls.yml")


def parse(folder: Path, secrets: Mapping[str, str], files: tuple[str, ...] = PLAIN) -> subprocess.CompletedProcess[str]:
    """What `podman-compose config` says; it asks for Podman's version, which a stub answers."""
    stub = folder / "podman"
    stub.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    stub.chmod(0o755)
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    named = [argument for file in files for argument in ("-f", ROOT / file)]
    return subprocess.run(
        [BIN / "podman-compose", "--env-file", folder / "env", *named, "config"],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def merged(folder: Path, secrets: Mapping[str, str], files: tuple[str, ...] = PLAIN) -> dict[str, Any]:
    """The whole configuration, with every variable replaced."""
    done = parse(folder, secrets, files)
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = yaml.safe_load(done.stdout)
    return config


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """Sources of a service's volumes by their targets; all that come from the project or its certificates are read
    only."""
    found = {}
    for volume in service.get("volumes", []):
        source, target, *options = volume.split(":")
        assert target not in found, target
        assert options == (["ro"] if source.startswith(".") else []), volume
        found[target] = source
    return found
