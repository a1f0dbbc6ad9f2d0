"""Online stores beside stock Feast: what either writes, the other reads, and thali keeps what Feast would lose.

Both work in one folder, with one feature_store.yaml and one registry.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

import harness
import servers
from harness import Node

PROJECT = "stores"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
TYPES = {
    "i32": Int32,
    "i64": Int64,
    "f32": Float32,
    "f64": Float64,
    "text": String,
    "truth": Bool,
    "raw": Bytes,
    "at": UnixTimestamp,
    "ints": Array(Int64),
    "texts": Array(String),
}
#: Columns that travel as JSON in the same form that pandas has them in.
PLAIN = [name for name in TYPES if name not in ("raw", "at")]


def rows(drivers: list[int], time: datetime = NOW) -> pd.DataFrame:
    values: list[dict[str, Any]] = [
        {
            "driver_id": driver,
            "ts": time,
            "made": time,
            "i32": driver,
            "i64": driver * 10_000_000_000,
            "f32": driver / 2,
            "f64": driver / 8,
            "text": f"driver {driver} é",
            "truth": driver % 2 == 0,
            "raw": bytes([driver, 0, 255]),
            "at": time - timedelta(days=1),
            "ints": [driver, -driver],
            "texts": ["a", str(driver)],
        }
        for driver in drivers
    ]
    return pd.DataFrame(values)


class Repository:
    """A folder that Feast has applied two views to, with a tag each."""

    def __init__(self, folder: Path, online_store: str, tags: tuple[str, str] = ("", ""), more: str = "") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        rows([1]).to_parquet(folder / "data/rows.parquet")
        self.yaml(online_store, more)
        source = FileSource(name="rows", path=str(folder / "data/rows.parquet"), timestamp_field="ts", created_timestamp_column="made")
        driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
        schema = [Field(name=name, dtype=dtype) for name, dtype in TYPES.items()]
        self.views = [
            FeatureView(name=name, entities=[driver], source=source, schema=schema, ttl=timedelta(0), tags={"tribe": tag} if tag else {})
            for name, tag in zip(("first", "second"), tags)
        ]
        self.store = FeatureStore(repo_path=str(folder))
        self.store.apply([source, driver, *self.views])

    def yaml(self, online_store: str, more: str = "") -> None:
        text = f"project: {PROJECT}\nprovider: local\nregistry: data/registry.db\n{online_store}\nentity_key_serialization_version: 3\n{more}"
        (self.folder / "feature_store.yaml").write_text(text)

    def feast_reads(self, drivers: list[int]) -> dict[str, list[Any]]:
        entities = [{"driver_id": driver} for driver in drivers]
        return self.store.get_online_features(features=references(), entity_rows=entities, full_feature_names=True).to_dict()


def references() -> list[str]:
    return [f"{view}:{name}" for view in ("first", "second") for name in TYPES]


def thali_reads(node: Node, drivers: list[int]) -> dict[str, list[Any]]:
    body = {"features": references(), "entities": {"driver_id": drivers}, "full_feature_names": True}
    status, answer = harness.http("POST", f"{node.addresses['online']}/get-online-features", body)
    assert status == 200, answer
    return {name: column["values"] for name, column in zip(answer["metadata"]["feature_names"], answer["results"])}


def thali_writes(node: Node, view: str, frame: pd.DataFrame, **fields: Any) -> None:
    import base64

    columns = frame.assign(raw=[raw and base64.b64encode(raw).decode() for raw in frame["raw"]])
    df = {name: [str(value) if isinstance(value, datetime) else value for value in columns[name].tolist()] for name in columns}
    body = {"feature_view_name": view, "df": df} | fields
    status, answer = harness.http("POST", f"{node.addresses['online']}/write-to-online-store", body)
    assert status == 200, answer


@contextmanager
def serving(repo: Path) -> Iterator[Node]:
    node = Node.start(repo, "online")
    try:
        yield node
        node.stop()
    finally:
        node.kill()


def expected(view: str, drivers: list[int | None], time: datetime = NOW) -> dict[str, list[Any]]:
    """The plain columns of a view, null for drivers that are not there."""
    there = rows([driver or 0 for driver in drivers], time)
    return {f"{view}__{name}": [value if driver else None for driver, value in zip(drivers, there[name].tolist())] for name in PLAIN}


def both_ways(repo: Repository, keeps_newest: bool = True) -> None:
    """What Feast writes thali reads, and the reverse."""
    for view in ("first", "second"):
        repo.store.write_to_online_store(view, rows([1, 2]))
    with serving(repo.folder) as node:
        read = thali_reads(node, [2, 9, 1])
        for view in ("first", "second"):
            assert read | expected(view, [2, None, 1]) == read
            assert read[f"{view}__raw"] == ["AgD/", None, "AQD/"]
            day_before = int((NOW - timedelta(days=1)).timestamp())
            assert read[f"{view}__at"] == [day_before, None, day_before]
        later = NOW + timedelta(microseconds=1_500_000)
        thali_writes(node, "first", rows([2, 3], later).assign(i32=[7, 8]))
        thali_writes(node, "second", rows([3], NOW - timedelta(seconds=1)))
        feasts = repo.feast_reads([1, 2, 3, 9])
        assert feasts["first__i32"] == [1, 7, 8, None]
        assert feasts["first__raw"] == [b"\x01\0\xff", b"\x02\0\xff", b"\x03\0\xff", None]
        assert feasts["second__i32"] == [1, 2, 3, None]
        assert feasts["second__texts"] == [["a", "1"], ["a", "2"], ["a", "3"], None]
        ours = thali_reads(node, [1, 2, 3, 9])
        assert {name: ours[name] for name in ours if name.split("__")[-1] in PLAIN} == {
            name: feasts[name] for name in feasts if name.split("__")[-1] in PLAIN
        }
        if keeps_newest:
            thali_writes(node, "first", rows([2]))
            assert thali_reads(node, [2])["first__i32"] == [7]
            thali_writes(node, "first", rows([2]), allow_older=True)
            assert thali_reads(node, [2])["first__i32"] == [2]


# --- DynamoDB ---------------------------------------------------------------------------------------------------------


def dynamodb(server: servers.S3) -> str:
    return f"online_store:\n  type: dynamodb\n  region: us-east-1\n  endpoint_url: {server.url}\n  tags: {{team: ml}}"


@pytest.fixture
def aws(s3: servers.S3, monkeypatch: pytest.MonkeyPatch) -> servers.S3:
    """moto, known to this process and to those it starts."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3


def test_dynamodb_both_ways(aws: servers.S3, tmp_path: Path) -> None:
    repo = Repository(tmp_path / "repo", dynamodb(aws))
    both_ways(repo)
    counted = harness.succeed(repo.folder, "online", "count", "-o", "json")
    assert counted.split() == ["{", '"first":', "3,", '"second":', "3", "}"]
    assert harness.succeed(repo.folder, "online", "delete", "first", "-e", "driver_id=2", "-e", "driver_id=9").startswith("1 of 2 rows")
    assert repo.feast_reads([1, 2])["first__i32"] == [1, None]
    assert '"i32": 1' in harness.succeed(repo.folder, "online", "get", "first", "-e", "driver_id=1", "-o", "json")
    harness.succeed(repo.folder, "online", "truncate", "first", "--yes")
    assert repo.feast_reads([1])["first__i32"] == [None]
    assert repo.feast_reads([1])["second__i32"] == [1]
    assert len(harness.succeed(repo.folder, "online", "get", "first", "--all").splitlines()) == 1
    repo.store.teardown()


def test_dynamodb_tables_are_made_and_dropped_as_feast_does(aws: servers.S3, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("dynamodb", endpoint_url=aws.url, region_name="us-east-1")
    tables = [f"{PROJECT}.first", f"{PROJECT}.second"]

    def described() -> list[Any]:
        seen = []
        for name in tables:
            table = client.describe_table(TableName=name)["Table"]
            tags = client.list_tags_of_resource(ResourceArn=table["TableArn"])["Tags"]
            seen.append((table["KeySchema"], table["AttributeDefinitions"], table["BillingModeSummary"]["BillingMode"], tags))
        return seen

    repo = Repository(tmp_path / "repo", dynamodb(aws), ("red", "green"))
    by_feast = described()
    # thali's teardown knows the tables that Feast made, and makes the same again.
    definitions = harness.succeed(repo.folder, "export")
    harness.succeed(repo.folder, "teardown")
    assert not set(tables) & set(client.list_tables()["TableNames"])
    (repo.folder / "definitions.yaml").write_text(definitions)
    harness.succeed(repo.folder, "apply")
    assert described() == by_feast
    harness.succeed(repo.folder, "apply")
    assert described() == by_feast
    FeatureStore(repo_path=str(repo.folder)).teardown()
    assert not set(tables) & set(client.list_tables()["TableNames"])


# --- hybrid -----------------------------------------------------------------------------------------------------------


def hybrid(server: servers.S3, more: str = "") -> str:
    return (
        "online_store:\n  type: hybrid\n  routing_tag: tribe\n  online_stores:\n"
        "  - type: sqlite\n    conf: {path: data/online.db}\n"
        f"  - type: dynamodb\n    conf: {{region: us-east-1, endpoint_url: '{server.url}'}}{more}"
    )


@pytest.mark.parametrize("second", ["dynamodb", "redis"])
def test_hybrid_reads_what_feast_wrote_to_each_store(second: str, aws: servers.S3, redis: servers.Redis, tmp_path: Path) -> None:
    # Feast's own hybrid store fails on its second view, so that each is written by a Feast that has one store.
    folder, host = tmp_path / "repo", f"127.0.0.1:{redis.port}"
    first_store = "online_store: {type: sqlite, path: data/online.db}"
    second_store = dynamodb(aws) if second == "dynamodb" else f"online_store: {{type: redis, connection_string: '{host}'}}"
    repo = Repository(folder, first_store, ("SQLite", second))
    repo.store.write_to_online_store("first", rows([1, 2]))
    repo.yaml(second_store)
    store = FeatureStore(repo_path=str(folder))
    store.apply(repo.views)
    store.write_to_online_store("second", rows([2, 3]))
    repo.yaml(hybrid(aws, f"\n  - type: redis\n    conf: {{connection_string: '{host}'}}"))
    with serving(folder) as node:
        read = thali_reads(node, [1, 2, 3])
        assert read | expected("first", [1, 2, None]) == read
        assert read | expected("second", [None, 2, 3]) == read
        body = {"features": ["first:i32", "second:i32"], "entities": {"driver_id": [9]}, "full_feature_names": True}
        answer = harness.http("POST", f"{node.addresses['online']}/get-online-features", body)[1]
        statuses = {name: result["statuses"] for name, result in zip(answer["metadata"]["feature_names"], answer["results"])}
        unknown = "PRESENT" if second == "redis" else "NOT_FOUND"
        assert statuses["first__i32"] == ["NOT_FOUND"] and statuses["second__i32"] == [unknown], "each as its own store says"
        thali_writes(node, "first", rows([3], NOW + timedelta(hours=1)))
        thali_writes(node, "second", rows([1], NOW + timedelta(hours=1)))
    assert store.get_online_features(features=["second:i32"], entity_rows=[{"driver_id": 1}]).to_dict()["i32"] == [1]
    repo.yaml(first_store)
    store = FeatureStore(repo_path=str(folder))
    assert store.get_online_features(features=["first:i32"], entity_rows=[{"driver_id": 3}]).to_dict()["i32"] == [3]


def test_hybrid_refuses_views_that_belong_nowhere(aws: servers.S3, tmp_path: Path) -> None:
    repo = Repository(tmp_path / "repo", "online_store: {type: sqlite, path: data/online.db}", ("sqlite", "redis"))
    definitions = harness.succeed(repo.folder, "export")
    repo.yaml(hybrid(aws))
    with serving(repo.folder) as node:
        for features, status in ((["first:i32"], 200), (["second:i32"], 400), (["first:i64", "second:i32"], 400)):
            body = {"features": features, "entities": {"driver_id": [1]}}
            answer = harness.http("POST", f"{node.addresses['online']}/get-online-features", body)
            assert answer[0] == status
            assert status == 200 or "`tribe: redis`" in harness.feast_error(answer[1])["message"]
    (repo.folder / "definitions.yaml").write_text(definitions)
    for command in ("plan", "apply"):
        refused = harness.run(repo.folder, command)
        assert refused.returncode == 1 and "`second`" in refused.stderr and "sqlite, dynamodb" in refused.stderr


def test_nested_stores_are_checked_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    yaml = """project: p
provider: local
online_store:
  type: hybrid
  online_stores:
  - type: sqlite
    conf: {pathh: a}
  - type: feast.Dynamodb
    konf: {}
  - type: SQLite
  - type: sqlitee
"""
    (folder / "feature_store.yaml").write_text(yaml)
    refused = harness.run(folder, "config")
    assert refused.returncode == 1
    for line, *told in (
        ("feature_store.yaml:7", "online_stores.0.conf.pathh", "`path`"),
        ("feature_store.yaml:9", "online_stores.1.konf", "`conf`"),
        ("feature_store.yaml:10", "two stores of type `sqlite`"),
        ("feature_store.yaml:11", "sqlitee", "`sqlite`"),
    ):
        assert any(line in text and all(word in text for word in told) for text in refused.stderr.replace("\n  ", " ").splitlines()), (line, refused.stderr)


# --- remote -----------------------------------------------------------------------------------------------------------


@contextmanager
def feast_serve(repo: Path) -> Iterator[str]:
    port = servers.free_port()
    command = [str(Path(sys.executable).parent / "feast"), "-c", str(repo), "serve", "-p", str(port), "--no-access-log"]
    process = subprocess.Popen(command, env=harness.environment(PYTHONWARNINGS="ignore"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        harness.eventually(lambda: harness.http("GET", f"{url}/health")[0] == 200, "Feast serves")
        yield url
    finally:
        process.terminate()
        process.wait(harness.DEADLINE)


@contextmanager
def thali_serve(repo: Path) -> Iterator[str]:
    with serving(repo) as node:
        yield node.addresses["online"]


@pytest.mark.parametrize("other", [feast_serve, thali_serve])
def test_another_server_is_an_online_store(other: Callable[[Path], Any], tmp_path: Path) -> None:
    far = Repository(tmp_path / "far", "online_store: {type: sqlite, path: data/online.db}")
    for view in ("first", "second"):
        far.store.write_to_online_store(view, rows([1, 2]))
    with other(far.folder) as url:
        near = Repository(tmp_path / "near", f"online_store: {{type: remote, path: '{url}', connection_retries: 1}}")
        with serving(near.folder) as node:
            read = thali_reads(node, [2, 9, 1])
            for view in ("first", "second"):
                assert read | expected(view, [2, None, 1]) == read
                assert read[f"{view}__raw"] == ["AgD/", None, "AQD/"]
            body = {"features": ["first:i32"], "entities": {"driver_id": [1]}}
            answer = harness.http("POST", f"{node.addresses['online']}/get-online-features", body)[1]
            assert answer["results"][1]["event_timestamps"] == ["2026-03-01T12:00:00Z"]
            # Feast's server takes no bytes as JSON, not even from its own client.
            raw = [None] if other is feast_serve else [b"four"]
            thali_writes(node, "first", rows([4], NOW + timedelta(hours=1)).assign(raw=raw))
            assert thali_reads(node, [4])["first__texts"] == [["a", "4"]]
    assert far.feast_reads([4])["first__i64"] == [40_000_000_000]
    assert far.feast_reads([4])["first__raw"] == raw


def test_a_server_that_is_away_is_told_and_comes_back(tmp_path: Path) -> None:
    far = Repository(tmp_path / "far", "online_store: {type: sqlite, path: data/online.db}")
    far.store.write_to_online_store("first", rows([1]))
    port = servers.free_port()
    near = Repository(tmp_path / "near", f"online_store: {{type: remote, path: 'http://127.0.0.1:{port}'}}")
    node = Node.start(near.folder, "online", wait=False)
    try:
        there = Node.start(far.folder, "online", "--online-port", port)
        node.wait_ready()
        body = {"features": ["first:i32"], "entities": {"driver_id": [1]}}
        url = f"{node.addresses['online']}/get-online-features"
        assert harness.http("POST", url, body)[1]["results"][1]["values"] == [1]
        there.stop()
        status, answer = harness.http("POST", url, body)
        assert status == 503 and f"http://127.0.0.1:{port}" in harness.feast_error(answer)["message"]
        there = Node.start(far.folder, "online", "--online-port", port)
        assert harness.http("POST", url, body)[1]["results"][1]["values"] == [1]
        there.stop()
        node.stop()
    finally:
        node.kill()
