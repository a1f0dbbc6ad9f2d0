"""The same rows in files, in PostgreSQL, in both (`hybrid`) and behind another offline server (`remote`: thali's, or Feast's own):
every way of reading and writing them gives the same, cell by cell.

What is right is told by the rows themselves, read off without any engine.
"""

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
import sqlalchemy
import yaml

import harness
from harness import Thali, run, succeed
from test_offline_postgres import store_section

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
END = START + timedelta(hours=6)
TTL = timedelta(minutes=40)
NUMBERS, WORDS = [1, 11, 111, 2**40], ["1", "11", "it's", "é"]
REFS = ["trips:x", "trips:rate", "zones:z", "zones:weights"]
SERVICE = "features: [trips, {view: zones, features: [z], alias: home, join_key_map: {number: home}}]"

VIEWS = f"""entities:
  - {{name: number, join_key: number, value_type: Int64}}
  - {{name: word, join_key: word, value_type: String}}
feature_views:
  - {{name: trips, entities: [number, word], source: trips_push, ttl: 40m, schema: [{{name: x, type: Int64}}, {{name: rate, type: Float64}}]}}
  - {{name: zones, entities: [number], source: zones, schema: [{{name: z, type: String}}, {{name: weights, type: Array(Float64)}}]}}
  - {{name: newest, entities: [], source: zones, schema: [{{name: z, type: String}}]}}
feature_services:
  - {{name: both, {SERVICE}}}
data_sources:
  - {{name: trips_push, type: push, batch_source: trips}}
"""
TIMES = "timestamp_field: at, created_timestamp_column: made, field_mapping: {ex: x}"
FILES = {
    "trips": f"  - {{name: trips, type: file, path: trips.parquet, {TIMES}}}\n",
    "zones": "  - {name: zones, type: file, path: zones.parquet, timestamp_field: at}\n",
}
TABLES = {
    "trips": f"  - {{name: trips, type: postgres, table: '\"Big Trips\"', {TIMES}}}\n",
    "zones": "  - {name: zones, type: postgres, query: 'SELECT number, at, z, weights FROM zone_view; -- all of them', timestamp_field: at}\n",
}


def rows(dice: random.Random, ties: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    trips = [
        {
            "number": dice.choice(NUMBERS),
            "word": dice.choice(WORDS),
            "at": START + timedelta(seconds=dice.randrange(70) * 300 + (0 if ties else index % 300)),
            # Unique, so that there is one newest row.
            "made": START + timedelta(seconds=index),
            "ex": None if index % 9 == 0 else index,
            "rate": index / 7,
        }
        for index in range(400)
    ]
    zones = [{"number": number, "at": START + timedelta(minutes=at), "z": f"{number}@{at}", "weights": [at / 3, None]} for number in NUMBERS for at in range(0, 300, 11)]
    return trips, zones


STAMP = pa.timestamp("us", "UTC")
TRIPS = pa.schema([("number", pa.int64()), ("word", pa.string()), ("at", STAMP), ("made", STAMP), ("ex", pa.int64()), ("rate", pa.float64())])
ZONES = pa.schema([("number", pa.int64()), ("at", STAMP), ("z", pa.string()), ("weights", pa.list_(pa.float64()))])


@dataclass
class Place:
    """A repository and how its trips are read without thali."""

    name: str
    repo: Path
    trips: list[dict[str, Any]]
    zones: list[dict[str, Any]]
    url: str

    @property
    def of_tables(self) -> bool:
        return self.name in ("postgres", "hybrid")

    def stored_trips(self) -> list[dict[str, Any]]:
        if not self.of_tables:
            return pq.read_table(self.repo / "trips.parquet").to_pylist()
        with engine(self.url).connect() as connection:
            return [dict(row) for row in connection.execute(sqlalchemy.text('SELECT * FROM features."Big Trips"')).mappings()]


def engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)


def fill(url: str, trips: list[dict[str, Any]], zones: list[dict[str, Any]]) -> None:
    with engine(url).begin() as connection:

        def do(text: str, values: Any = None) -> None:
            connection.execute(sqlalchemy.text(text), values)

        do("CREATE SCHEMA features")
        do('CREATE TABLE features."Big Trips" (number bigint, word text, at timestamptz NOT NULL, made timestamptz, ex bigint CHECK (ex <> 666), rate float8)')
        do('INSERT INTO features."Big Trips" VALUES (:number, :word, :at, :made, :ex, :rate)', trips)
        do("CREATE TABLE features.zone_rows (number bigint, at timestamptz, z text, weights float8[])")
        do("INSERT INTO features.zone_rows VALUES (:number, :at, :z, :weights)", zones)
        do("CREATE MATERIALIZED VIEW features.zone_view AS SELECT * FROM features.zone_rows")


def offline_section(name: str, url: str) -> str:
    section = store_section(url)
    if name == "hybrid":
        conf = yaml.safe_load(section)["offline_store"]
        del conf["type"]
        stores = [{"type": "duckdb", "conf": {}}, {"type": "postgres", "conf": conf}]
        return "offline_store: " + json.dumps({"type": "hybrid", "offline_stores": stores}) + "\n"
    return section if name == "postgres" else "offline_store: {type: file}\n"


def project(folder: Path, name: str, url: str, ties: bool = True) -> Place:
    """The rows, with or without equal event times, and a repository over them, applied."""
    trips, zones = rows(random.Random(7), ties)
    folder.mkdir(parents=True)
    sources = FILES if name == "file" else TABLES if name == "postgres" else FILES | {"trips": TABLES["trips"]}
    if name in ("file", "hybrid"):
        pq.write_table(pa.Table.from_pylist(zones, ZONES), folder / "zones.parquet")
    if name == "file":
        pq.write_table(pa.Table.from_pylist(trips, TRIPS), folder / "trips.parquet")
    else:
        fill(url, trips, zones)
    text = "project: places\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\nentity_key_serialization_version: 3\n"
    (folder / "feature_store.yaml").write_text(text + offline_section(name, url))
    (folder / "definitions.yaml").write_text(VIEWS + "".join(sources.values()))
    succeed(folder, "apply")
    return Place(name, folder, trips, zones, url)


@pytest.fixture(params=["file", "postgres", "hybrid"])
def place(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Place:
    return project(tmp_path / "repo", request.param, postgres_url)


def entities(count: int = 150) -> pd.DataFrame:
    """Rows of known and unknown keys, some of them there twice."""
    dice = random.Random(8)
    frame = pd.DataFrame(
        {
            "number": [dice.choice([*NUMBERS, 5]) for _ in range(count)],
            "word": [dice.choice(WORDS) for _ in range(count)],
            "event_timestamp": pd.to_datetime([START + timedelta(seconds=dice.randrange(25_000)) for _ in range(count)], utc=True),
        }
    )
    frame = pd.concat([frame, frame.head(7)], ignore_index=True)
    frame["label"] = range(len(frame))
    return frame


def newest(found: list[dict[str, Any]], keys: dict[str, Any], at: datetime, ttl: timedelta | None = None) -> dict[str, Any]:
    fits = [row for row in found if all(row[key] == value for key, value in keys.items()) and row["at"] <= at and (ttl is None or row["at"] >= at - ttl)]
    return max(fits, key=lambda row: (row["at"], row.get("made", START)), default={})


def expected(place: Place, asked: pd.DataFrame) -> dict[str, list[Any]]:
    wanted: dict[str, list[Any]] = {"x": [], "rate": [], "z": [], "weights": []}
    for row in asked.to_dict("records"):
        at = row["event_timestamp"].to_pydatetime()
        trip = newest(place.trips, {"number": row["number"], "word": row["word"]}, at, TTL)
        zone = newest(place.zones, {"number": row["number"]}, at)
        for name, value in (("x", trip.get("ex")), ("rate", trip.get("rate")), ("z", zone.get("z")), ("weights", zone.get("weights"))):
            wanted[name].append(value)
    return wanted


def check_features(table: pa.Table, place: Place, asked: pd.DataFrame) -> None:
    assert table["label"].to_pylist() == list(asked["label"])
    for name, values in expected(place, asked).items():
        assert table[name].to_pylist() == values, name
        assert None in values and any(value is not None for value in values)


def ask(repo: Path, folder: Path, *words: object) -> pa.Table:
    """What `thali get-historical-features` writes into a file."""
    file = folder / "answer.parquet"
    file.unlink(missing_ok=True)
    succeed(repo, "get-historical-features", *words, "-o", file)
    return pq.read_table(file)


def features(*references: str) -> list[str]:
    return [word for reference in references for word in ("-f", reference)]


def ordered(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: json.dumps(row, default=str, sort_keys=True))


def test_what_is_declared_is_what_is_exported(place: Place, tmp_path: Path) -> None:
    assert run(place.repo, "plan").returncode == 0
    exported = succeed(place.repo, "export")
    if place.of_tables:
        assert "type: postgres" in exported and "proto:" not in exported, exported
    other = tmp_path / "other"
    other.mkdir()
    (other / "feature_store.yaml").write_text((place.repo / "feature_store.yaml").read_text().replace("registry.db", f"{place.repo}/registry.db"))
    (other / "definitions.yaml").write_text(exported)
    for file in place.repo.glob("*.parquet"):
        (other / file.name).symlink_to(file)
    planned = run(other, "plan")
    assert planned.returncode == 0, planned.stdout


def test_features_are_what_one_reads_off_the_rows(place: Place, tmp_path: Path) -> None:
    asked = entities()
    with Thali.serve(place.repo) as thali:
        store = harness.sdk(thali, "places", tmp_path / "client")
        check_features(store.get_historical_features(entity_df=asked, features=REFS).to_arrow(), place, asked)
        store.materialize(START, END)
        keys = [{"number": number, "word": word} for number in NUMBERS for word in WORDS]
        # Of lists with nulls the SDK's remote store makes nothing.
        online = store.get_online_features(REFS[:3], keys).to_dict()
        for index, key in enumerate(keys):
            trip, zone = newest(place.trips, key, END), newest(place.zones, {"number": key["number"]}, END)
            assert [online[name][index] for name in ("x", "rate", "z")] == [trip.get("ex"), trip.get("rate"), zone.get("z")], key


def test_a_service_with_an_alias_and_a_view_without_keys(place: Place, tmp_path: Path) -> None:
    asked = entities()
    asked["home"] = list(reversed(asked["number"]))
    asked.to_parquet(tmp_path / "rows.parquet")
    table = ask(place.repo, tmp_path, "--feature-service", "both", "--entity-file", tmp_path / "rows.parquet", "--full-feature-names")
    assert table["home__z"].to_pylist() == [newest(place.zones, {"number": row["home"]}, row["event_timestamp"].to_pydatetime()).get("z") for row in asked.to_dict("records")]
    assert table["trips__x"].to_pylist() == expected(place, asked)["x"]
    table = ask(place.repo, tmp_path, *features("newest:z"), "--entity-file", tmp_path / "rows.parquet")
    times = [row.to_pydatetime() for row in asked["event_timestamp"]]
    latest = [max((zone["at"] for zone in place.zones if zone["at"] <= at)) for at in times]
    assert [text.split("@")[1] for text in table["z"].to_pylist()] == [str(int((at - START).total_seconds() // 60)) for at in latest]


def test_ranges_and_queries_are_those_of_the_file_engine(place: Place, tmp_path: Path, postgres_url: str) -> None:
    twin = place if place.name == "file" else project(tmp_path / "twin", "file", postgres_url)
    window = ("--start-date", (START + timedelta(hours=1)).isoformat(), "--end-date", (START + timedelta(hours=3)).isoformat())
    for wanted in (["trips:x", "trips:rate"], REFS):
        of_place, of_twin = (ask(repo, tmp_path, *features(*wanted), *window) for repo in (place.repo, twin.repo))
        assert of_place.column_names == of_twin.column_names
        assert of_place.num_rows > 50 and ordered(of_place) == ordered(of_twin)

    at = "'2026-03-01 03:00:00+00'"
    queries = {
        "file": f"SELECT DISTINCT number, word, to_timestamp({at}) AS event_timestamp FROM trips",
        "postgres": f'SELECT DISTINCT ON (number, word) number, word, {at}::timestamptz AS event_timestamp FROM "Big Trips" ORDER BY 1, 2; -- PostgreSQL\'s own',
        # Over both stores at once.
        "hybrid": f"SELECT DISTINCT t.number, word, to_timestamp({at}) AS event_timestamp FROM trips AS t JOIN zones AS z ON t.number = z.number",
    }
    table = ask(place.repo, tmp_path, *features(*REFS), "--entity-sql", queries[place.name])
    assert sorted((row["number"], row["word"]) for row in table.to_pylist()) == sorted({(trip["number"], trip["word"]) for trip in place.trips})
    for row in table.to_pylist():
        trip = newest(place.trips, {"number": row["number"], "word": row["word"]}, START + timedelta(hours=3), TTL)
        assert (row["x"], row["rate"]) == (trip.get("ex"), trip.get("rate"))


def frame(numbers: list[int], **columns: Any) -> dict[str, list[Any]]:
    count = len(numbers)
    given: dict[str, list[Any]] = {
        "number": numbers,
        "word": ["new"] * count,
        "at": ["2026-03-01T05:00:00+01:00"] * count,
        "made": ["2026-03-01T05:00:00"] * count,
        "x": numbers,
        "rate": [0.5] * count,
    }
    return given | columns


def test_pushed_rows_are_there_whole_or_not_at_all(place: Place) -> None:
    before = len(place.stored_trips())
    with Thali.serve(place.repo) as thali:

        def push(df: dict[str, Any]) -> tuple[int, Any]:
            return harness.http("POST", f"{thali.url('online')}/push", {"push_source_name": "trips_push", "df": df, "to": "offline"})

        assert push(frame([7, 8]))[0] == 200
        added = [row for row in place.stored_trips() if row["word"] == "new"]
        assert sorted((row["number"], row["ex"], row["at"]) for row in added) == [(n, n, datetime(2026, 3, 1, 4, tzinfo=timezone.utc)) for n in (7, 8)]
        refused = [push({name: values for name, values in frame([9, 10]).items() if name != "rate"}), push(frame([9, 10], x=[9, "ten"]))]
        if place.of_tables:
            # A constraint that is broken by the last row.
            refused.append(push(frame([9, 10], x=[9, 666])))
        assert [status for status, _ in refused] == [422] * len(refused) or all(400 <= status < 500 for status, _ in refused), refused
        assert len(place.stored_trips()) == before + 2


def test_a_dataset_is_made_verified_and_compared(place: Place, tmp_path: Path) -> None:
    entities().to_parquet(tmp_path / "rows.parquet")

    def create(name: str, *more: object) -> None:
        where = ("--table", f'features."{name} rows"') if place.of_tables else ("--path", tmp_path / f"{name}.parquet")
        succeed(place.repo, "dataset", "create", name, *features(*REFS), "--entity-file", tmp_path / "rows.parquet", *where, *more)

    create("first")
    verdict = json.loads(succeed(place.repo, "dataset", "verify", "first", "--json"))
    assert verdict["same"] and verdict["stored"] == verdict["rebuilt"] and verdict["rebuilt"]["rows"] == 157
    create("second")
    assert run(place.repo, "dataset", "diff", "first", "second").returncode == 0
    again = run(place.repo, "dataset", "create", "first", *features(*REFS), "--entity-file", tmp_path / "rows.parquet", "--path", tmp_path / "x.parquet")
    assert again.returncode == 1 and "already exists" in again.stderr
    create("first", "--overwrite")
    if place.of_tables:
        with engine(place.url).begin() as connection:
            connection.execute(sqlalchemy.text('UPDATE features."second rows" SET rate = 99.5 WHERE label = 3'))
        done = run(place.repo, "dataset", "verify", "second", "--json")
        assert done.returncode == 2 and json.loads(done.stdout)["difference"]["rows"]["changed"] == 1, done.stdout
        # Feast's SDK reads it as its own.
        exported = succeed(place.repo, "export")
        assert "features.\"second rows\"" in exported.replace("\\", ""), exported
        with Thali.serve(place.repo) as thali:
            from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import SavedDatasetPostgreSQLStorage

            store = harness.sdk(thali, "places", tmp_path / "client")
            dataset = store.registry.get_saved_dataset("second", "places")
            assert isinstance(dataset.storage, SavedDatasetPostgreSQLStorage) and dataset.tags["thali.manifest.rows"] == "157"
            status, data = harness.http("GET", f"{thali.url('registry-rest')}/saved_datasets/data/second?project=places&limit=2")
            assert status == 200 and data["total_rows"] == 157 and len(data["rows"]) == 2, data


@pytest.mark.parametrize("place", ["postgres", "hybrid"], indirect=True)
def test_a_result_is_saved_where_the_server_is_told(place: Place, tmp_path: Path) -> None:
    """Feast's `persist` over Arrow Flight: the server joins, and saves at a source that is registered; of files, see `test_sdk`."""
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource, SavedDatasetPostgreSQLStorage

    asked = entities()
    with Thali.serve(place.repo) as thali:
        store = harness.sdk(thali, "places", tmp_path / "client")
        store.registry.apply_data_source(PostgreSQLSource(table="kept", timestamp_field="event_timestamp"), "places")
        job = store.get_historical_features(entity_df=asked, features=REFS)
        store.create_saved_dataset(from_=job, name="kept", storage=SavedDatasetPostgreSQLStorage("kept"), allow_overwrite=True)
    with engine(place.url).connect() as connection:
        kept = connection.execute(sqlalchemy.text("SELECT x, rate, z, weights FROM features.kept ORDER BY label")).mappings().all()
        comment = connection.execute(sqlalchemy.text("SELECT obj_description('features.kept'::regclass)")).scalar_one()
    for name, values in expected(place, asked).items():
        assert [row[name] for row in kept] == values, name
    verdict = json.loads(harness.succeed(place.repo, "dataset", "verify", "kept", "--json"))
    assert verdict["same"] and verdict["manifest"]["row_hash"] == json.loads(comment)["thali.manifest.row-hash"]


# --- another server ----------------------------------------------------------------------------------------------------------------


def remote(folder: Path, registry: str, port: int, more: str = "") -> Path:
    folder.mkdir()
    text = f"project: places\nprovider: local\nregistry: {registry}\nonline_store: {{type: sqlite, path: online.db}}\nentity_key_serialization_version: 3\n"
    (folder / "feature_store.yaml").write_text(text + f"offline_store: {{type: remote, host: 127.0.0.1, port: {port}{more}}}\n")
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def feast_server(repo: Path) -> Iterator[int]:
    """`feast serve_offline` itself."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repo), "serve_offline", "--port", str(port)]
    with open(repo / "feast.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=harness.environment(), cwd=repo)
    try:

        def listens() -> bool:
            assert process.poll() is None, (repo / "feast.log").read_text()
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return True

        harness.eventually(listens, "Feast's server listens")
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(kind: str, place: Place) -> Iterator[int]:
    if kind == "thali":
        with Thali.serve(place.repo) as thali:
            yield thali.port("offline")
    else:
        file = place.repo / "feature_store.yaml"
        file.write_text(file.read_text().replace("offline_store: {type: file}", f"offline_store: {{type: {kind}}}"))
        with feast_server(place.repo) as port:
            yield port


@pytest.mark.parametrize("kind", ["thali", "dask", "duckdb"])
def test_another_server_is_an_offline_store(kind: str, tmp_path: Path, postgres_url: str) -> None:
    # Of equal event times Feast's dask store takes any row.
    place = project(tmp_path / "repo", "hybrid" if kind == "thali" else "file", postgres_url, ties=kind != "dask")
    asked = entities()
    asked["home"] = list(reversed(asked["number"]))
    asked.to_parquet(tmp_path / "rows.parquet")
    with server(kind, place) as port:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", port)
        # Of rows that are there twice Feast's dask store gives one, and none without values.
        table = ask(repo, tmp_path, *features(*REFS), "--entity-file", tmp_path / "rows.parquet")
        check_features(table, place, asked)
        table = ask(repo, tmp_path, "--feature-service", "both", "--entity-file", tmp_path / "rows.parquet", "--full-feature-names")
        homes = [newest(place.zones, {"number": row["home"]}, row["event_timestamp"].to_pydatetime()).get("z") for row in asked.to_dict("records")]
        assert table["home__z"].to_pylist() == homes and table["trips__x"].to_pylist() == expected(place, asked)["x"]

        succeed(repo, "materialize", START.strftime("%Y-%m-%dT%H:%M:%S"), END.strftime("%Y-%m-%dT%H:%M:%S"))
        keys = [word for number in NUMBERS for word in ("-e", f"number={number}", "-e", "word=11")]
        online = json.loads(succeed(repo, "get-online-features", *keys, *features("trips:x", "zones:z")))
        assert online["x"] == [newest(place.trips, {"number": number, "word": "11"}, END).get("ex") for number in NUMBERS]
        assert online["z"] == [newest(place.zones, {"number": number}, END).get("z") for number in NUMBERS]

        # The server says what columns its sources have, also of sources that are not applied yet.
        columns = FILES["zones"] if kind != "thali" else TABLES["zones"]
        (repo / "definitions.yaml").write_text(VIEWS + FILES["trips"].replace("trips.parquet", f"{place.repo}/trips.parquet") + columns if kind != "thali" else (place.repo / "definitions.yaml").read_text())
        if kind == "thali":
            assert run(repo, "plan").returncode == 0
            (repo / "definitions.yaml").write_text((place.repo / "definitions.yaml").read_text().replace("at,", "never,"))
            planned = run(repo, "plan")
            assert planned.returncode == 1 and "no column `never`" in planned.stderr, planned.stderr

        before = len(place.stored_trips())
        with Thali.serve(repo) as thali:
            body = {"push_source_name": "trips_push", "df": frame([7, 8]), "to": "offline"}
            status, answer = harness.http("POST", f"{thali.url('online')}/push", body)
            assert status == 200, answer
            assert harness.http("GET", f"{thali.url('ui')}/ready")[0] == 200
        assert len(place.stored_trips()) == before + 2

        if kind == "thali":
            window = ("--start-date", START.isoformat(), "--end-date", (START + timedelta(hours=3)).isoformat())
            near, far = (ask(at, tmp_path, *features(*REFS), *window) for at in (place.repo, repo))
            assert near.column_names == far.column_names and ordered(near) == ordered(far) and near.num_rows > 50
            sql = "SELECT DISTINCT number, word, timestamptz '2026-03-01 03:00:00+00' AS event_timestamp FROM \"Big Trips\""
            near, far = (ask(at, tmp_path, *features(*REFS), "--entity-sql", sql) for at in (place.repo, repo))
            assert near.num_rows > 8 and ordered(near) == ordered(far)

        # A training set of its features lies here.
        where = ("--path", tmp_path / "kept.parquet")
        succeed(repo, "dataset", "create", "kept", *features(*REFS), "--entity-file", tmp_path / "rows.parquet", *where)
        assert json.loads(succeed(repo, "dataset", "verify", "kept", "--json"))["same"]

        # Leaving out what was created later than it is asked for is no part of Feast's protocol: its server passes over it.
        wanted = (*features("trips:x"), "--entity-file", tmp_path / "rows.parquet")
        early = (*wanted, "--filter-by-created-timestamp")
        if kind == "thali":
            first = asked.iloc[0]
            late = {"number": int(first["number"]), "word": first["word"], "at": first["event_timestamp"].to_pydatetime()}
            with engine(place.url).begin() as connection:
                insert = "INSERT INTO features.\"Big Trips\" VALUES (:number, :word, :at, '2030-01-01 00:00:00+00', 7777, 0.5)"
                connection.execute(sqlalchemy.text(insert), late)
            assert 7777 in ask(repo, tmp_path, *wanted)["x"].to_pylist()
            near, far = (ask(at, tmp_path, *early)["x"].to_pylist() for at in (place.repo, repo))
            assert near == far and 7777 not in far and any(far)
        else:
            done = run(repo, "get-historical-features", *early)
            assert done.returncode != 0 and "when they were created" in done.stderr, done.stderr


TOKEN = "s3cret-token"


class Tokens(flight.ServerMiddlewareFactory):
    """Lets in who has the token."""

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> None:
        if headers.get("authorization") != [f"Bearer {TOKEN}"]:
            raise flight.FlightUnauthenticatedError("no token, no rows")


class Backwards(flight.FlightServerBase):
    """An offline server whose rows come last first, and some not at all: as far as that goes, Feast's dask store."""

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.command = json.loads(descriptor.command)
        sent = reader.read_all()
        self.sent = sent
        keep = [row for row in reversed(range(sent.num_rows)) if sent["number"][row].as_py() != 5]
        table = sent.take(keep)
        table = table.append_column("trips__x", pa.compute.multiply(table["number"], 2))
        writer.begin(table.schema)
        for start in range(0, table.num_rows, 10):
            writer.write_table(table.slice(start, 10))


def test_rows_in_any_order_over_tls_with_a_token(tmp_path: Path, postgres_url: str) -> None:
    place = project(tmp_path / "repo", "file", postgres_url)
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    asked = entities()
    asked.to_parquet(tmp_path / "rows.parquet")
    words = ("get-historical-features", *features("trips:x"), "--entity-file", tmp_path / "rows.parquet", "-o", tmp_path / "answer.parquet")
    options: dict[str, Any] = {"tls_certificates": [(cert.read_bytes(), key.read_bytes())], "middleware": {"tokens": Tokens()}}
    with Backwards("grpc+tls://127.0.0.1:0", **options) as far:
        repo = remote(tmp_path / "client", f"{place.repo}/registry.db", far.port, f", scheme: https, cert: {cert}")
        done = run(repo, *words)
        assert done.returncode != 0 and "`thali.offline_token`" in done.stderr, done.stderr
        succeed(repo, *words, env=harness.environment(THALI_OFFLINE_TOKEN=TOKEN))
        assert far.command["feature_refs"] == ["trips:x"] and far.command["full_feature_names"] is True
        # Each key and time is sent once, and nothing that is no key.
        assert far.sent.column_names == ["number", "word", "event_timestamp", "thali_row"] and far.sent.num_rows == 150
    table = pq.read_table(tmp_path / "answer.parquet")
    assert table["label"].to_pylist() == list(range(157))
    assert table["x"].to_pylist() == [None if number == 5 else 2 * number for number in asked["number"]]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("{type: hybrid}", "`offline_store.offline_stores` is missing"),
        ("{type: hybrid, offline_stores: []}", "at least one store"),
        ("{type: hybrid, offline_stores: [{type: bigquery, conf: {}}]}", "offline store type `bigquery` is not supported"),
        ("{type: hybrid, offline_stores: [{type: remote, conf: {host: x}}]}", "offline store `remote` cannot be one of several"),
        ("{type: hybrid, offline_stores: [{type: hybrid, conf: {}}]}", "offline store `hybrid` cannot be one of several"),
        ("{type: hybrid, offline_stores: [{type: dask, conf: {}}, {type: duckdb, conf: {}}]}", "two stores of files, `dask` and `duckdb`"),
        ("{type: hybrid, offline_stores: [{type: postgres, conf: {host: x}}]}", "needs `database`"),
        ("{type: hybrid, offline_stores: [{type: postgres, conf: {hots: x}}]}", "unknown key"),
        ("{type: remote}", "needs `host`"),
        ("{type: remote, host: x, scheme: ftp}", "scheme"),
        ("{type: remote, host: x, scheme: https, cert: none.pem}", "none.pem"),
    ],
)
def test_sections_that_make_no_sense_are_refused(section: str, says: str, tmp_path: Path) -> None:
    text = f"project: places\nprovider: local\nregistry: registry.db\nonline_store: {{type: sqlite, path: online.db}}\noffline_store: {section}\n"
    (tmp_path / "feature_store.yaml").write_text(text)
    (tmp_path / "definitions.yaml").write_text("entities: [{name: driver, join_key: id, value_type: Int64}]\n")
    done = run(tmp_path, "apply")
    assert done.returncode == 1 and says in done.stderr, done.stderr
