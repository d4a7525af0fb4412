"""The README's calls, run as printed, against the demo."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

from tests.e2e.test_embedded_run import LAST_LINE, place, running

__all__ = ["place"]  # the fixture

README = Path(__file__).parents[2] / "README.md"


async def test_the_calls_of_the_readme_answer_as_it_says(place: Path) -> None:
    section = README.read_text().split("## Use it")[1].split("## Deploy it")[0]
    script = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
    async with running(place) as run:
        said = await asyncio.to_thread(run.read_to, LAST_LINE)
        password = re.search(r"all with the password (\w+)", said)
        assert password is not None
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euo", "pipefail", "-c", script.replace("curl -s", "curl -sf")],
            env={**os.environ, "B": run.base, "DEMO_PASSWORD": password[1]},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"report":"my-payment-activity"')
    assert '{"report":"payment-balancing"' in done.stdout
    assert re.search(r"payment_id,posted_at,posting_date.*\n[0-9a-f-]{36},", done.stdout), "one call asks for CSV"
    assert done.stdout.count('{"items":[{"') == 2, "the demo sent feeds, and something of them waits for a person"
