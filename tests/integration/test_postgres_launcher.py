"""The private PostgreSQL: durable by default, cleared up after any death, and run by whoever starts it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import postgres as module
from deploy import processes
from deploy.postgres import PostgresError, PrivatePostgres
from tests.support.owners import ask, owner

OWNER = """
import sys
from pathlib import Path
from deploy.postgres import PrivatePostgres

server = PrivatePostgres(Path(sys.argv[1]))
server.start()
server.ensure_database("books")
server.execute("create table if not exists entry (cents bigint); insert into entry values (1250)", "books")
print(server.pid, flush=True)
sys.stdin.readline()
server.stop()
print("stopped", flush=True)
"""


@pytest.fixture
def home(server_dir: Path, request: pytest.FixtureRequest) -> Path:
    folder: Path = server_dir / request.node.name
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def server(home: Path) -> Iterator[PrivatePostgres]:
    with PrivatePostgres(home / "data") as running:
        yield running


def entries(server: PrivatePostgres) -> str:
    return server.execute("select sum(cents) from entry", "books").strip()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_is_durable_private_and_the_same_everywhere(server: PrivatePostgres) -> None:
    settings = ("fsync", "data_checksums", "timezone", "listen_addresses", "unix_socket_directories", "server_encoding")
    shown = {name: server.execute(f"show {name}").strip() for name in settings}
    assert shown == {
        "fsync": "on",
        "data_checksums": "on",
        "timezone": "UTC",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "server_encoding": "UTF8",
    }
    assert server.execute("select 'Z' < 'a'").strip() == "t", "byte order, whatever the machine's locale"
    assert server.home.stat().st_mode & 0o077 == 0
    assert (server.home / "password").stat().st_mode & 0o077 == 0
    guess = subprocess.run(
        [
            module.find_binaries() / "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(server.port),
            "-U",
            "postgres",
            "-wc",
            "select 1",
        ],
        env={"PGPASSWORD": "guess"},
        capture_output=True,
        check=False,
    )
    assert b"password authentication failed" in guess.stderr


def test_databases_and_roles_are_made_once_whatever_their_names(server: PrivatePostgres) -> None:
    for _ in range(2):
        server.ensure_database("o'b\"rien")
        server.ensure_login("ledger", "o'b\"rien")
    assert server.execute("select count(*) from pg_database where datname = 'o''b\"rien'").strip() == "1"
    assert server.execute("select rolcanlogin from pg_roles where rolname = 'ledger_app'").strip() == "f"


def test_errors_of_a_script_are_raised(server: PrivatePostgres) -> None:
    with pytest.raises(PostgresError, match="no_such_table"):
        server.execute("select * from no_such_table")


def test_data_survive_a_stop_and_a_crash(home: Path) -> None:
    server = PrivatePostgres(home / "data", port=processes.free_port())
    with server:
        server.ensure_database("books")
        server.execute("create table entry (cents bigint); insert into entry values (1250)", "books")
        address = server.dsn("books")
    with server:
        assert (entries(server), server.dsn("books")) == ("1250", address)
        server.kill()
        server.start()
        assert entries(server) == "1250"


@pytest.mark.parametrize("as_nobody", [False, True], ids=["ourselves", "nobody"])
def test_kill_9_of_the_owner_takes_the_server_along_and_loses_nothing(home: Path, as_nobody: bool) -> None:
    if as_nobody and os.geteuid() == 0:
        os.chown(home, 65534, -1)
    with owner(OWNER, str(home / "data"), as_nobody=as_nobody, home=home) as first:
        pid = int(ask(first))
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert processes.wait_until(lambda: gone(pid), 10), "the server outlived its owner"
    with owner(OWNER, str(home / "data"), as_nobody=as_nobody, home=home) as second:
        pid = int(ask(second))
        assert ask(second, "stop") == "stopped"
        assert gone(pid)
    with PrivatePostgres(home / "data") as server:
        assert entries(server) == "2500"


def test_an_orphan_is_ended_before_the_next_start(home: Path) -> None:
    with PrivatePostgres(home / "data") as server:
        server.ensure_database("books")
        server.execute("create table entry (cents bigint); insert into entry values (1250)", "books")
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")[:-1]
    identity = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    orphan = subprocess.Popen([*identity, *command], stderr=subprocess.DEVNULL, cwd=server.home)
    try:
        assert processes.wait_until(lambda: processes.accepts(server.port), 10)
        with server:
            assert orphan.wait(10) == 0
            assert entries(server) == "1250"
    finally:
        orphan.kill()
        orphan.wait()


def test_a_stale_pid_file_whose_number_lives_on_does_no_harm(home: Path) -> None:
    server = PrivatePostgres(home / "data")
    with server:
        stale = (server.data / "postmaster.pid").read_text().split("\n", 1)[1]
    (server.data / "postmaster.pid").write_text(f"{os.getppid()}\n{stale}")
    with server:
        assert server.pid != os.getppid()


def test_two_owners_of_one_folder_are_refused(server: PrivatePostgres) -> None:
    with pytest.raises(PostgresError, match="in use"):
        PrivatePostgres(server.home).start()
    assert server.execute("select 1").strip() == "1"


def test_what_a_death_during_the_first_start_left_is_made_again(home: Path) -> None:
    (home / "data" / "pgdata-unfinished").mkdir(parents=True)
    with PrivatePostgres(home / "data") as server:
        assert server.execute("select 1").strip() == "1"


def test_data_of_another_major_version_are_refused_by_name(home: Path) -> None:
    server = PrivatePostgres(home / "data")
    with server:
        pass
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="made by PostgreSQL 9 "):
        server.start()


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(PostgresError, match="no_such_setting"):
        PrivatePostgres(home / "data", settings={"no_such_setting": "1"}).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as somebody else")
def test_root_finds_a_place_that_nobody_can_reach(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(module, "ROOT_FALLBACK", home / "fallback")
    # As if the virtual environment stood below /root.
    monkeypatch.setattr(module, "_open_to_all", lambda path: "site-packages" not in str(path) and path != closed)
    server = PrivatePostgres(closed / "data")
    assert server.home.parent == home / "fallback"
    for _ in range(2):
        with server:
            command = Path(f"/proc/{server.pid}/cmdline").read_text()
            assert Path(f"/proc/{server.pid}").stat().st_uid == 65534
            assert command.startswith(str(server.home))
