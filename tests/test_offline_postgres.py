"""PostgreSQL as the offline store of stock Feast and of thali: the same definitions, the same tables; joins through the SDK equal what
is read off the rows, and materialization stores the newest of them."""

import json
import math
import random
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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


EVERYTHING = """
CREATE TYPE features.mood AS ENUM ('sad', 'glad');
CREATE DOMAIN features.small AS integer CHECK (VALUE < 100);
CREATE TABLE features.everything (
    id bigint, ts timestamptz, i2 smallint, i4 integer, dom features.small, n numeric(20, 4), f4 real, b boolean, t text, c char(3), v varchar(9), u uuid,
    j json, jb jsonb, bin bytea, d date, naive timestamp, aware timestamptz, forever timestamptz, never timestamp, mood features.mood,
    i8s bigint[], i4s integer[], f8s float8[], words text[], flags boolean[], ns numeric[], ids uuid[], stamps timestamptz[]
);
INSERT INTO features.everything VALUES
    (1, '2026-03-01 00:00+00', -3, 70000, 7, 12.5, 0.1, true, 'it''s; --', 'ab', 'é', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1,  "a": [2]}', '{"a": 1}',
     '\\x00ff', '2026-02-28', '2026-02-28 23:59:59.123456', '2026-03-01 01:00+01', 'infinity', '-infinity', 'glad',
     '{1,NULL,9007199254740993}', '{}', '{NaN,Infinity,0.1}', '{"a,b",NULL,""}', '{t,f}', '{1.5,NULL}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', '{"2026-03-01 00:00+00"}'),
    (2, '2026-03-01 00:00+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


def test_values_of_every_type_come_as_they_are_and_are_saved_as_they_came(postgres_url: str, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA features")
        connection.exec_driver_sql(EVERYTHING)
    text = "project: types\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n"
    (tmp_path / "feature_store.yaml").write_text(text + store_section(postgres_url))
    (tmp_path / "definitions.yaml").write_text(
        "entities: [{name: id, join_key: id, value_type: Int64}]\n"
        "data_sources: [{name: everything, type: postgres, table: everything, timestamp_field: ts}]\n"
        # Its columns are those of the table.
        "feature_views: [{name: all, entities: [id], source: everything}]\n"
    )
    harness.succeed(tmp_path, "apply")
    with engine.connect() as connection:
        columns = connection.execute(sqlalchemy.text("SELECT column_name FROM information_schema.columns WHERE table_name = 'everything'")).scalars()
        names = [name for name in columns if name not in ("id", "ts")]
    features = [word for name in names for word in ("-f", f"all:{name}")]
    rows = [{"id": id, "event_timestamp": "2026-03-02T00:00:00"} for id in (1, 2, 3)]
    file = tmp_path / "answer.parquet"
    harness.succeed(tmp_path, "get-historical-features", *features, "-d", json.dumps(rows), "-o", file)
    table = pq.read_table(file)
    at, unique = datetime(2026, 3, 1, tzinfo=timezone.utc), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    wanted: dict[str, Any] = {
        "i2": -3,
        "i4": 70000,
        "dom": 7,
        "n": 12.5,
        "f4": 0.10000000149011612,
        "b": True,
        "t": "it's; --",
        # Without its padding, as PostgreSQL compares it.
        "c": "ab",
        "v": "é",
        "u": unique,
        "j": '{"b": 1,  "a": [2]}',
        "jb": '{"a": 1}',
        "bin": b"\x00\xff",
        "d": date(2026, 2, 28),
        "naive": datetime(2026, 2, 28, 23, 59, 59, 123456),
        "aware": at,
        "mood": "glad",
        "i8s": [1, None, 9007199254740993],
        "i4s": [],
        "words": ["a,b", None, ""],
        "flags": [True, False],
        "ns": [1.5, None],
        "ids": [unique],
        "stamps": [at],
    }
    for name, value in wanted.items():
        assert table[name].to_pylist() == [value, None, None], name
    first = table["f8s"].to_pylist()[0]
    assert math.isnan(first[0]) and first[1:] == [math.inf, 0.1]
    # Beyond every time there is, on either side.
    assert table["forever"].cast(pa.int64())[0].as_py() == 2**63 - 1 and table["never"].cast(pa.int64())[0].as_py() == -(2**63)
    assert set(names) == set(wanted) | {"f8s", "forever", "never"}

    pq.write_table(pa.table({"id": [1, 2], "event_timestamp": pa.array([at + timedelta(days=1)] * 2)}), tmp_path / "rows.parquet")
    harness.succeed(tmp_path, "dataset", "create", "kept", *features, "--entity-file", tmp_path / "rows.parquet", "--table", "kept")
    verdict = json.loads(harness.succeed(tmp_path, "dataset", "verify", "kept", "--json"))
    assert verdict["same"] and verdict["stored"]["rows"] == 2
    # They are stored online as well, what has no type there as text.
    harness.succeed(tmp_path, "materialize", "2026-02-01T00:00:00", "2026-03-02T00:00:00")
    online = json.loads(harness.succeed(tmp_path, "get-online-features", "-e", "id=1", "-f", "all:i8s", "-f", "all:n", "-f", "all:u", "-f", "all:aware"))
    assert (online["n"], online["u"]) == ([12.5], [unique])


def test_readiness_keeps_its_connection_and_sees_the_server_go_and_come(postgres: Any, postgres_url: str, tmp_path: Path) -> None:
    text = "project: ready\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n"
    (tmp_path / "feature_store.yaml").write_text(text + store_section(postgres_url))
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)

    def backends() -> list[int]:
        with engine.connect() as connection:
            own = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'thali' ORDER BY 1"
            return list(connection.execute(sqlalchemy.text(own)).scalars())

    with Thali.serve(tmp_path) as thali:

        def ready() -> bool:
            return harness.http("GET", f"{thali.url('ui')}/ready")[0] == 200

        assert ready()
        before = backends()
        for _ in range(20):
            assert ready()
        assert len(before) >= 1 and backends() == before
        # The server ends the connection: the next look makes another.
        with engine.connect() as connection:
            for pid in before:
                connection.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({pid})"))
        assert ready() and not set(backends()) & set(before)
