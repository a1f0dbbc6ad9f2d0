"""A materialization that is killed goes on where it was: in the end the store has exactly what it has after a run that nobody
disturbed, and the rows that were stored are not stored again.

A hundred kills at random moments, shared among the stores. Runs are killed a few times one after the other before one may
finish, so kills hit resumed runs as well as new ones.
"""

import contextlib
import json
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow
import pyarrow.parquet
import pytest
import redis as redis_client

import harness
import servers

KILLS = {"sqlite": 50, "postgres": 10, "redis": 25, "redis from a table": 15}
assert sum(KILLS.values()) == 100
#: Kills before a run may finish.
MOST_KILLS = 5
#: As many keys as a run needs to take many times as long as there is between two notes of its progress, on fast machines, too.
KEYS = {"sqlite": 4_000, "postgres": 4_000, "redis": 5_000, "redis from a table": 5_000}
BATCH = {"sqlite": 25, "postgres": 25, "redis": 2, "redis from a table": 2}
ROWS_OF_A_KEY, FEATURES = 2, 5
START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=1)
WINDOW = ("materialize", START.strftime("%Y-%m-%dT%H:%M:%S"), END.strftime("%Y-%m-%dT%H:%M:%S"))
LATER = ("materialize", END.strftime("%Y-%m-%dT%H:%M:%S"), (END + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S"))


def write_rows(path: Path, keys: int) -> pyarrow.Table:
    """Rows in no order, a few keys' rows with equal event times, and rows later than the window for some keys."""
    draw = random.Random(5)
    rows = []
    for key in range(keys):
        times = [START + timedelta(seconds=draw.randrange(86_000)) for _ in range(ROWS_OF_A_KEY)]
        if key % 4 == 0:
            times[1] = times[0]
        if key % 50 == 0:
            times.append(END + timedelta(hours=1))
        created = draw.sample(range(100), len(times))
        rows += [(key, when, END + timedelta(seconds=made), [draw.random() for _ in range(FEATURES)]) for when, made in zip(times, created)]
    draw.shuffle(rows)
    stamp = pyarrow.timestamp("us", "UTC")
    columns: dict[str, Any] = {
        "id": pyarrow.array([row[0] for row in rows], pyarrow.int64()),
        "event_timestamp": pyarrow.array([row[1] for row in rows], stamp),
        "created": pyarrow.array([row[2] for row in rows], stamp),
    }
    columns |= {f"f{n}": pyarrow.array([row[3][n] for row in rows], pyarrow.float64()) for n in range(FEATURES)}
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path)
    return table


@dataclass
class Store:
    """An online store, read and emptied without thali."""

    name: str
    section: str
    content: Callable[[], Any]
    empty: Callable[[], Any]
    #: The database whose table the rows are in, when they are in no file.
    source: dict[str, Any] | None = None

    def ask_source(self, statement: str) -> None:
        login = dict(self.source or {})
        with psycopg.connect(dbname=login.pop("database"), **login) as connection:
            connection.execute(statement)


def sqlite_store(folder: Path) -> Store:
    file = folder / "data/online.db"

    def content() -> Any:
        with sqlite3.connect(file) as connection:
            return connection.execute("SELECT entity_key, feature_name, value, event_ts, created_ts FROM crash_stats ORDER BY 1, 2").fetchall()

    def empty() -> None:
        for path in file.parent.glob("online.db*"):
            path.unlink()

    return Store("sqlite", "{type: sqlite, path: data/online.db}", content, empty)


def login_of(server: servers.Postgres) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.port, "user": "thali", "password": servers.PASSWORD}


def postgres_store(server: servers.Postgres, database: str) -> Store:
    login = login_of(server)

    def ask(statement: str) -> psycopg.Cursor[Any]:
        connection = psycopg.connect(**login, dbname=database, autocommit=True)
        return connection.execute(statement)

    section = {"type": "postgres", **login, "database": database, "sslmode": "disable"}
    return Store(
        "postgres",
        json.dumps(section),
        lambda: ask("SELECT entity_key, feature_name, value, event_ts, created_ts FROM crash_stats ORDER BY 1, 2").fetchall(),
        lambda: ask("DROP TABLE IF EXISTS crash_stats"),
    )


def redis_store(server: servers.Redis, source: dict[str, Any] | None = None) -> Store:
    client = redis_client.Redis.from_url(server.url)

    def content() -> Any:
        keys = sorted(client.scan_iter(count=1000))
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        return dict(zip(keys, pipe.execute(), strict=True))

    return Store(
        "redis from a table" if source else "redis",
        json.dumps({"type": "redis", "connection_string": server.address}),
        content,
        client.flushall,
        source,
    )


@pytest.fixture(params=sorted(KILLS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return sqlite_store(tmp_path)
    if request.param == "redis":
        return redis_store(request.getfixturevalue("redis"))
    database = request.getfixturevalue("postgres_url").rsplit("/", 1)[1].split("?")[0]
    server = request.getfixturevalue("postgres")
    if request.param == "postgres":
        return postgres_store(server, database)
    return redis_store(request.getfixturevalue("redis"), login_of(server) | {"database": database})


def fill_table(store: Store, rows: pyarrow.Table) -> None:
    features = ", ".join(f"f{n} float8" for n in range(FEATURES))
    store.ask_source(f"CREATE TABLE stats (id bigint, event_timestamp timestamptz, created timestamptz, {features})")
    login = dict(store.source or {})
    with psycopg.connect(dbname=login.pop("database"), **login) as connection, connection.cursor() as cursor, cursor.copy("COPY stats FROM STDIN") as copy:
        for row in zip(*(column.to_pylist() for column in rows.columns)):
            copy.write_row(row)


@pytest.fixture
def repo(store: Store, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    rows = write_rows(tmp_path / "data/stats.parquet", KEYS[store.name])
    offline: dict[str, Any] = {"type": "file"}
    source = "type: file, path: data/stats.parquet"
    if store.source:
        fill_table(store, rows)
        offline = {"type": "postgres", "sslmode": "disable", **store.source}
        source = "type: postgres, table: stats"
    (tmp_path / "feature_store.yaml").write_text(
        f"project: crash\nprovider: local\nregistry: data/registry.db\nonline_store: {store.section}\noffline_store: {json.dumps(offline)}\n"
        f"entity_key_serialization_version: 3\nmaterialization: {{online_write_batch_size: {BATCH[store.name]}}}\n"
    )
    schema = ", ".join(f"{{name: f{n}, type: Float64}}" for n in range(FEATURES))
    (tmp_path / "definitions.yaml").write_text(
        "entities: [{name: id, join_key: id, value_type: Int64}]\n"
        f"data_sources: [{{name: s, {source}, timestamp_field: event_timestamp, created_timestamp_column: created}}]\n"
        f"feature_views: [{{name: stats, entities: [id], source: s, schema: [{schema}]}}]\n"
    )
    harness.succeed(tmp_path, "apply")
    return tmp_path


def newest_job(repo: Path) -> dict[str, Any]:
    return json.loads(harness.succeed(repo, "jobs", "--output", "json", "--limit", "1"))[0]


def start(repo: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([str(harness.binary()), "-c", str(repo), *WINDOW], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=harness.environment())


def noted(repo: Path) -> bool:
    """Whether an unfinished run has noted down that rows are stored."""
    with sqlite3.connect(repo / "data/thali.db") as connection:
        states = connection.execute("SELECT state FROM thali_checkpoints").fetchall()
    return any(sum(json.loads(state)["stored"]) > 0 for (state,) in states)


def test_a_killed_run_goes_on_where_it_was(repo: Path, store: Store) -> None:
    store.empty()
    harness.succeed(repo, *LATER)
    began = time.monotonic()
    harness.succeed(repo, *WINDOW)
    took = time.monotonic() - began
    right = store.content()
    whole = newest_job(repo)
    assert whole["rowsWritten"] == KEYS[store.name] - len(range(0, KEYS[store.name], 50)) and whole["rowsResumed"] == 0
    draw = random.Random(store.name)
    kills, went_on = 0, []
    while kills < KILLS[store.name]:
        store.empty()
        harness.succeed(repo, *LATER)
        for number in range(min(MOST_KILLS, KILLS[store.name] - kills)):
            run = start(repo)
            if number == 0:
                harness.eventually(lambda: noted(repo) or run.poll() is not None, "something is noted down")
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(draw.uniform(0.2 * took, took))
            run.kill()
            if run.wait() != 0:
                kills += 1
        harness.succeed(repo, *WINDOW)
        assert store.content() == right
        last = newest_job(repo)
        assert last["state"] == "succeeded" and last["rowsRead"] + last["rowsResumed"] == whole["rowsRead"], last
        if last["rowsResumed"]:
            assert last["rowsWritten"] < whole["rowsWritten"] and last["chunks"] < whole["chunks"], last
            went_on.append(last)
    assert went_on, "no run went on where another was"


def test_what_was_stored_of_rows_that_changed_is_stored_again(repo: Path, store: Store) -> None:
    """Between a kill and the next run values change whose times do not."""
    store.empty()
    run = start(repo)
    harness.eventually(lambda: noted(repo) or run.poll() is not None, "something is noted down")
    run.kill()
    killed = run.wait() != 0
    if store.source:
        store.ask_source("UPDATE stats SET f0 = -f0 - 1")
    else:
        path = repo / "data/stats.parquet"
        rows = pyarrow.parquet.read_table(path)
        place = rows.column_names.index("f0")
        pyarrow.parquet.write_table(rows.set_column(place, "f0", pyarrow.array([-value - 1 for value in rows["f0"].to_pylist()])), path)
    harness.succeed(repo, *WINDOW)
    resumed = store.content()
    assert newest_job(repo)["rowsResumed"] == 0
    store.empty()
    harness.succeed(repo, *WINDOW)
    assert resumed == store.content()
    assert killed, "the run was over before it could be killed"


def test_rows_that_are_gone_are_stored_again(repo: Path, store: Store) -> None:
    """What was noted down of a killed run is not trusted: somebody may have emptied the store since."""
    store.empty()
    harness.succeed(repo, *WINDOW)
    right = store.content()
    store.empty()
    run = start(repo)
    harness.eventually(lambda: noted(repo) or run.poll() is not None, "something is noted down")
    run.kill()
    killed = run.wait() != 0
    store.empty()
    harness.succeed(repo, *WINDOW)
    assert store.content() == right
    assert killed, "the run was over before it could be killed"

