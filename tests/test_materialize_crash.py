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
from collections.abc import Callable, Iterator
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

KILLS = {"sqlite": 50, "postgres": 10, "redis": 40}
assert sum(KILLS.values()) == 100
#: Kills before a run may finish.
MOST_KILLS = 5
#: As many keys as a run needs to take many times as long as there is between two notes of its progress, on fast machines, too.
KEYS = {"sqlite": 4_000, "postgres": 4_000, "redis": 5_000}
BATCH = {"sqlite": 25, "postgres": 25, "redis": 2}
ROWS_OF_A_KEY, FEATURES = 2, 5
START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=1)
WINDOW = ("materialize", START.strftime("%Y-%m-%dT%H:%M:%S"), END.strftime("%Y-%m-%dT%H:%M:%S"))
LATER = ("materialize", END.strftime("%Y-%m-%dT%H:%M:%S"), (END + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S"))


def write_rows(path: Path, keys: int) -> None:
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
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@dataclass
class Store:
    """An online store, read and emptied without thali."""

    name: str
    section: str
    content: Callable[[], Any]
    empty: Callable[[], Any]


def sqlite_store(folder: Path) -> Store:
    file = folder / "data/online.db"

    def content() -> Any:
        with sqlite3.connect(file) as connection:
            return connection.execute("SELECT entity_key, feature_name, value, event_ts, created_ts FROM crash_stats ORDER BY 1, 2").fetchall()

    def empty() -> None:
        for path in file.parent.glob("online.db*"):
            path.unlink()

    return Store("sqlite", "{type: sqlite, path: data/online.db}", content, empty)


def postgres_store(server: servers.Postgres, database: str) -> Store:
    login: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "user": "thali", "password": servers.PASSWORD}

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


def redis_store(server: servers.Redis) -> Store:
    client = redis_client.Redis.from_url(server.url)

    def content() -> Any:
        keys = sorted(client.scan_iter(count=1000))
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        return dict(zip(keys, pipe.execute(), strict=True))

    return Store(
        "redis",
        json.dumps({"type": "redis", "connection_string": server.address}),
        content,
        client.flushall,
    )


@pytest.fixture(params=sorted(KILLS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield sqlite_store(tmp_path)
    elif request.param == "redis":
        yield redis_store(request.getfixturevalue("redis"))
    else:
        url = request.getfixturevalue("postgres_url")
        yield postgres_store(request.getfixturevalue("postgres"), url.rsplit("/", 1)[1].split("?")[0])


@pytest.fixture
def repo(store: Store, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data/stats.parquet", KEYS[store.name])
    (tmp_path / "feature_store.yaml").write_text(
        f"project: crash\nprovider: local\nregistry: data/registry.db\nonline_store: {store.section}\noffline_store: {{type: file}}\n"
        f"entity_key_serialization_version: 3\nmaterialization: {{online_write_batch_size: {BATCH[store.name]}}}\n"
    )
    schema = ", ".join(f"{{name: f{n}, type: Float64}}" for n in range(FEATURES))
    (tmp_path / "definitions.yaml").write_text(
        "entities: [{name: id, join_key: id, value_type: Int64}]\n"
        "data_sources: [{name: s, type: file, path: data/stats.parquet, timestamp_field: event_timestamp, created_timestamp_column: created}]\n"
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

