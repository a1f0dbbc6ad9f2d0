"""On-demand views over a view whose join keys go by another name (`with_join_key_map`): one weather, asked for at the
origin and at the destination. What Feast answers where it can, and what only thali computes, online and offline alike."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from harness import Thali, environment, http, run, succeed

NOON = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
STOCK = """project: mapped
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: duckdb}
entity_key_serialization_version: 3
"""
NATIVE = """
entities: [{name: airport, join_key: airport, value_type: String}]
data_sources: [{name: weather, type: file, path: data/weather.parquet, timestamp_field: event_timestamp}]
feature_views:
  - {name: weather, entities: [airport], source: weather, ttl: 0s, schema: [{name: temp, type: Float64}]}
on_demand_feature_views:
  - name: there
    sources: [{view: weather, join_key_map: {airport: dest}}]
    schema: [{name: sign, type: String}, {name: warm, type: Float64}]
    expressions: {sign: "concat(dest, '!')", warm: temp + 1}
  - name: both
    sources: [{view: weather, alias: from, join_key_map: {airport: origin}}, {view: weather, alias: to, join_key_map: {airport: dest}}, there]
    schema: [{name: difference, type: Float64}, {name: trip, type: String}]
    expressions: {difference: to__temp - from__temp, trip: "concat(origin, '-', there__sign)"}
feature_services:
  - {name: trips, features: [both, there, {view: weather, alias: at_origin, join_key_map: {airport: origin}}]}
"""
TRIPS = {"origin": ["JFK", "LAX", "SFO", "JFK"], "dest": ["LAX", "JFK", "JFK", "nowhere"]}


def weather(folder: Path) -> None:
    (folder / "data").mkdir()
    times = pd.to_datetime([NOON] * 3).astype("datetime64[us, UTC]")
    frame = pd.DataFrame({"airport": ["JFK", "LAX", "SFO"], "temp": [1.0, 20.0, 15.0], "event_timestamp": times})
    frame.to_parquet(folder / "data/weather.parquet")


def asked(thali: Thali, **body: Any) -> dict[str, Any]:
    status, answer = http("POST", f"{thali.url('online')}/get-online-features", body)
    assert status == 200, answer
    return dict(zip(answer["metadata"]["feature_names"], [column["values"] for column in answer["results"]], strict=True))


def historical(repo: Path, *features: str) -> list[dict[str, Any]]:
    """The same trips an hour later, from the offline store."""
    times = pd.to_datetime([NOON + timedelta(hours=1)] * 4).astype("datetime64[us, UTC]")
    pd.DataFrame(TRIPS | {"event_timestamp": times}).to_parquet(repo / "data/trips.parquet")
    succeed(repo, "get-historical-features", "--entity-file", repo / "data/trips.parquet", *features, "--output", repo / "data/answer.parquet")
    return pd.read_parquet(repo / "data/answer.parquet").drop(columns="event_timestamp").to_dict("list")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    weather(folder)
    (folder / "feature_store.yaml").write_text(STOCK)
    (folder / "definitions.yaml").write_text(NATIVE)
    succeed(folder, "apply")
    succeed(folder, "materialize", "2026-11-20T00:00:00", "2026-11-21T00:00:00")
    return folder


EXPECTED = {
    "difference": [19.0, -19.0, -14.0, None],
    "trip": ["JFK-LAX!", "LAX-JFK!", "SFO-JFK!", "JFK-nowhere!"],
    "sign": ["LAX!", "JFK!", "JFK!", "nowhere!"],
    "warm": [21.0, 2.0, 2.0, None],
    "temp": [1.0, 20.0, 15.0, 1.0],
}


def test_each_source_is_read_by_its_own_columns(native: Path) -> None:
    with Thali.serve(native) as thali:
        assert asked(thali, feature_service="trips", entities=TRIPS) == TRIPS | EXPECTED
        # The unmapped name is nothing that a mapped source reads by.
        answer = asked(thali, features=["there:warm"], entities={"dest": ["LAX"], "airport": ["JFK"]})
        assert answer == {"dest": ["LAX"], "airport": ["JFK"], "warm": [21.0]}
        status, answer = http("POST", f"{thali.url('online')}/get-online-features", {"features": ["there:warm"], "entities": {"airport": ["JFK"]}})
        assert status == 400 and "dest" in json.dumps(answer), answer


def test_offline_is_the_same(native: Path) -> None:
    answer = historical(native, "--feature-service", "trips")
    plain = {name: [None if value != value else value for value in values] for name, values in answer.items()}
    assert plain == TRIPS | EXPECTED


def test_an_unknown_join_key_is_refused(native: Path, tmp_path: Path) -> None:
    weather(tmp_path)
    (tmp_path / "feature_store.yaml").write_text(STOCK)
    (tmp_path / "definitions.yaml").write_text(NATIVE.replace("{airport: dest}}]", "{port: dest}}]"))
    done = run(tmp_path, "apply")
    assert done.returncode == 1 and "`port` is no join key of feature view `weather`" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A repository of the SDK with one mapped source."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64, String

    folder = tmp_path_factory.mktemp("stock")
    weather(folder)
    (folder / "feature_store.yaml").write_text(STOCK)
    airport = Entity(name="airport", join_keys=["airport"], value_type=ValueType.STRING)
    view = FeatureView(
        name="weather",
        entities=[airport],
        ttl=timedelta(0),
        schema=[Field(name="temp", dtype=Float64), Field(name="airport", dtype=String)],
        source=FileSource(name="weather", path=str(folder / "data/weather.parquet"), timestamp_field="event_timestamp"),
    )

    @on_demand_feature_view(
        sources=[view.with_join_key_map({"airport": "dest"})],
        schema=[Field(name="sign", dtype=String), Field(name="warm", dtype=Float64)],
        mode="python",
    )
    def there(inputs: dict[str, Any]) -> dict[str, Any]:
        where = inputs.get("dest", [""] * len(inputs["temp"]))
        return {"sign": [f"{d}!" for d in where], "warm": [None if t is None else t + 1 for t in inputs["temp"]]}

    store = FeatureStore(repo_path=str(folder))
    store.apply([airport, view, there])
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    yield store, folder


def test_feast_reads_a_mapped_source_by_the_mapped_column(stock: tuple[Any, Path]) -> None:
    store, folder = stock
    features = ["there:sign", "there:warm"]
    theirs = store.get_online_features(features=features, entity_rows={"dest": TRIPS["dest"]}).to_dict()
    (folder / "feature_store.yaml").write_text(STOCK + f"thali: {{python: {{command: {sys.executable}}}}}\n")
    with Thali.serve(folder, env=environment()) as thali:
        assert asked(thali, features=features, entities={"dest": TRIPS["dest"]}) == theirs
    assert theirs["sign"] == EXPECTED["sign"] and theirs["warm"] == EXPECTED["warm"]
