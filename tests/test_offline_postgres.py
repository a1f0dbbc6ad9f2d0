"""PostgreSQL as the offline store of stock Feast and of thali: the same definitions, the same tables; joins through the SDK equal what
is read off the rows, and materialization stores the newest of them."""

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import sqlalchemy

import harness
from harness import Thali

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
TTL = timedelta(minutes=30)
#: Keys that run into each other when one is written after the other.
NUMBERS, WORDS = [1, 11, 111], ["1", "11", "it's"]
REFS = ["trips:x", "trips:rate", "zones:z"]


def store_section(url: str) -> str:
    parts = urlsplit(url)
    keys = {"host": parts.hostname, "port": parts.port, "user": parts.username, "database": parts.path[1:], "db_schema": "features"}
    lines = "".join(f"  {key}: {value}\n" for key, value in keys.items())
    return f"offline_store:\n  type: postgres\n  sslmode: disable\n{lines}  password: '{unquote(parts.password or '')}'\n"


def fill(url: str, dice: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    trips = [
        {
            "number": dice.choice(NUMBERS),
            "word": dice.choice(WORDS),
            "event_timestamp": START + timedelta(seconds=dice.randrange(40) * 300),
            # Unique, so that there is one newest row.
            "created": START + timedelta(seconds=index),
            "x": index,
            "rate": index / 7,
        }
        for index in range(300)
    ]
    zones = [{"number": number, "event_timestamp": START + timedelta(minutes=at), "z": f"{number}@{at}"} for number in NUMBERS for at in range(0, 200, 7)]
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE SCHEMA features"))
        connection.execute(
            sqlalchemy.text(
                "CREATE TABLE features.trips (number int, word text, event_timestamp timestamptz, created timestamptz, x bigint, rate float8, unused jsonb)"
            )
        )
        # Times without a zone are UTC.
        connection.execute(sqlalchemy.text("CREATE TABLE features.zones (number bigint, event_timestamp timestamp, z varchar(20))"))
        columns = "number, word, event_timestamp, created, x, rate"
        connection.execute(
            sqlalchemy.text(f"INSERT INTO features.trips ({columns}) VALUES (:{columns.replace(', ', ', :')})"),
            trips,
        )
        naive = [zone | {"event_timestamp": zone["event_timestamp"].replace(tzinfo=None)} for zone in zones]
        connection.execute(sqlalchemy.text("INSERT INTO features.zones VALUES (:number, :event_timestamp, :z)"), naive)
    return trips, zones


def apply(folder: Path) -> None:
    """Feast's own apply, with Feast's own PostgreSQL source."""
    from feast import Entity, FeatureStore, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
    from feast.types import Float64, Int64, String

    number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
    word = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
    trips = PostgreSQLSource(name="trips_table", table="trips", timestamp_field="event_timestamp", created_timestamp_column="created")
    query = "SELECT number, event_timestamp, z FROM zones WHERE number > 0"
    zones = PostgreSQLSource(name="zones_query", query=query, timestamp_field="event_timestamp")
    keys = [Field(name="number", dtype=Int64), Field(name="word", dtype=String)]
    values = [Field(name="x", dtype=Int64), Field(name="rate", dtype=Float64)]
    views = [
        FeatureView(name="trips", entities=[number, word], schema=keys + values, source=trips, ttl=TTL),
        FeatureView(name="zones", entities=[number], schema=[keys[0], Field(name="z", dtype=String)], source=zones, ttl=timedelta(0)),
    ]
    FeatureStore(repo_path=str(folder)).apply([number, word, trips, zones, *views])


def newest(rows: list[dict[str, Any]], keys: dict[str, Any], at: datetime, ttl: timedelta | None) -> dict[str, Any]:
    def counts(row: dict[str, Any]) -> bool:
        return all(row[key] == value for key, value in keys.items()) and row["event_timestamp"] <= at and (ttl is None or row["event_timestamp"] >= at - ttl)

    return max(filter(counts, rows), key=lambda row: (row["event_timestamp"], row.get("created")), default={})


def cells(column: Any) -> list[Any]:
    return [None if pd.isna(value) else value for value in column]


def test_joins_and_materialization_from_postgresql(postgres_url: str, tmp_path: Path) -> None:
    dice = random.Random(7)
    trips, zones = fill(postgres_url, dice)
    repo = tmp_path / "repo"
    repo.mkdir()
    text = "project: pgoff\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n"
    (repo / "feature_store.yaml").write_text(text + store_section(postgres_url))
    apply(repo)
    entities = pd.DataFrame(
        {
            "number": [dice.choice([*NUMBERS, 5]) for _ in range(200)],
            "word": [dice.choice(WORDS) for _ in range(200)],
            "event_timestamp": pd.to_datetime([START + timedelta(seconds=dice.randrange(15_000)) for _ in range(200)]),
            "label": range(200),
        }
    )
    with Thali.serve(repo) as thali:
        store = harness.sdk(thali, "pgoff", tmp_path / "client")
        frame = store.get_historical_features(entity_df=entities, features=REFS).to_df()
        assert list(frame["label"]) == list(range(200))
        wanted: dict[str, list[Any]] = {"x": [], "rate": [], "z": []}
        for row in entities.to_dict("records"):
            at = row["event_timestamp"].to_pydatetime()
            trip = newest(trips, {"number": row["number"], "word": row["word"]}, at, TTL)
            zone = newest(zones, {"number": row["number"]}, at, None)
            for name, found in (("x", trip), ("rate", trip), ("z", zone)):
                wanted[name].append(found.get(name))
        for name, values in wanted.items():
            assert cells(frame[name]) == values, name
            assert None in values and any(value is not None for value in values)

        # Entity rows as a query, which the server runs.
        sql = "SELECT DISTINCT number, word, timestamptz '2026-03-01 03:00:00+00' AS event_timestamp FROM trips"
        frame = store.get_historical_features(entity_df=sql, features=REFS).to_df()
        assert len(frame) == len({(trip["number"], trip["word"]) for trip in trips})
        for row in frame.to_dict("records"):
            trip = newest(trips, {"number": row["number"], "word": row["word"]}, START + timedelta(hours=3), TTL)
            assert cells([row["x"]]) == [trip.get("x")]

        end = START + timedelta(hours=2)
        store.materialize(START, end)
        rows = [{"number": number, "word": word} for number in NUMBERS for word in WORDS]
        online = store.get_online_features(REFS, rows).to_dict()
        expected = [newest(trips, row, end, None) for row in rows]
        assert online["x"] == [trip.get("x") for trip in expected]
        assert online["rate"] == [trip.get("rate") for trip in expected]
        assert online["z"] == [newest(zones, {"number": row["number"]}, end, None).get("z") for row in rows]
        # The command does the same.
        later = START + timedelta(hours=5)
        thali.succeed("materialize", START.isoformat(), later.isoformat())
        online = store.get_online_features(REFS, rows).to_dict()
        assert online["x"] == [newest(trips, row, later, None).get("x") for row in rows]
