"""Delta tables as sources, on local disk and in object stores: written by the `deltalake` package, and read as it and stock Feast read them."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

import harness
import registries
import servers
from harness import Thali

DAY = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = ("2026-03-01T00:00:00", "2026-03-03T00:00:00")
FEATURES = ["rate", "trips", "zone", "day"]
REFS = [f"stats:{feature}" for feature in FEATURES]
DRIVERS = range(1, 9)
ZONES = ["a b/c", "å%20", None, "x=1"]
SCHEMA = pa.schema(
    [("driver_id", pa.int64()), ("day", pa.date32()), ("event_timestamp", pa.timestamp("us", "UTC")), ("zone", pa.string()), ("rate", pa.float64()), ("trips", pa.int32())]
)
STORE = """project: small
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
offline_store: {type: duckdb}
entity_key_serialization_version: 3
"""
DEFINITIONS = """entities: [{{name: driver, join_key: driver_id, value_type: Int64}}]
data_sources:
  - {{name: stats_table, type: file, path: "{uri}", timestamp_field: event_timestamp{more}}}
  - {{name: stats_push, type: push, batch_source: stats_table}}
feature_views:
  - {{name: stats, entities: [driver], source: stats_push}}
"""

Row = dict[str, Any]


def rows(first: int, count: int = 16) -> pa.Table:
    """So many facts from that number on, each at a time of its own."""
    numbers = range(first, first + count)
    moments = [DAY + timedelta(minutes=number, microseconds=number * 1237) for number in numbers]
    columns = {
        "driver_id": [number % len(DRIVERS) + 1 for number in numbers],
        "day": [date(2026, 3, 1 + number % 2) for number in numbers],
        "event_timestamp": moments,
        "zone": [ZONES[number // 2 % len(ZONES)] for number in numbers],
        "rate": [number / 8 for number in numbers],
        "trips": [None if number % 5 == 0 else number for number in numbers],
    }
    return pa.table(columns, SCHEMA)


def newest(facts: list[Row], driver: int, moment: datetime) -> Row:
    known = [fact for fact in facts if fact["driver_id"] == driver and fact["event_timestamp"] <= moment]
    return max(known, key=lambda fact: fact["event_timestamp"], default=dict.fromkeys(FEATURES))


class Lake:
    """A table and a repository whose source it is."""

    def __init__(self, folder: Path, server: servers.ObjectServer | None = None, says_delta: bool = False) -> None:
        self.repo = folder / "repo"
        self.repo.mkdir()
        self.env, self.options, more = harness.environment(), {}, ""
        self.server: servers.ObjectServer | None = None
        self.copied: dict[str, bytes] = {}
        if server:
            self.uri = f"{server.scheme}://{server.new_bucket()}/tables/stats"
            if isinstance(server, servers.S3):
                self.written, self.options = self.uri, server.environment() | {"AWS_ENDPOINT_URL": server.url, "AWS_ALLOW_HTTP": "true"}
            else:
                # The other emulators list from the beginning where they are asked from a name on, with which the package cannot
                # commit. So it writes on disk, and its files are copied.
                self.written, self.server = str(folder / "tables/stats"), server
            self.env = harness.environment(**server.environment())
            self.env.pop("FEAST_S3_ENDPOINT_URL", None)  # that of the registry
            more = "".join(f", {name}: '{value}'" for name, value in server.source_options().items())
        else:
            self.uri = self.written = str(folder / "tables/some stats")
        if says_delta:
            more += ", format: delta"
        (self.repo / "feature_store.yaml").write_text(STORE)
        (self.repo / "definitions.yaml").write_text(DEFINITIONS.format(uri=self.uri, more=more))
        moments = [DAY + timedelta(minutes=minute) for minute in (0, 20, 41, 70, 4000)]
        asked = [(driver, moment) for driver in DRIVERS for moment in moments]
        self.asked = pa.table({"driver_id": [d for d, _ in asked], "event_timestamp": pa.array([m for _, m in asked], pa.timestamp("us", "UTC"))})
        pq.write_table(self.asked, self.repo / "rows.parquet")

    def write(self, table: pa.Table, mode: str = "append", **options: Any) -> None:
        write_deltalake(self.written, table, mode=mode, storage_options=self.options, **options)

    def table(self) -> DeltaTable:
        return DeltaTable(self.written, storage_options=self.options)

    def copy(self) -> None:
        """Makes the objects what the files are, where the table is written on disk."""
        if not self.server:
            return
        bucket, at = self.uri.split("://")[1].split("/", 1)
        files = [path for path in Path(self.written).rglob("*") if path.is_file() and not path.name.endswith(".crc")]
        for path in files:
            key, content = f"{at}/{path.relative_to(self.written)}", path.read_bytes()
            if self.copied.get(key) != content:
                self.server.put(bucket, key, content)
                self.copied[key] = content

    def succeed(self, *arguments: object) -> str:
        self.copy()
        return harness.succeed(self.repo, *arguments, env=self.env)

    def refused(self, *arguments: object) -> str:
        done = harness.run(self.repo, *arguments, env=self.env)
        assert done.returncode in (1, 2), done.stdout
        return done.stderr

    def ask(self) -> list[str]:
        return ["get-historical-features", *(word for ref in REFS for word in ("-f", ref)), "--entity-file", "rows.parquet", "-o", "out.parquet"]

    def check_join(self) -> None:
        """What is joined is what the table holds, as its own library reads it."""
        facts = self.table().to_pyarrow_table().to_pylist()
        arguments = [self.repo / word if word.endswith(".parquet") else word for word in self.ask()]
        self.succeed(*arguments)
        found = pq.read_table(self.repo / "out.parquet").to_pylist()
        assert len(found) == self.asked.num_rows
        for row in found:
            fact = newest(facts, row["driver_id"], row["event_timestamp"])
            assert {name: row[name] for name in FEATURES} == {name: fact[name] for name in FEATURES}, row

    def check_online(self) -> None:
        facts = self.table().to_pyarrow_table().to_pylist()
        self.succeed("materialize", *WINDOW)
        words = [word for driver in DRIVERS for word in ("-e", f"driver_id={driver}")]
        answer = json.loads(self.succeed("get-online-features", *words, "-f", "stats:rate", "-f", "stats:zone"))
        expected = [newest(facts, driver, DAY + timedelta(days=2)) for driver in answer["driver_id"]]
        assert answer["rate"] == [fact["rate"] for fact in expected]
        assert answer["zone"] == [fact["zone"] for fact in expected]


@pytest.fixture(params=["disk", *registries.OBJECTS])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    on_disk = request.param == "disk"
    return Lake(tmp_path, None if on_disk else request.getfixturevalue(request.param), says_delta=not on_disk)


def merge(lake: Lake) -> None:
    merging = lake.table().merge(rows(60, 8), "s.driver_id = t.driver_id and s.event_timestamp = t.event_timestamp", source_alias="s", target_alias="t")
    merging.when_matched_update({"rate": "s.rate + 1000"}).when_not_matched_insert_all().execute()


STEPS: list[tuple[str, Callable[[Lake], object]]] = [
    ("append", lambda lake: lake.write(rows(16))),
    ("delete", lambda lake: lake.table().delete("trips < 20")),
    ("update", lambda lake: lake.table().update(updates={"rate": "rate + 100"}, predicate="zone is null")),
    ("checkpoint", lambda lake: lake.table().create_checkpoint()),
    ("append after the checkpoint", lambda lake: lake.write(rows(32))),
    ("overwrite a partition", lambda lake: lake.write(rows(48, 1).set_column(3, "zone", pa.array(["x=1"])), "overwrite", predicate="zone = 'x=1'")),
    ("merge", merge),
    ("compact", lambda lake: lake.table().optimize.compact()),
    ("vacuum", lambda lake: lake.table().vacuum(0, dry_run=False, enforce_retention_duration=False)),
    ("column", lambda lake: lake.write(rows(80).append_column("more", pa.array(["m"] * 16)), schema_mode="merge")),
    ("checkpoint again", lambda lake: lake.table().create_checkpoint()),
    ("overwrite", lambda lake: lake.write(rows(200), "overwrite", schema_mode="overwrite")),
]


@pytest.mark.parametrize(
    ("lake", "partitions"),
    [(place, partitions) for place in ("disk", *registries.OBJECTS) for partitions in ([], ["zone"]) if partitions or place in ("disk", "s3")],
    ids=lambda value: value if isinstance(value, str) else "partitioned" if value else "plain",
    indirect=["lake"],
)
def test_every_version_of_a_table_is_read(lake: Lake, partitions: list[str]) -> None:
    lake.write(rows(0), partition_by=partitions)
    lake.succeed("apply")
    lake.check_join()
    for step, do in STEPS:
        do(lake)
        try:
            lake.check_join()
        except AssertionError as error:
            raise AssertionError(f"after {step}") from error
    lake.check_online()


def test_the_stock_sdk_reads_and_is_told_what_cannot_be_written(lake: Lake, tmp_path: Path) -> None:
    lake.write(rows(0), partition_by=["day"])
    lake.write(rows(16).append_column("more", pa.array([1.5] * 16)), schema_mode="merge")
    lake.succeed("apply")
    with Thali.serve(lake.repo, env=lake.env) as thali:
        store = harness.sdk(thali, "small", tmp_path / "client")
        types = {field.name: str(field.dtype) for field in store.get_feature_view("stats").schema}
        assert types == {"driver_id": "Int64", "day": types["day"], "zone": "String", "rate": "Float64", "trips": "Int32", "more": "Float64"}
        answer = store.get_historical_features(lake.asked.to_pandas(), [*REFS, "stats:more"]).to_arrow()
        facts = lake.table().to_pyarrow_table().to_pylist()
        assert len(answer) == lake.asked.num_rows
        for row in answer.to_pylist():
            fact = newest(facts, row["driver_id"], row["event_timestamp"])
            assert (row["rate"], row["more"]) == (fact["rate"], fact.get("more")), row
        with pytest.raises(Exception, match="`stats_table` is a Delta table, which thali only reads: rows cannot be added"):
            store.write_to_offline_store("stats", lake.table().to_pandas(), reorder_columns=True)
        frame = {"driver_id": [1], "event_timestamp": ["2026-03-01T11:30:00Z"], "day": ["2026-03-01"], "zone": ["x=1"], "rate": [1.0], "trips": [1], "more": [1.0]}
        status, told = harness.http("POST", f"{thali.url('online')}/push", {"push_source_name": "stats_push", "df": frame, "to": "offline"})
        assert status == 501 and "is a Delta table" in str(told), told
    assert lake.table().version() == 1


def test_feast_applies_it_and_answers_the_same(tmp_path: Path) -> None:
    """A source that stock Feast applied. DuckDB reads Delta tables with an extension that it has to download, so that here Feast is
    given the rows in a file, as the table's own library reads them."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.data_format import DeltaFormat
    from feast.types import Float64, Int32, Int64, String

    lake = Lake(tmp_path)
    lake.write(rows(0), partition_by=["zone"])
    lake.write(rows(16))
    lake.table().delete("driver_id = 3")
    (lake.repo / "definitions.yaml").unlink()
    driver = Entity(name="driver", join_keys=["driver_id"])
    schema = [Field(name="driver_id", dtype=Int64), Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int32), Field(name="zone", dtype=String)]

    def applied(repo: Path, source: FileSource) -> FeatureStore:
        store = FeatureStore(repo_path=str(repo))
        store.apply([driver, source, FeatureView(name="stats", entities=[driver], source=source, schema=schema, ttl=timedelta(minutes=30))])
        return store

    applied(lake.repo, FileSource(name="stats_table", path=lake.uri, file_format=DeltaFormat(), timestamp_field="event_timestamp"))
    (tmp_path / "feast").mkdir()
    (tmp_path / "feast/feature_store.yaml").write_text(STORE)
    file = tmp_path / "feast/rows.parquet"
    pq.write_table(lake.table().to_pyarrow_table(), file)
    store = applied(tmp_path / "feast", FileSource(name="stats_table", path=str(file), timestamp_field="event_timestamp"))

    refs = [ref for ref in REFS if ref != "stats:day"]
    feast = store.get_historical_features(lake.asked.to_pandas(), refs).to_df()
    flags = [word for ref in refs for word in ("-f", ref)]
    lake.succeed("get-historical-features", *flags, "--entity-file", lake.repo / "rows.parquet", "-o", lake.repo / "out.parquet")
    ours = pq.read_table(lake.repo / "out.parquet").to_pandas()
    keys = ["driver_id", "event_timestamp"]
    columns = [*keys, *(ref.split(":")[1] for ref in refs)]
    in_order = [frame.sort_values(keys).reset_index(drop=True)[columns] for frame in (ours, feast)]
    assert in_order[0]["rate"].notna().any() and in_order[0]["rate"].isna().any()
    pd.testing.assert_frame_equal(*in_order, check_dtype=False)

    lake.succeed("materialize", *WINDOW)
    store.materialize(DAY, DAY + timedelta(days=2))
    online = [{"driver_id": driver} for driver in DRIVERS]
    answers = [FeatureStore(repo_path=str(repo)).get_online_features(refs, online).to_dict() for repo in (lake.repo, tmp_path / "feast")]
    assert answers[0] == answers[1] and any(answers[0]["zone"])


def test_what_is_not_there_or_not_understood_is_refused_by_name(tmp_path: Path) -> None:
    lake = Lake(tmp_path, says_delta=True)
    assert "there is no Delta table" in lake.refused("apply")
    lake.write(rows(0))
    lake.write(rows(16))
    lake.succeed("apply")
    log = Path(lake.uri) / "_delta_log"
    commits = [log / f"{version:020}.json" for version in range(2)]
    texts = [commit.read_text() for commit in commits]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors", "variantType"], "writerFeatures": []}
    commits[1].write_text(texts[1].rstrip() + "\n" + json.dumps({"protocol": protocol}) + "\n")
    assert "the feature `variantType`, which thali does not read" in lake.refused("materialize", *WINDOW)
    commits[1].write_text(texts[1])
    commits[0].unlink()
    assert "version 0 is missing in its log" in lake.refused("materialize", *WINDOW)
    commits[0].write_text(texts[0])
    lake.check_online()
    pq.write_table(lake.asked, lake.repo / "entities.parquet")
    told = lake.refused("dataset", "create", "first", "-f", "stats:rate", "--entity-file", lake.repo / "entities.parquet", "--path", lake.uri)
    assert "a Delta table" in told, told
