"""File sources in object stores: read, written and saved to as files on disk are, from the command line and by the stock SDK."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import clouds
import harness
import registries
import servers
import small_project
from harness import Thali

ROWS = 50
NOW = small_project.NOW
FEATURES = ["stats:rate", "stats:trips"]
SECRET = "not-to-be-seen"


class Lake:
    """A bucket, and a repository whose source lies in it."""

    def __init__(self, server: servers.ObjectServer, folder: Path, key: str = "data/stats.parquet") -> None:
        self.server, self.bucket, self.key = server, server.new_bucket(), key
        self.env = harness.environment(**server.environment())
        if isinstance(server, servers.S3):
            self.env["AWS_SECRET_ACCESS_KEY"] = SECRET
            del self.env["FEAST_S3_ENDPOINT_URL"]  # that of the registry
            if server.secure:
                self.env["AWS_CA_BUNDLE"] = str(server.authority)
        path = ", ".join([f"path: {self.url(key)}", *(f"{name}: '{value}'" for name, value in server.source_options().items())])
        lines = small_project.DEFINITIONS.replace("path: data/stats.parquet", path)
        # Without a schema: it is what the object says.
        schema = "    schema:\n      - {name: rate, type: Float64}\n      - {name: trips, type: Int64}\n"
        assert schema in lines
        self.repo = small_project.create(folder, ROWS, lines.replace(schema, ""))
        self.table = pq.read_table(self.repo / "data/stats.parquet")
        (self.repo / "data/stats.parquet").unlink()

    def url(self, key: str) -> str:
        return f"{self.server.scheme}://{self.bucket}/{key}"

    def put(self, key: str, table: pa.Table) -> None:
        content = io.BytesIO()
        if key.endswith(".csv"):
            pyarrow.csv.write_csv(table, content)
        else:
            pq.write_table(table, content)
        self.server.put(self.bucket, key, content.getvalue())

    def keys(self, prefix: str = "") -> list[str]:
        return self.server.keys(self.bucket, prefix)

    def get(self, key: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.server.get(self.bucket, key)))

    def succeed(self, *arguments: object) -> str:
        return harness.succeed(self.repo, *arguments, env=self.env)

    def refused(self, *arguments: object) -> str:
        done = harness.run(self.repo, *arguments, env=self.env)
        assert done.returncode in (1, 2), done.stderr
        assert not any(secret in done.stderr + done.stdout for secret in (SECRET, self.server.secret)), done.stderr
        return done.stderr

    def entity_rows(self, rows: int = ROWS) -> pa.Table:
        drivers = pa.array(range(1, rows + 1), pa.int64())
        return pa.table({"driver_id": drivers, "event_timestamp": pa.array([NOW] * rows, pa.timestamp("us", tz="UTC"))})

    def ask(self, *command: str) -> tuple[int, dict[str, Any]]:
        done = harness.run(self.repo, *command, "--json", env=self.env)
        assert done.returncode in (0, 2), done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(params=[f"{shape} in {store}" for store in registries.OBJECTS for shape in ("one object", "folder")])
def lake(tmp_path: Path, request: pytest.FixtureRequest) -> Lake:
    shape, store = request.param.split(" in ")
    server = request.getfixturevalue(store)
    if shape == "one object":
        lake = Lake(server, tmp_path)
        lake.put("data/stats.parquet", lake.table)
    else:
        lake = Lake(server, tmp_path, "data/stats")
        for number, start in enumerate(range(0, ROWS, 20)):
            lake.put(f"data/stats/part-{number}.parquet", lake.table.slice(start, 20))
    return lake


def assert_online(thali: Thali) -> None:
    answer = thali.online_features(features=FEATURES, entities={"driver_id": [1, 7, ROWS, 4711]})
    assert answer["rate"] == [0.5, 3.5, ROWS / 2, None] and answer["trips"] == [10, 70, 10 * ROWS, None]


def test_the_stock_sdk_trains_and_serves(lake: Lake, tmp_path: Path) -> None:
    lake.succeed("apply")
    lake.succeed("materialize", small_project.START, small_project.END)
    with Thali.serve(lake.repo, env=lake.env) as thali:
        assert_online(thali)
        store = harness.sdk(thali, "small", tmp_path / "client")
        assert {field.name for field in store.get_feature_view("stats").schema} >= {"rate", "trips"}
        rows = lake.entity_rows().to_pandas()
        answer = store.get_historical_features(rows, FEATURES).to_arrow()
        assert answer["rate"].to_pylist() == lake.table["rate"].to_pylist() and answer["trips"].to_pylist() == lake.table["trips"].to_pylist()

        # Offline writes: by the SDK and by pushes.
        more = lake.table.slice(0, 3).set_column(2, "rate", pa.array([7.0, 8.0, 9.0]))
        more = more.set_column(1, "event_timestamp", pa.array([NOW - timedelta(minutes=1)] * 3, pa.timestamp("us", tz="UTC")))
        store.write_to_offline_store("stats", more.to_pandas())
        frame = {"driver_id": [4], "event_timestamp": ["2026-03-01T11:59:30Z"], "rate": [10.0], "trips": [1]}
        status, told = harness.http("POST", f"{thali.url('online')}/push", {"push_source_name": "stats_push", "df": frame, "to": "offline"})
        assert status == 200, told
        answer = store.get_historical_features(rows, FEATURES).to_arrow()
        assert answer["rate"].to_pylist() == [7.0, 8.0, 9.0, 10.0, *lake.table["rate"].to_pylist()[4:]]
    stored = [lake.get(key) for key in lake.keys("data/stats")]
    assert sum(table.num_rows for table in stored) == ROWS + 4
    assert all(table.schema.equals(lake.table.schema) for table in stored)


def test_datasets_are_saved_verified_and_compared(lake: Lake) -> None:
    lake.succeed("apply")
    pq.write_table(lake.entity_rows(), lake.repo / "rows.parquet")
    if isinstance(lake.server, servers.S3):
        lake.env["AWS_ENDPOINT_URL"] = lake.server.url  # a dataset's place has no endpoint of its own
    place = lake.url("sets/first.parquet")
    create = ["dataset", "create", "first", "-f", "stats:rate", "-f", "stats:trips", "--entity-file", lake.repo / "rows.parquet", "--path", place]
    lake.succeed(*create)
    assert lake.get("sets/first.parquet")["rate"].to_pylist() == lake.table["rate"].to_pylist()
    status, verdict = lake.ask("dataset", "verify", "first")
    assert (status, verdict["same"], verdict["rebuilt"]["rows"]) == (0, True, ROWS), verdict
    second = [*create[:2], "second", *create[3:-1], lake.url("sets/second.parquet")]
    lake.succeed(*second)
    assert lake.ask("dataset", "diff", "first", "second")[0] == 0
    table = lake.get("sets/second.parquet")
    lake.put("sets/second.parquet", table.set_column(table.column_names.index("rate"), "rate", pa.array([99.0] * ROWS)))
    status, moved = lake.ask("dataset", "diff", "first", "second")
    assert status == 2 and moved["changed_columns"] == {"rate": ROWS}
    assert lake.keys("sets") == ["sets/first.parquet", "sets/second.parquet"]


def test_a_dataset_of_the_sdk_is_persisted(lake: Lake, tmp_path: Path) -> None:
    from feast import FileSource
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    lake.succeed("apply")
    with Thali.serve(lake.repo, env=lake.env) as thali:
        store = harness.sdk(thali, "small", tmp_path / "client")
        # The server writes only to data sources it knows; the SDK names the source of a file storage by its path.
        place = {"path": lake.url("sets/sdk.parquet"), **lake.server.source_options()}
        store.registry.apply_data_source(FileSource(**place), "small")
        job = store.get_historical_features(lake.entity_rows().to_pandas(), FEATURES)
        store.create_saved_dataset(from_=job, name="of_sdk", storage=SavedDatasetFileStorage(**place))
    assert lake.get("sets/sdk.parquet")["trips"].to_pylist() == lake.table["trips"].to_pylist()


def test_concurrent_pushes_lose_no_row(lake: Lake) -> None:
    """Of two processes, which share nothing but the bucket."""
    lake.succeed("apply")
    with Thali.serve(lake.repo, env=lake.env) as one, Thali.serve(lake.repo, env=lake.env) as two:

        def push(node: Thali, driver: int) -> None:
            frame = {"driver_id": [driver], "event_timestamp": ["2026-03-01T11:30:00Z"], "rate": [1.0], "trips": [1]}
            status, told = harness.http("POST", f"{node.url('online')}/push", {"push_source_name": "stats_push", "df": frame, "to": "offline"})
            assert status == 200, told

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(push, [one, two] * 6, range(1000, 1012)))
    drivers = Counter(driver for key in lake.keys("data/stats") for driver in lake.get(key)["driver_id"].to_pylist())
    assert drivers == Counter([*range(1, ROWS + 1), *range(1000, 1012)])


def test_waiting_pushes_arrive_once(lake: Lake) -> None:
    """With `offline_push_batching_enabled`: from the journal, whatever is killed."""
    with open(lake.repo / "feature_store.yaml", "a") as yaml:
        yaml.write("feature_server:\n  offline_push_batching_enabled: true\n  offline_push_batching_batch_size: 5\n")
        yaml.write("  offline_push_batching_batch_interval_seconds: 1\n")
    lake.succeed("apply")
    with Thali.serve(lake.repo, env=lake.env) as thali:
        for driver in range(1000, 1020):
            frame = {"driver_id": [driver], "event_timestamp": ["2026-03-01T11:30:00Z"], "rate": [1.0], "trips": [1]}
            status, told = harness.http("POST", f"{thali.url('online')}/push", {"push_source_name": "stats_push", "df": frame, "to": "offline"})
            assert status == 202, told
    with Thali.serve(lake.repo, env=lake.env):
        count = lambda: sum(lake.get(key).num_rows for key in lake.keys("data/stats"))  # noqa: E731
        harness.eventually(lambda: count() >= ROWS + 20, "what was promised is there")
    drivers = Counter(driver for key in lake.keys("data/stats") for driver in lake.get(key)["driver_id"].to_pylist())
    assert drivers == Counter([*range(1, ROWS + 1), *range(1000, 1020)])


@pytest.fixture(scope="module")
def secure() -> Iterator[servers.S3]:
    with servers.S3.running(True) as server:
        yield server


def test_a_private_authority_is_trusted_when_it_is_named(secure: servers.S3, tmp_path: Path) -> None:
    lake = Lake(secure, tmp_path)
    lake.put("data/stats.parquet", lake.table)
    lake.succeed("apply")
    lake.succeed("materialize", small_project.START, small_project.END)
    with Thali.serve(lake.repo, env=lake.env) as thali:
        assert_online(thali)
    named = lake.env.pop("AWS_CA_BUNDLE")
    pq.write_table(lake.entity_rows(), lake.repo / "rows.parquet")
    question = ["get-historical-features", "-f", "stats:rate", "--entity-file", lake.repo / "rows.parquet", "-o", lake.repo / "out.parquet"]
    told = lake.refused(*question)
    assert f"`{lake.bucket}`" in told and "certificate" in told.lower(), told
    lake.env["SSL_CERT_FILE"] = named
    lake.succeed(*question)
    lake.env["AWS_CA_BUNDLE"] = str(tmp_path / "none.pem")
    assert "none.pem" in lake.refused(*question)


@pytest.mark.parametrize("store", registries.OBJECTS)
def test_partitions_patterns_and_text_are_read(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(store)
    lake = Lake(server, tmp_path, "data/by day")
    if isinstance(server, clouds.Gcs):
        lake.env["STORAGE_EMULATOR_HOST"] = f"127.0.0.1:{server.emulator.port}"  # nothing of ours between
    half = ROWS // 2
    places = ["data/by day", "data/years/202?/[ab].parquet", "data/all.csv", "data/text/", "data/by day/zone=*/?.parquet", "data/flat/*.parquet"]
    lake.put("data/by day/zone=x y/a.parquet", lake.table.slice(0, half))
    lake.put("data/by day/zone=å/b.parquet", lake.table.slice(half))
    lake.put("data/by day too/a.parquet", lake.table.slice(0, 1))
    lake.put("data/all.csv", lake.table)
    lake.put("data/years/2026/a.parquet", lake.table.slice(0, half))
    lake.put("data/years/2027/b.parquet", lake.table.slice(half))
    lake.put("data/flat/a.parquet", lake.table)
    lake.put("data/flat/below/a.parquet", lake.table.slice(0, 1))  # not the pattern's
    lake.put("data/text/1.csv", lake.table.slice(0, half))
    lake.put("data/text/2.csv", lake.table.slice(half))
    pq.write_table(lake.entity_rows(), lake.repo / "rows.parquet")
    definitions = lake.repo / "definitions.yaml"
    text, answer = definitions.read_text(), lake.repo / "out.parquet"
    for place in places:
        definitions.write_text(text.replace(lake.url(lake.key), f'"{lake.url(place)}"'))
        lake.succeed("apply")
        features = [*FEATURES, *(["stats:zone"] if place == places[0] else [])]
        asked = [word for feature in features for word in ("-f", feature)]
        lake.succeed("get-historical-features", *asked, "--entity-file", lake.repo / "rows.parquet", "-o", answer)
        found = pq.read_table(answer)
        assert found["rate"].to_pylist() == lake.table["rate"].to_pylist() and found["trips"].to_pylist() == lake.table["trips"].to_pylist(), place
        if place == places[0]:
            assert found["zone"].to_pylist() == ["x y"] * half + ["å"] * (ROWS - half)
        lake.succeed("materialize", small_project.START, small_project.END)
        online = json.loads(lake.succeed("get-online-features", "-e", "driver_id=7", "-f", "stats:rate"))
        assert online["rate"] == [3.5], place


def test_what_is_wrong_is_said(s3: servers.S3, tmp_path: Path) -> None:
    lake = Lake(s3, tmp_path)
    question = ["apply"]
    told = lake.refused(*question)
    assert f"there is no file `s3://{lake.bucket}/data/stats.parquet`" in told, told
    definitions = lake.repo / "definitions.yaml"
    text = definitions.read_text()
    definitions.write_text(text.replace(lake.bucket, "no-such-bucket"))
    told = lake.refused(*question)
    assert "the bucket `no-such-bucket` does not exist" in told, told
    definitions.write_text(text.replace(s3.url, f"http://127.0.0.1:{servers.free_port()}"))
    told = lake.refused(*question)
    assert f"the bucket `{lake.bucket}` cannot be used" in told, told
