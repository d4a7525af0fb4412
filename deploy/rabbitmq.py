"""A private RabbitMQ node for the tests and for trying the real transport on a laptop."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from deploy import processes
from deploy.rabbitmq_install import Installation, RabbitError, find_or_install

START_SECONDS = 90.0  # six to eight on an idle machine
STOP_SECONDS = 15.0
USER = "billing"
TLS_CONF = Path(__file__).parent / "rabbitmq" / "tls.conf"


class PrivateRabbit:
    """One broker on 127.0.0.1, with ports, node name, cookie, password and folders that nobody else uses.

    It runs as whoever starts it and dies with its owner, by `kill -9` too (see `processes.spawn`), and so does the
    port mapper that Erlang would otherwise leave running. Ports stay the same over `kill` and `restart`, so that a
    client can find the node again.
    """

    def __init__(self, directory: Path, *, tls: Path | None = None) -> None:
        """`tls`: a folder with the node's ca.pem, certificate.pem and key.pem; then it listens as rabbitmq/tls.conf has
        it, and speaks TLS only."""
        self.home = directory.absolute()
        self.log = self.home / "rabbit.log"
        self.port = 0
        self._tls = tls
        self._server = Path()
        self._environment: dict[str, str] = {}
        self._password = ""
        self._mapper: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the default virtual host."""
        scheme = "amqps" if self._tls else "amqp"
        return f"{scheme}://{USER}:{self._password}@127.0.0.1:{self.port}/"

    @property
    def running(self) -> bool:
        """Whether the node's process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the Erlang machine."""
        if self._process is None:
            raise RabbitError("RabbitMQ is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        if self._process is not None:
            raise RabbitError("RabbitMQ is running already")
        if not self._environment:
            self._prepare(find_or_install())
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the node in order, and harder when that takes too long. Harmless when it is not running."""
        if self._process is not None:
            self.resume()
            processes.end(self._process, signal.SIGTERM, seconds=STOP_SECONDS)
            self._process = None
        if self._mapper is not None:
            processes.end(self._mapper, seconds=STOP_SECONDS)
            self._mapper = None

    def restart(self) -> None:
        """Stop the node in order and start it again with its queues."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the node as a crash would; `start` brings it back with what it had written (see `settle`)."""
        if self._process is not None:
            processes.end(self._process, seconds=STOP_SECONDS)
            self._process = None

    def pause(self) -> None:
        """Freeze the node: its connections stay open and nothing answers. When this returns, all its threads stand."""
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen node go on."""
        self._signal(signal.SIGCONT)

    def make_vhost(self, name: str) -> str:
        """Make a virtual host, whose queues and exchanges no other one sees, and return its address."""
        self.evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"{USER}">>),'
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"{name}">>,'
            f' <<".*">>, <<".*">>, <<".*">>, <<"{USER}">>).'
        )
        return self.url + quote(name, safe="")

    def drop_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it."""
        self.evaluate(f'ok = rabbit_vhost:delete(<<"{name}">>, <<"{USER}">>).')

    def settle(self) -> None:
        """Write down the quorum queues declared a moment ago, before a test kills the node.

        RabbitMQ 3.10 does so by itself within about a second; a queue whose node dies before that never comes back,
        nor do its confirmed messages.
        """
        self.evaluate("[ok = dets:sync(Table) || Table <- dets:all()].")

    def evaluate(self, expressions: str) -> str:
        """Evaluate Erlang inside the node: all that rabbitmqctl can, without its second of start-up."""
        if self._process is None:
            raise RabbitError("RabbitMQ is not running")
        node = self._environment["RABBITMQ_NODENAME"]
        done = subprocess.run(
            ["erl_call", "-r", "-sname", node, "-timeout", "30", "-e"],
            input=expressions + "\n",
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.stdout.startswith("{ok, "):
            raise RabbitError(f"{expressions} failed: {done.stdout}{done.stderr}".strip())
        return done.stdout.strip().removeprefix("{ok, ").removesuffix("}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RabbitError("RabbitMQ is not running")
        self._process.send_signal(number)  # unlike os.kill, never to a stranger who got the number of a dead node

    def _prepare(self, installation: Installation) -> None:
        self._server = installation.server
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = processes.free_port()
        self._password = _remember(self.home / "password")
        _remember(self.home / ".erlang.cookie")
        (self.home / "enabled_plugins").write_text("[].\n")
        (self.home / "rabbitmq.conf").touch(mode=0o600)
        (self.home / "rabbitmq.conf").write_text(
            f"default_user = {USER}\ndefault_pass = {self._password}\n"
            "log.console = true\nlog.console.level = warning\nlog.file = false\n" + self._listeners()
        )
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL"))}
        self._environment = {
            **inherited,
            **installation.environment(),
            "HOME": str(self.home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(processes.free_port()),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # not the machine's
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(processes.free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_NODENAME": f"{USER}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # Makes the start script become the Erlang machine: one process, whose signals reach it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _listeners(self) -> str:
        if self._tls is None:
            return f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
        text = TLS_CONF.read_text("utf-8")
        text = re.sub(r"^(listeners\.ssl\.\w+) = \d+$", rf"\1 = 127.0.0.1:{self.port}", text, flags=re.MULTILINE)
        return text.replace("/tls/", f"{self._tls}/")

    def _launch(self) -> None:
        if self._mapper is None:
            # Started by us in the foreground. RabbitMQ would start one that outlives everything.
            epmd_port = self._environment["ERL_EPMD_PORT"]
            self._mapper = processes.spawn(
                ["epmd", "-address", "127.0.0.1", "-port", epmd_port],
                log=self.home / "epmd.log",
                death=signal.SIGKILL,
                env=self._environment,
            )
            processes.wait_until(lambda: processes.accepts(int(epmd_port)), START_SECONDS)
        self._process = node = processes.spawn(
            [str(self._server)], log=self.log, death=signal.SIGKILL, env=self._environment
        )
        processes.wait_until(lambda: node.poll() is not None or processes.accepts(self.port), START_SECONDS)
        if node.poll() is not None or not processes.accepts(self.port):
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise RabbitError(f"RabbitMQ did not start. The end of {self.log}:\n{tail}")


def _remember(file: Path) -> str:
    """A secret that is made once and kept in a file only we can read."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16))
    return file.read_text()
