"""Each OpenAPI document, tried by schemathesis against the service that serves it: what the document allows is taken,
what it forbids is refused, and every answer is as the document says. Seeded, so a failure comes again."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.served import ENDPOINTS, Served

SEED, EXAMPLES = 20_261_121, 8
ST = Path(sys.executable).parent / "st"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "use_after_free",
    "ignored_auth",
)

NO_SCHEMA = ("POST /v1/feeds/hl7v2", "POST /v1/payments/bulk")
"""Bodies that schemathesis has no way to write; they are in the corpus (`test_requests`)."""


@pytest.mark.parametrize("name", list(ENDPOINTS))
async def test_the_document_is_true(services: dict[str, Served], name: str, tmp_path: Path) -> None:
    service = services[name]
    lines = [f"seed = {SEED}", "[generation]", f"max-examples = {EXAMPLES}", "deterministic = true"]
    # By default too large a body does not count as a refusal.
    lines += [
        "[checks.negative_data_rejection]",
        'expected-statuses = ["400", "401", "403", "404", "406", "413", "415", "422"]',
    ]
    for endpoint in ENDPOINTS[name]:
        token = await service.token_for(endpoint)
        if token is not None:
            lines += ["[[operations]]", f'include-name = "{endpoint.method} {endpoint.path}"']
            lines += [f'headers = {{ Authorization = "Bearer {token}" }}']
    config = tmp_path / "schemathesis.toml"
    config.write_text("\n".join(lines))
    url = f"http://127.0.0.1:{service.port}"
    command = [
        *(str(ST), "--config-file", str(config), "run", f"{url}/openapi.json", "--url", url),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--workers", "1"),
        *(word for one in NO_SCHEMA for word in ("--exclude-name", one)),
        *("--no-color", "--continue-on-failure", "--no-shrink", "--request-timeout", "20", "--warnings", "off"),
    ]
    done = await asyncio.create_subprocess_exec(
        *command,
        cwd=tmp_path,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await done.communicate()
    print(out.decode())
    assert done.returncode == 0
    await service.alive()
