"""The distributed engine: a scheduler and two executors, all of them thali's own binary built with `--features ballista`
(`make test-ballista`). Answers equal those of the local engine cell by cell, whatever is asked and whoever dies."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy

import harness
import test_materialize_crash as crash
from harness import Node, Thali
from test_offline_postgres import store_section

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
#: What a query waits for that reads the gated source, while a test holds it.
GATE = 4711
TASKS = 6

CONFIGURATION = """project: cluster
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""

DEFINITIONS = """entities:
  - {name: driver, join_key: driver, value_type: Int64}
  - {name: zone, join_key: zone, value_type: String}
data_sources:
  - {name: trips, type: file, path: data/trips, timestamp_field: at, created_timestamp_column: created}
  - {name: zones, type: file, path: data/zones.parquet, timestamp_field: event_timestamp, field_mapping: {z: level}}
  - {name: weather, type: file, path: data/weather.parquet, timestamp_field: event_timestamp}
  - {name: late, type: request, schema: [{name: bonus, type: Float64}]}
feature_views:
  - {name: trips, entities: [driver, zone], source: trips, ttl: 30m, schema: [{name: x, type: Int64}, {name: rate, type: Float64}, {name: tags, type: Array(String)}]}
  - {name: history, entities: [driver], source: trips, schema: [{name: x, type: Int64}]}
  - {name: zones, entities: [zone], source: zones, ttl: 2h, schema: [{name: level, type: String}]}
  - {name: weather, entities: [], source: weather, ttl: 1h, schema: [{name: rain, type: Bool}]}
on_demand_feature_views:
  - {name: extra, sources: [trips, late], schema: [{name: more, type: Float64}], expressions: {more: "rate + bonus"}}
feature_services:
  - {name: everything, features: [trips, zones, weather, extra]}
"""


@contextmanager
def process(repo: Path, name: str, *arguments: object) -> Iterator[Node]:
    """A `thali cluster …` process."""
    node = Node.spawn([harness.binary(), "-c", repo, "cluster", name, *arguments], name)
    try:
        node.wait_ready()
        yield node
        if node.process.poll() is None:
            node.stop()
    finally:
        node.kill()


class Cluster:
    def __init__(self, repo: Path, scheduler: Node) -> None:
        self.repo, self.executors = repo, list[Node]()
        self.url = scheduler.addresses["ballista-scheduler"]

    @classmethod
    @contextmanager
    def running(cls, repo: Path) -> Iterator["Cluster"]:
        with ExitStack() as stack:
            cluster = cls(repo, stack.enter_context(process(repo, "scheduler", "--port", 0)))
            cluster.executors = [stack.enter_context(cluster.executor()) for _ in range(2)]
            yield cluster

    def executor(self) -> AbstractContextManager[Node]:
        return process(self.repo, "executor", "--scheduler", self.address, "--port", 0, "--control-port", 0)

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def settings(self) -> list[str]:
        """What makes a thali use this cluster."""
        values = {"type": "ballista", "scheduler": self.address, "tasks": TASKS}
        return [part for key, value in values.items() for part in ("--set", f"batch_engine.{key}={value}")]

    def rest(self, path: str) -> Any:
        status, answer = harness.http("GET", f"{self.url}/api/{path}")
        assert status == 200, answer
        return answer

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.rest("jobs"))

    def tasks(self, job: str) -> list[Any]:
        return [task for stage in self.rest(f"job/{job}/stages")["stages"] for task in stage["tasks"] if task]


def moment(dice: random.Random, seconds: int) -> datetime:
    return START + timedelta(seconds=dice.randrange(seconds))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dice = random.Random(11)
    repo = tmp_path_factory.mktemp("cluster") / "repo"
    (repo / "data/trips").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(CONFIGURATION)
    (repo / "definitions.yaml").write_text(DEFINITIONS)
    time = pa.timestamp("us", tz="UTC")
    for part in range(3):
        # Times and creation times meet often, so that their order in the source decides.
        rows = [
            {
                "driver": dice.choice([*range(20), None]),
                "zone": dice.choice(["a", "b", "it's", None]),
                "at": START + timedelta(minutes=dice.randrange(300)),
                "created": START + timedelta(minutes=dice.randrange(3)),
                "x": part * 10_000 + number,
                "rate": dice.choice([None, number / 7]),
                "tags": dice.choice([None, [], ["p", None, "q"]]),
            }
            for number in range(4_000)
        ]
        schema = pa.schema(
            [
                ("driver", pa.int64()),
                ("zone", pa.string()),
                ("at", time),
                ("created", time),
                ("x", pa.int64()),
                ("rate", pa.float64()),
                ("tags", pa.list_(pa.string())),
            ]
        )
        pq.write_table(pa.Table.from_pylist(rows, schema), repo / f"data/trips/{part}.parquet", row_group_size=700)
    zones = [{"zone": dice.choice("abc"), "event_timestamp": moment(dice, 18_000), "z": f"level {number}"} for number in range(500)]
    pq.write_table(pa.Table.from_pylist(zones), repo / "data/zones.parquet")
    weather = [{"event_timestamp": moment(dice, 18_000), "rain": dice.choice([True, False, None])} for _ in range(50)]
    pq.write_table(pa.Table.from_pylist(weather), repo / "data/weather.parquet")
    harness.succeed(repo, "apply")
    return repo


@pytest.fixture(scope="module")
def cluster(repo: Path) -> Iterator[Cluster]:
    with Cluster.running(repo) as cluster:
        yield cluster


def entity_rows(dice: random.Random, count: int) -> pa.Table:
    """Rows in no order of time, some of them twice, with keys that no source has and keys that are null."""
    rows = [
        {
            "label": number,
            "driver": dice.choice([*range(22), None]),
            "zone": dice.choice(["a", "b", "c", "nowhere", None]),
            "event_timestamp": moment(dice, 20_000) if number % 9 else START + timedelta(minutes=number),
            "bonus": number / 2,
        }
        for number in range(count)
    ]
    fields = [("label", pa.int64()), ("driver", pa.int64()), ("zone", pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC")), ("bonus", pa.float64())]
    return pa.Table.from_pylist(rows, pa.schema(fields))


QUESTIONS: dict[str, tuple[int, list[str]]] = {
    "one view with ttl and ties": (1_000, ["-f", "trips:x"]),
    "several views, one source twice, one without keys": (1_000, [f"-f{name}" for name in ("trips:x", "trips:tags", "history:x", "zones:level", "weather:rain")]),
    "a service with a computed view": (500, ["--feature-service", "everything"]),
    "known as of": (500, ["-f", "trips:rate", "--filter-by-created-timestamp"]),
    "fewer rows than tasks": (3, ["-f", "zones:level"]),
    "no rows": (0, ["-f", "zones:level"]),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_the_local_engine(repo: Path, cluster: Cluster, tmp_path: Path, question: str) -> None:
    count, arguments = QUESTIONS[question]
    pq.write_table(entity_rows(random.Random(question), count), tmp_path / "rows.parquet")
    command = ["get-historical-features", "--full-feature-names", "--entity-file", tmp_path / "rows.parquet", *arguments, "-o"]
    harness.succeed(repo, *command, tmp_path / "local.parquet")
    before = len(cluster.jobs())
    harness.succeed(repo, *cluster.settings, *command, tmp_path / "cluster.parquet")
    assert_equal(tmp_path)
    # Nothing else can have made it.
    assert len(cluster.jobs()) == before + (count > 0)
    if count >= TASKS:
        newest = max(cluster.jobs(), key=lambda job: job["start_time"])
        tasks = cluster.tasks(newest["job_id"])
        assert sorted(number for task in tasks for number in task["partition_id"]) == list(range(TASKS))


def assert_equal(folder: Path) -> None:
    local, cluster = pq.read_table(folder / "local.parquet"), pq.read_table(folder / "cluster.parquet")
    assert cluster.schema.equals(local.schema, check_metadata=True)
    for name in local.column_names:
        assert cluster[name].to_pylist() == local[name].to_pylist(), name


def test_a_range_of_times(repo: Path, cluster: Cluster, tmp_path: Path) -> None:
    end = START + timedelta(hours=3, milliseconds=1)
    command = ["get-historical-features", "-f", "trips:x", "-f", "zones:level", "-s", START.isoformat(), "-e", end.isoformat(), "-o"]
    harness.succeed(repo, *command, tmp_path / "local.parquet")
    harness.succeed(repo, *cluster.settings, *command, tmp_path / "cluster.parquet")
    assert pq.read_metadata(tmp_path / "local.parquet").num_rows > 1_000
    assert_equal(tmp_path)


def test_flight(repo: Path, cluster: Cluster, tmp_path: Path) -> None:
    entities = entity_rows(random.Random(5), 700).to_pandas()
    features = ["trips:x", "trips:tags", "zones:level"]
    with Thali.serve(repo) as local, Thali.serve(repo, "all-in-one", *cluster.settings) as distributed:
        stores = [harness.sdk(thali, "cluster", tmp_path / f"client{number}") for number, thali in enumerate([local, distributed])]
        tables = [store.get_historical_features(entity_df=entities, features=features).to_arrow() for store in stores]
        assert tables[0]["label"].to_pylist() == list(range(700))
        assert tables[0].equals(tables[1])
        # What is wrong with a question is said as by the local engine.
        for store in stores:
            with pytest.raises(Exception, match="driver"):
                store.get_historical_features(entity_df=entities.drop(columns="driver"), features=features).to_arrow()


def test_no_scheduler(repo: Path, tmp_path: Path) -> None:
    pq.write_table(entity_rows(random.Random(1), 5), tmp_path / "rows.parquet")
    nobody = ["--set", "batch_engine.type=ballista", "--set", "batch_engine.scheduler=127.0.0.1:1"]
    done = harness.run(repo, *nobody, "get-historical-features", "-f", "trips:x", "--entity-file", tmp_path / "rows.parquet")
    assert done.returncode == 2
    assert "ballista scheduler at `127.0.0.1:1` cannot be reached" in done.stderr


# --- materialization ------------------------------------------------------------------------------------------------


def sqlite_content(file: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(file) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}


def remove(file: Path) -> None:
    for part in file.parent.glob(f"{file.name}*"):
        part.unlink()


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest, repo: Path, tmp_path: Path) -> tuple[list[object], Callable[[], Any], Callable[[], Any]]:
    """Arguments for an online store, which is empty, how to read it and how to empty it; one takes rows by their keys."""
    if request.param == "sqlite":
        file = tmp_path / "online.db"
        return ["--set", f"online_store.path={file}"], lambda: sqlite_content(file), lambda: remove(file)
    store = crash.redis_store(request.getfixturevalue("redis"))
    store.empty()
    configuration = CONFIGURATION.replace("{type: sqlite, path: online.db}", store.section)
    assert configuration != CONFIGURATION
    (repo / "redis.yaml").write_text(configuration)
    return ["--feature-store-yaml", repo / "redis.yaml"], store.content, store.empty


WINDOWS = [
    ("2026-03-01T00:10:00.5", "2026-03-01T03:00:00"),
    # Nearly all of it is empty, and rows come that are older than the stored ones.
    ("1970-01-01", "2030-01-01"),
    ("2040-01-01", "2041-01-01"),
]


def test_materialization_is_that_of_the_local_engine(repo: Path, cluster: Cluster, online: tuple[Any, Any, Any]) -> None:
    arguments, content, empty = online
    contents = []
    before = {job["job_id"] for job in cluster.jobs()}
    for engine in ([], cluster.settings):
        for window in WINDOWS:
            said = harness.succeed(repo, *arguments, *engine, "materialize", *window)
            assert len(said.splitlines()) == 4, said
            contents.append(content())
        empty()
    local, distributed = contents[:3], contents[3:]
    assert local[0] and local[0] != local[1] == local[2]
    assert distributed == local
    # One for each of four views, and none where there is nothing.
    jobs = [job for job in cluster.jobs() if job["job_id"] not in before]
    assert [job["job_name"] for job in jobs] == ["newest rows"] * 8, jobs
    # Times are shared among tasks, then keys.
    assert max(sum(len(task["partition_id"]) for task in cluster.tasks(job["job_id"])) for job in jobs) == 2 * TASKS


def test_pulling_the_newest_rows(repo: Path, cluster: Cluster, tmp_path: Path) -> None:
    from feast.infra.offline_stores.remote import RemoteOfflineStore

    end = START + timedelta(hours=4)
    with Thali.serve(repo) as local, Thali.serve(repo, "all-in-one", *cluster.settings) as distributed:
        tables = []
        for number, thali in enumerate([local, distributed]):
            store = harness.sdk(thali, "cluster", tmp_path / f"client{number}")
            source = store.get_data_source("trips")
            before = len(cluster.jobs())
            job = RemoteOfflineStore.pull_latest_from_table_or_query(
                store.config, source, ["driver", "zone"], ["x", "tags"], "at", "created", START, end
            )
            tables.append(sorted(job.to_arrow().to_pylist(), key=repr))
            assert len(cluster.jobs()) == before + number
    assert tables[0] and tables[0] == tables[1]


@dataclass
class Crash:
    """The project of `test_materialize_crash` with rows in a file, what a run stores that nobody disturbs, and what it counts."""

    repo: Path
    store: crash.Store
    right: Any
    whole: dict[str, Any]

    def run(self, cluster: Cluster) -> subprocess.Popen[bytes]:
        """A run that has stored some of its rows and not all of them."""
        command = [harness.binary(), "-c", self.repo, *cluster.settings, *crash.WINDOW]
        run = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, env=harness.environment())
        harness.eventually(lambda: crash.noted(self.repo) or run.poll() is not None, "something is noted down")
        return run

    def kill(self, cluster: Cluster) -> None:
        run = self.run(cluster)
        run.kill()
        assert run.wait() != 0, "the run was over before it could be killed"


@pytest.fixture
def disturbed(redis: Any, tmp_path: Path) -> Crash:
    store = crash.redis_store(redis)
    store.empty()
    repo = tmp_path / "repo"
    (repo / "data").mkdir(parents=True)
    crash.write_rows(repo / "data/stats.parquet", crash.KEYS["redis"])
    (repo / "feature_store.yaml").write_text(
        f"project: crash\nprovider: local\nregistry: data/registry.db\nonline_store: {store.section}\noffline_store: {{type: file}}\n"
        f"entity_key_serialization_version: 3\nmaterialization: {{online_write_batch_size: {crash.BATCH['redis']}}}\n"
    )
    schema = ", ".join(f"{{name: f{n}, type: Float64}}" for n in range(crash.FEATURES))
    (repo / "definitions.yaml").write_text(
        "entities: [{name: id, join_key: id, value_type: Int64}]\n"
        "data_sources: [{name: s, type: file, path: data/stats.parquet, timestamp_field: event_timestamp, created_timestamp_column: created}]\n"
        f"feature_views: [{{name: stats, entities: [id], source: s, schema: [{schema}]}}]\n"
    )
    harness.succeed(repo, "apply")
    harness.succeed(repo, *crash.WINDOW)
    found = Crash(repo, store, store.content(), crash.newest_job(repo))
    store.empty()
    return found


def test_a_killed_materialization_goes_on_where_it_was(disturbed: Crash) -> None:
    """As `test_materialize_crash`, but for who finds the newest rows."""
    repo, store, written = disturbed.repo, disturbed.store, disturbed.whole["rowsWritten"]
    with Cluster.running(repo) as cluster:
        disturbed.kill(cluster)
        harness.succeed(repo, *cluster.settings, *crash.WINDOW)
        assert store.content() == disturbed.right
        last = crash.newest_job(repo)
        assert last["rowsResumed"] > 0 and last["rowsRead"] + last["rowsResumed"] == written, last
        assert last["rowsWritten"] < written, last
        # What was noted down of a killed run is not trusted: somebody may have emptied the store since.
        store.empty()
        disturbed.kill(cluster)
        store.empty()
        harness.succeed(repo, *cluster.settings, *crash.WINDOW)
        assert store.content() == disturbed.right
        # Nor is it of another engine, which has the rows in another order.
        store.empty()
        disturbed.kill(cluster)
        harness.succeed(repo, *crash.WINDOW)
        assert store.content() == disturbed.right
        last = crash.newest_job(repo)
        assert last["rowsResumed"] == 0 and last["rowsWritten"] == written, last


@pytest.mark.parametrize("changed", [False, True], ids=["of the same rows", "of other rows"])
def test_results_are_lost_while_they_are_stored(disturbed: Crash, changed: bool) -> None:
    repo, store = disturbed.repo, disturbed.store
    with Cluster.running(repo) as cluster, ExitStack() as later:
        run = disturbed.run(cluster)
        run.send_signal(signal.SIGSTOP)
        assert run.poll() is None, "the run was over before it could be stopped"
        for executor in cluster.executors:
            executor.signal(signal.SIGKILL)
            executor.wait()
        if changed:
            crash.write_rows(repo / "data/stats.parquet", crash.KEYS["redis"] + 1)
        later.enter_context(cluster.executor())
        run.send_signal(signal.SIGCONT)
        assert run.wait(2 * harness.DEADLINE) == (2 if changed else 0)
        # One whose results were lost, and one more.
        assert [job["job_name"] for job in cluster.jobs()] == ["newest rows"] * 2
        last = crash.newest_job(repo)
        if changed:
            # Other rows may be in other places: rather none than a row that is left out.
            assert last["state"] == "failed" and "other rows" in last["error"], last
            harness.succeed(repo, *cluster.settings, *crash.WINDOW)
            content = store.content()
            assert len(content) == len(disturbed.right) + 1 and content.items() >= disturbed.right.items()
        else:
            assert store.content() == disturbed.right
            assert last["rowsRead"] == last["rowsWritten"] == disturbed.whole["rowsWritten"], last


# --- what happens in the middle: a source whose reading waits for the test -------------------------------------------


@pytest.fixture
def gated(postgres_url: str, tmp_path: Path) -> tuple[Path, sqlalchemy.Engine]:
    from feast import Entity, FeatureStore, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
    from feast.types import Int64

    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE SCHEMA features"))
        connection.execute(sqlalchemy.text("CREATE TABLE features.facts (driver bigint, event_timestamp timestamptz, x bigint)"))
        statement = "INSERT INTO features.facts SELECT n % 20, timestamptz '2026-03-01 00:00:00+00' + n * interval '1 minute', n FROM generate_series(0, 299) n"
        connection.execute(sqlalchemy.text(statement))
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(CONFIGURATION + store_section(postgres_url))
    driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
    query = f"SELECT facts.* FROM facts, (SELECT pg_advisory_xact_lock_shared({GATE})) AS gate"
    source = PostgreSQLSource(name="facts", query=query, timestamp_field="event_timestamp")
    schema = [Field(name="driver", dtype=Int64), Field(name="x", dtype=Int64)]
    view = FeatureView(name="facts", entities=[driver], schema=schema, source=source, ttl=timedelta(0))
    FeatureStore(repo_path=str(repo)).apply([driver, source, view])
    return repo, engine


@contextmanager
def closed(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Whoever reads the gated source waits until this is over."""
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({GATE})"))
        yield


def waiting(engine: sqlalchemy.Engine) -> int:
    with engine.begin() as connection:
        return int(connection.scalar(sqlalchemy.text(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted")) or 0)


def asking(repo: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [str(part) for part in (harness.binary(), "-c", repo, *arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=harness.environment())


def kill_one(cluster: Cluster, engine: sqlalchemy.Engine) -> str:
    """Kills one of both executors in the middle of a task; answers the job."""
    # Each executor does one task at a time, so two that read are both of them.
    harness.eventually(lambda: waiting(engine) == 2, "both executors are in the middle of a task")
    job = cluster.jobs()[0]["job_id"]
    assert [task["status"] for task in cluster.tasks(job)] == ["Running", "Running"]
    cluster.executors[0].signal(signal.SIGKILL)
    cluster.executors[0].wait()
    return str(job)


def done_by_the_other(cluster: Cluster, job: str) -> None:
    assert len(cluster.rest("executors")) == 1
    lost = [task for task in cluster.tasks(job) if task["status"] != "Successful"]
    assert len(lost) == 1 and "lost" in str(lost[0]["status"]), lost


def test_an_executor_dies_in_the_middle(gated: tuple[Path, sqlalchemy.Engine], tmp_path: Path) -> None:
    repo, engine = gated
    pq.write_table(entity_rows(random.Random(3), 400), tmp_path / "rows.parquet")
    command = ["get-historical-features", "-f", "facts:x", "--entity-file", tmp_path / "rows.parquet", "-o"]
    harness.succeed(repo, *command, tmp_path / "local.parquet")
    with Cluster.running(repo) as cluster:
        with closed(engine):
            asked = asking(repo, *cluster.settings, *command, tmp_path / "cluster.parquet")
            job = kill_one(cluster, engine)
        _, errors = asked.communicate(timeout=2 * harness.DEADLINE)
        assert asked.returncode == 0, errors
        assert_equal(tmp_path)
        done_by_the_other(cluster, job)


def test_who_goes_away_cancels_the_job(gated: tuple[Path, sqlalchemy.Engine], tmp_path: Path) -> None:
    repo, engine = gated
    rows = entity_rows(random.Random(4), 100)
    pq.write_table(rows, tmp_path / "rows.parquet")
    ask = "import sys, pandas, feast; feast.FeatureStore(sys.argv[1]).get_historical_features(pandas.read_parquet(sys.argv[2]), ['facts:x']).to_df()"
    with Cluster.running(repo) as cluster, Thali.serve(repo, "all-in-one", *cluster.settings) as thali:
        store = harness.sdk(thali, "cluster", tmp_path / "client")
        with closed(engine):
            asking = subprocess.Popen([sys.executable, "-c", ask, tmp_path / "client", tmp_path / "rows.parquet"])
            harness.eventually(lambda: waiting(engine) == 2, "the tasks run")
            assert [job["status"] for job in cluster.jobs()] == ["Running"]
            asking.kill()
            asking.wait()
            harness.eventually(lambda: "Running" not in [job["status"] for job in cluster.jobs()], "the job is cancelled")
        # The executors are free for the next.
        frame: pd.DataFrame = store.get_historical_features(entity_df=rows.to_pandas(), features=["facts:x"]).to_df()
        assert list(frame["label"]) == list(range(100))
        assert frame["x"].notna().any()


MATERIALIZE = ["materialize", "2026-03-01", "2026-03-01T04:00:00"]


def test_an_executor_dies_in_the_middle_of_a_materialization(gated: tuple[Path, sqlalchemy.Engine]) -> None:
    repo, engine = gated
    harness.succeed(repo, *MATERIALIZE)
    right = sqlite_content(repo / "online.db")
    remove(repo / "online.db")
    with Cluster.running(repo) as cluster:
        with closed(engine):
            asked = asking(repo, *cluster.settings, *MATERIALIZE)
            job = kill_one(cluster, engine)
        _, errors = asked.communicate(timeout=2 * harness.DEADLINE)
        assert asked.returncode == 0, errors
        assert sqlite_content(repo / "online.db") == right
        done_by_the_other(cluster, job)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["get-historical-features", "materialize"])
def test_a_signal_at_a_command_cancels_its_job(gated: tuple[Path, sqlalchemy.Engine], tmp_path: Path, command: str, number: signal.Signals) -> None:
    repo, engine = gated
    pq.write_table(entity_rows(random.Random(6), 100), tmp_path / "rows.parquet")
    arguments = MATERIALIZE if command == "materialize" else [command, "-f", "facts:x", "--entity-file", tmp_path / "rows.parquet"]
    with Cluster.running(repo) as cluster, closed(engine):
        asked = asking(repo, *cluster.settings, *arguments)
        harness.eventually(lambda: waiting(engine) == 2, "the tasks run")
        assert [job["status"] for job in cluster.jobs()] == ["Running"]
        asked.send_signal(number)
        _, errors = asked.communicate(timeout=harness.DEADLINE)
        assert asked.returncode == 2 and ("cancelled" if command == "materialize" else "interrupted") in errors, errors
        # Nobody is there any more who could do it later.
        harness.eventually(lambda: "Running" not in [job["status"] for job in cluster.jobs()], "the job is cancelled")
        if command == "materialize":
            [run] = json.loads(harness.succeed(repo, "jobs", "--output", "json"))
            assert run["state"] == "cancelled"
