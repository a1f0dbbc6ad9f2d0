"""What is written through another offline server (`offline_store: {type: remote}`), thali's and Feast's own, and what is said of
servers that fail: each row is there once, or whoever sent it is told that nobody knows.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
import sqlalchemy

import harness
from harness import Thali, run, succeed
from test_feature_log import log_of
from test_offline_stores import END, NUMBERS, REFS, START, Place, engine, entities, features, frame, free_port, project, remote, server

BATCHING = "feature_server: {offline_push_batching_enabled: true, offline_push_batching_batch_size: 4, offline_push_batching_batch_interval_seconds: 1}\n"
LOGGING = "feature_server: {feature_logging: {enabled: true, flush_interval_secs: 1}}\n"


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def push(thali: Thali, numbers: list[int]) -> int:
    body = {"push_source_name": "trips_push", "df": frame(numbers), "to": "offline"}
    status, answer = harness.http("POST", f"{thali.url('online')}/push", body)
    assert status in (200, 202), answer
    return status


def pushed(place: Place) -> list[int]:
    return sorted(row["number"] for row in place.stored_trips() if row["word"] == "new")


# --- datasets ----------------------------------------------------------------------------------------------------------------------


def test_datasets_lie_in_the_tables_of_the_server(tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "hybrid", postgres_url)
    entities().to_parquet(tmp_path / "rows.parquet")
    with Thali.serve(place.repo) as thali:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", thali.port("offline"))

        def create(name: str, table: str, *more: object) -> Any:
            return run(repo, "dataset", "create", name, *features(*REFS), "--entity-file", tmp_path / "rows.parquet", "--table", table, *more)

        done = create("kept", "features.kept")
        assert done.returncode == 0, done.stderr
        with engine(place.url).connect() as connection:
            count = connection.execute(sqlalchemy.text("SELECT count(*) FROM features.kept")).scalar_one()
            comment = connection.execute(sqlalchemy.text("SELECT obj_description('features.kept'::regclass)")).scalar_one()
        assert count == 157
        # From here and from there it is the same, and says so itself.
        for at in (repo, place.repo):
            verdict = json.loads(succeed(at, "dataset", "verify", "kept", "--json"))
            assert verdict["same"] and verdict["manifest"]["row_hash"] == json.loads(comment)["thali.manifest.row-hash"]

        assert create("other", "features.kept").returncode == 1
        done = create("other", "features.zone_rows", "--overwrite")
        assert done.returncode == 1 and "features.zone_rows" in done.stderr, "a table that is no dataset's is not replaced"
        assert create("kept", "features.kept", "--overwrite").returncode == 0
        assert create("second", "features.second").returncode == 0
        assert run(repo, "dataset", "diff", "kept", "second").returncode == 0
        with engine(place.url).begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE features.second SET rate = 99.5 WHERE label = 3"))
        done = run(repo, "dataset", "verify", "second", "--json")
        assert done.returncode == 2 and json.loads(done.stdout)["difference"]["rows"]["changed"] == 1, done.stdout


def test_a_dataset_of_the_sdk_has_its_manifest_with_its_rows(tmp_path: Path, postgres_url: str) -> None:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource, SavedDatasetPostgreSQLStorage

    place = project(tmp_path / "repo", "postgres", postgres_url)
    with Thali.serve(place.repo) as thali:
        store = harness.sdk(thali, "places", tmp_path / "sdk")
        store.registry.apply_data_source(PostgreSQLSource(table="kept", timestamp_field="event_timestamp"), "places")
        job = store.get_historical_features(entity_df=entities(), features=REFS)
        store.create_saved_dataset(from_=job, name="kept", storage=SavedDatasetPostgreSQLStorage("kept"), allow_overwrite=True)
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", thali.port("offline"))
        verdict = json.loads(succeed(repo, "dataset", "verify", "kept", "--json"))
        assert verdict["same"] and verdict["manifest"]["rows"] == 157, verdict


@pytest.mark.parametrize("kind", ["thali", "duckdb"])
def test_a_dataset_lies_where_a_source_of_the_server_does(kind: str, tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "file", postgres_url)
    kept = place.repo / "kept.parquet"
    append(place.repo / "definitions.yaml", f"  - {{name: kept, type: file, path: {kept}, timestamp_field: event_timestamp}}\n")
    pq.write_table(pa.table({"event_timestamp": pa.array([START], pa.timestamp("us", "UTC"))}), kept)
    succeed(place.repo, "apply")
    kept.unlink()
    entities().to_parquet(tmp_path / "rows.parquet")
    with server(kind, place) as port:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", port)
        create = ("dataset", "create", "kept", *features(*REFS), "--entity-file", tmp_path / "rows.parquet", "--path")
        if kind == "thali":
            elsewhere = run(repo, *create, tmp_path / "elsewhere.parquet")
            assert elsewhere.returncode == 1 and "lies elsewhere" in elsewhere.stderr, elsewhere.stderr
            succeed(repo, *create, kept)
            assert pq.read_table(kept).num_rows == 157 and b"thali.note" in pq.ParquetFile(kept).metadata.metadata
        else:
            # It saves only what it makes itself.
            done = run(repo, *create, kept)
            assert done.returncode != 0 and f"127.0.0.1:{port}" in done.stderr and "saves no rows that are sent to it" in done.stderr, done.stderr
            assert not kept.exists() and run(repo, "dataset", "verify", "kept").returncode != 0


# --- pushes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["thali", "dask"])
def test_pushes_are_batched(kind: str, tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "hybrid" if kind == "thali" else "file", postgres_url)
    # Feast's server writes its file over, and whoever reads it meanwhile finds none: each batch waits for the one before.
    batching = BATCHING.replace("size: 4", "size: 20").replace("seconds: 1", "seconds: 3600")
    with server(kind, place) as port:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", port)
        append(repo / "feature_store.yaml", batching)
        with Thali.serve(repo) as thali:
            for first in (0, 20):
                assert [push(thali, [number, number + 1]) for number in range(first, first + 20, 2)] == [202] * 10
                harness.eventually(lambda: len(pushed(place)) >= first + 20, "the rows are there")
                # When nothing waits any more, Feast's server has closed its file.
                harness.eventually(lambda: not list(repo.rglob("*.rows")), "the batch is done")
        assert pushed(place) == list(range(40))


def test_a_row_that_the_servers_table_refuses_holds_up_no_others(tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "hybrid", postgres_url)
    with Thali.serve(place.repo) as near:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", near.port("offline"))
        append(repo / "feature_store.yaml", BATCHING)
        with Thali.serve(repo) as thali:
            body = {"push_source_name": "trips_push", "df": frame([1, 2, 3], x=[1, 666, 3]), "to": "offline"}
            assert harness.http("POST", f"{thali.url('online')}/push", body)[0] == 202
            harness.eventually(lambda: pushed(place) == [1, 3] or None, "the others are there")
            harness.eventually(lambda: list(repo.rglob("refused-*")) or None, "the row is set aside")


def test_a_server_that_is_killed_again_and_again_has_each_row_once(tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "hybrid", postgres_url)
    port = free_port()

    def start() -> harness.Node:
        return harness.Node.start(place.repo, "offline", "--offline-port", port, "--metrics-port", 0)

    repo = remote(tmp_path / "client", f"{place.repo}/registry.db", port, ", connection_retries: 1")
    append(repo / "feature_store.yaml", BATCHING)
    far = start()
    with Thali.serve(repo) as thali:
        for turn in range(6):
            for number in range(10):
                push(thali, [100 * turn + number])
            before = len(pushed(place))
            # Somewhere between the first rows that come and the last.
            harness.eventually(lambda: len(pushed(place)) > before or None, "rows come")
            far.kill()
            far = start()
        harness.eventually(lambda: len(pushed(place)) >= 60 or None, "the rows are there")
        thali.node("online").stop()
    far.stop()
    assert pushed(place) == [100 * turn + number for turn in range(6) for number in range(10)]


class Forgetful(flight.FlightServerBase):
    """An offline server that takes rows, and whose first answer gets lost."""

    def __init__(self, location: str, actions: list[str]) -> None:
        super().__init__(location)
        self.actions = actions
        self.puts: list[dict[str, Any]] = []

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        return [(name, "") for name in self.actions]

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        names = {"number": "int64", "word": "string", "at": "timestamp[us, tz=UTC]", "made": "timestamp[us, tz=UTC]", "ex": "int64", "rate": "double"}
        table = pa.table({"name": list(names), "type": list(names.values())})
        writer.begin(table.schema)
        writer.write_table(table)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        rows = reader.read_all().num_rows
        self.puts.append(json.loads(descriptor.command) | {"rows": rows})
        if len(self.puts) == 1:
            raise flight.FlightUnavailableError("the line went dead")
        if "thali.once" in self.actions:
            writer.write(json.dumps({"rows": rows, "refused": []}).encode())


@pytest.mark.parametrize("knows", [True, False])
def test_a_lost_answer_is_asked_for_again_or_told(knows: bool, tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "file", postgres_url)
    with Forgetful("grpc://127.0.0.1:0", ["offline_write_batch", *(["thali.once"] if knows else [])]) as far:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", far.port)
        with Thali.serve(repo) as thali:
            # By itself a push says that it is not known.
            body = {"push_source_name": "trips_push", "df": frame([1]), "to": "offline"}
            status, answer = harness.http("POST", f"{thali.url('online')}/push", body)
            assert status == 503 and "it is not known whether the rows were written" in json.dumps(answer), answer
            assert len(far.puts) == 1 and "thali.once" not in far.puts[0]
        far.puts.clear()
        append(repo / "feature_store.yaml", BATCHING)
        with Thali.serve(repo) as thali:
            push(thali, [1, 2, 3, 4])
            if knows:
                harness.eventually(lambda: len(far.puts) == 2 or None, "they are sent again")
            else:
                harness.eventually(lambda: "it cannot be told whether" in thali.node("online").log_text() or None, "it is said")
        # Also the next process neither loses nor doubles them.
        with Thali.serve(repo) as thali:
            if not knows:
                harness.eventually(lambda: "it cannot be told whether" in thali.node("online").log_text() or None, "it is still said")
        assert [put["rows"] for put in far.puts] == [4] * (2 if knows else 1)
        if knows:
            assert far.puts[0]["thali.once"] == far.puts[1]["thali.once"]
            assert not list(repo.rglob("*.0")), "nothing waits"
            return
        # Whoever has looked removes the marker, and the rows are sent anew.
        (marker,) = list(repo.rglob("*.0"))
        marker.unlink()
        with Thali.serve(repo):
            harness.eventually(lambda: len(far.puts) == 2 or None, "they are sent")
        assert not list(repo.rglob("*.0"))


# --- logs --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["thali", "dask"])
def test_what_was_served_is_logged_at_the_server(kind: str, tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "file", postgres_url)
    log = place.repo / "logs" / "seen"
    text = (place.repo / "definitions.yaml").read_text()
    service = f"feature_services:\n  - {{name: seen, features: [zones], logging: {{path: {log}, sample_rate: 1.0}}}}\n"
    (place.repo / "definitions.yaml").write_text(text.replace("feature_services:\n", service))
    succeed(place.repo, "apply")
    with server(kind, place) as port:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", port)
        append(repo / "feature_store.yaml", LOGGING)
        succeed(repo, "materialize", START.strftime("%Y-%m-%dT%H:%M:%S"), END.strftime("%Y-%m-%dT%H:%M:%S"), "-v", "zones")
        with Thali.serve(repo) as thali:
            for _ in range(3):
                body = {"feature_service": "seen", "entities": {"number": NUMBERS}}
                status, answer = harness.http("POST", f"{thali.url('online')}/get-online-features", body)
                assert status == 200, answer
            harness.eventually(lambda: len(log_of(log)) >= 12 or None, "the log is written")
        assert sorted(log_of(log)["number"]) == sorted(NUMBERS * 3)
        assert not (repo / "logs").exists()
        if kind == "thali":
            # And it is read back from there.
            entities().to_parquet(tmp_path / "rows.parquet")
            made = ("dataset", "create", "trained", *features("zones:z"), "--entity-file", tmp_path / "rows.parquet", "--path", tmp_path / "trained.parquet")
            succeed(repo, *made)
            near, far = (run(at, "validate", "--log", "seen", "--reference", "trained", "--json") for at in (place.repo, repo))
            assert far.stdout and json.loads(near.stdout) == json.loads(far.stdout), far.stderr


# --- servers that fail -------------------------------------------------------------------------------------------------------------


class Breaking(flight.FlightServerBase):
    """An offline server that fails in the middle of its answer."""

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        table = reader.read_all()
        table = table.append_column("trips__x", table["number"])
        writer.begin(table.schema)
        writer.write_table(table.slice(0, 10))
        raise RuntimeError("the disk is gone\nTraceback: many lines")


def test_an_answer_that_breaks_off_is_one_line(tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "file", postgres_url)
    entities().to_parquet(tmp_path / "rows.parquet")
    words = ("get-historical-features", *features("trips:x"), "--entity-file", tmp_path / "rows.parquet", "-o", tmp_path / "answer.parquet")
    with Breaking("grpc://127.0.0.1:0") as far:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", far.port)
        done = run(repo, *words)
    said = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert done.returncode == 2 and len(said) == 1 and f"offline server `127.0.0.1:{far.port}`" in said[0] and "the disk is gone" in said[0], done.stderr
    assert "many lines" not in done.stderr
    # Half of an answer would look like one.
    assert not (tmp_path / "answer.parquet").exists()
    # Away: what to look at is said.
    done = run(remote(tmp_path / "nobody", f"{place.repo}/registry.db", free_port(), ", connection_retries: 0"), *words)
    assert done.returncode == 2 and "cannot be reached" in done.stderr and "`offline_store.host`" in done.stderr, done.stderr
