"""`python -m shared.amqp dead-letters QUEUE [--replay]`: one JSON object a line.

The variable AMQP_URL names the broker.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import sys

from shared import logs
from shared.amqp.dead_letters import dead_letters


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m shared.amqp")
    commands = parser.add_subparsers(required=True)
    letters = commands.add_parser("dead-letters", help="list the dead letters of a queue, or move them back into it")
    letters.add_argument("queue")
    letters.add_argument("--replay", action="store_true", help="move them back to the end of the queue")
    asked = parser.parse_args()
    logs.configure("warning")
    url = os.environ.get("AMQP_URL") or parser.error("AMQP_URL must be set")
    for letter in asyncio.run(dead_letters(url, asked.queue, replay=asked.replay)):
        sys.stdout.write(json.dumps(dataclasses.asdict(letter)) + "\n")


if __name__ == "__main__":
    main()
