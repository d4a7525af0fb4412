"""The private RabbitMQ: its own ports and names, faults on demand, and nothing left behind by any death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import psutil
import pytest
from aio_pika.abc import AbstractChannel

from deploy import processes, rabbitmq_install
from deploy.rabbitmq import PrivateRabbit
from deploy.rabbitmq_install import RabbitError
from tests.support.owners import ask, owner

OWNER = """
import sys
from pathlib import Path
from deploy.rabbitmq import PrivateRabbit

node = PrivateRabbit(Path(sys.argv[1]))
node.start()
print(node.url, flush=True)
sys.stdin.readline()
node.settle()
print("settled", flush=True)
sys.stdin.readline()
node.stop()
print("stopped", flush=True)
"""


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection, await connection.channel() as opened:
        yield opened


async def leave_message(url: str) -> None:
    async with channel(url) as opened:
        await opened.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        await opened.default_exchange.publish(
            aio_pika.Message(b"1250", delivery_mode=aio_pika.DeliveryMode.PERSISTENT), "kept"
        )


async def waiting(url: str) -> int:
    async with channel(url) as opened:
        queue = await opened.declare_queue("kept", passive=True)
        return queue.declaration_result.message_count or 0


async def message_is_there(url: str) -> None:
    async with asyncio.timeout(30):
        while await waiting(url) != 1:  # a queue counts again once it has elected a leader
            await asyncio.sleep(0.1)


async def answer(process: subprocess.Popen[str], line: str | None = None) -> str:
    return await asyncio.to_thread(ask, process, line)


def left_over(home: Path) -> list[str]:
    """Command lines of the processes whose home is the node's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.fault
async def test_confirmed_messages_outlive_a_crash_and_a_restart(rabbit: PrivateRabbit) -> None:
    url, pid = rabbit.make_vhost("outlive"), rabbit.pid
    await leave_message(url)
    rabbit.settle()
    rabbit.kill()
    assert not rabbit.running
    rabbit.start()
    assert rabbit.pid != pid
    await message_is_there(url)
    rabbit.restart()
    await message_is_there(url)
    rabbit.drop_vhost("outlive")


@pytest.mark.fault
async def test_a_paused_node_keeps_its_connections_and_says_nothing(rabbit: PrivateRabbit) -> None:
    async with channel(rabbit.url) as opened:
        rabbit.pause()
        assert psutil.Process(rabbit.pid).status() == psutil.STATUS_STOPPED
        with pytest.raises(TimeoutError):
            await opened.declare_exchange("frozen", timeout=0.5)
        rabbit.resume()
        async with asyncio.timeout(10), channel(rabbit.url) as another:
            await another.declare_exchange("thawed")


async def test_virtual_hosts_do_not_see_each_other(rabbit: PrivateRabbit, amqp_url: str) -> None:
    other = rabbit.make_vhost("other")
    await leave_message(other)
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await waiting(amqp_url)
    rabbit.drop_vhost("other")
    with pytest.raises(aio_pika.exceptions.AMQPError):
        await waiting(other)


def test_the_node_listens_on_loopback_only(rabbit: PrivateRabbit) -> None:
    sockets = psutil.Process(rabbit.pid).net_connections("tcp")
    addresses = [socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN]
    assert len(addresses) == 2, "AMQP and Erlang's distribution"
    assert set(addresses) == {"127.0.0.1"}
    assert rabbit.home.stat().st_mode & 0o077 == 0


def test_what_erlang_refuses_is_an_error(rabbit: PrivateRabbit) -> None:
    assert rabbit.evaluate("1 + 1.") == "2"
    with pytest.raises(RabbitError, match="no_such_module"):
        rabbit.evaluate("no_such_module:go().")


@pytest.mark.fault
@pytest.mark.parametrize("as_nobody", [False, True], ids=["ourselves", "nobody"])
async def test_kill_9_of_the_owner_leaves_no_process_and_no_damage(server_dir: Path, as_nobody: bool) -> None:
    home = server_dir / f"rabbit-owner-{as_nobody}"
    home.mkdir(mode=0o700)
    if as_nobody and os.geteuid() == 0:
        os.chown(home, 65534, -1)
    with owner(OWNER, str(home / "node"), as_nobody=as_nobody, home=home) as first:
        await leave_message(await answer(first))
        assert await answer(first, "settle") == "settled"
        assert len(left_over(home / "node")) >= 2, "the node and the port mapper"
        first.send_signal(signal.SIGKILL)
        assert await asyncio.to_thread(processes.wait_until, lambda: not left_over(home / "node"), 10)
    with owner(OWNER, str(home / "node"), as_nobody=as_nobody, home=home) as second:
        await message_is_there(await answer(second))
        assert await answer(second, "settle") == "settled"
        assert await answer(second, "stop") == "stopped"
        assert left_over(home / "node") == []


def test_without_rabbitmq_and_without_debian_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_install, "DEBIAN_SERVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RabbitError, match="AMQP_URL"):
        rabbitmq_install.find_or_install()


@pytest.mark.skipif(not Path("/usr/bin/dpkg-deb").exists(), reason="packages are made with Debian's tools")
def test_packages_are_unpacked_where_erlang_finds_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An archive with one package stands in for Debian's.
    content = tmp_path / "content"
    for file, text in {
        "DEBIAN/control": "Package: erlang-base\nVersion: 1\nArchitecture: all\nMaintainer: test\nDescription: test\n",
        "usr/lib/erlang/bin/erl": "#!/bin/sh\nROOTDIR=/usr/lib/erlang\n",
        "usr/lib/erlang/bin/escript": "\x7fELF /usr/lib/erlang",
        "usr/lib/rabbitmq/bin/rabbitmq-server": "#!/bin/sh\n",
        "usr/lib/x86_64-linux-gnu/libsctp.so.1": "",
    }.items():
        (content / file).parent.mkdir(parents=True, exist_ok=True)
        (content / file).write_text(text)
    subprocess.run(["dpkg-deb", "--build", content, tmp_path / "erlang-base.deb"], check=True, capture_output=True)
    fake = tmp_path / "bin/apt-get"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        'case "$*" in *install*) echo "Inst erlang-base (1 Debian)" ;;'
        f" *download*) cp {tmp_path}/erlang-base.deb . ;; esac\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(rabbitmq_install.shutil, "which", lambda name: None if "rabbit" in name else str(fake))
    monkeypatch.setattr(rabbitmq_install, "DEBIAN_SERVER", Path("/usr/lib/rabbitmq/bin/no-such-rabbitmq-server"))
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    for _ in range(2):
        found = rabbitmq_install.find_or_install()
        root = tmp_path / "cache/practice-billing/rabbitmq"
        assert found.root == root
        assert (root / "usr/lib/erlang/bin/erl").read_text() == f"#!/bin/sh\nROOTDIR={root}/usr/lib/erlang\n"
        assert (root / "usr/lib/erlang/bin/escript").read_text() == "\x7fELF /usr/lib/erlang"
        assert found.environment()["LD_LIBRARY_PATH"] == str(root / "usr/lib/x86_64-linux-gnu")
    assert [line.split()[-1] for line in (tmp_path / "calls").read_text().splitlines()] == [
        "update",
        "rabbitmq-server",
        "erlang-base",
    ], "the second time it is there"
