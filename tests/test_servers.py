"""The servers of the tests themselves: what was committed survives a crash of the server, else no test of ours proves that."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

import servers


@pytest.fixture(params=["postgres", "mariadb"])
def database(request: pytest.FixtureRequest) -> Iterator[tuple[servers.Database, str]]:
    server = request.getfixturevalue(request.param)
    with server.database() as url:
        yield server, url


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_database_keeps_what_was_committed(ending: str, database: tuple[servers.Database, str]) -> None:
    server, url = database
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE kept (number INTEGER)"))
        connection.execute(sqlalchemy.text("INSERT INTO kept VALUES (1)"))
    open_transaction = engine.connect()
    open_transaction.execute(sqlalchemy.text("INSERT INTO kept VALUES (2)"))
    getattr(server, ending)()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    open_transaction.invalidate()
    server.start()
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT number FROM kept")).scalars().all() == [1]


def test_nothing_stays_behind() -> None:
    with servers.Redis.running() as server:
        folder, process = server.folder, server.process
        assert folder.is_dir()
    assert process.poll() is not None and not Path(folder).exists()
