"""Online stores in SQL servers: what stock Feast's SDK writes there thali serves equal, and the reverse; whatever the time zone, and
after the server was gone for a moment.

Feast and thali have one folder between them: the same feature_store.yaml, the same registry, the same tables.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness
import servers
from harness import Thali

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
FEATURES = ["rate", "share", "trips", "seats", "name", "good", "seen", "marks", "words"]
REFS = [f"stats:{name}" for name in FEATURES]
DRIVERS = [1, 2, 3, 99]
ROWS = {
    "driver_id": [1, 2, 3],
    "rate": [0.1, float("nan"), -2.5e300],
    "share": [0.3, 1.5, 0.0],
    "trips": [2**62, -1, 0],
    "seats": [4, 5, 6],
    "name": ["plain", "it's \"odd\" \\ `ü` 漢", ""],
    "good": [True, False, True],
    "seen": [NOW, NOW - timedelta(days=400), NOW],
    "marks": [[1.5, 2.5], [], [3.25]],
    "words": [["a", "b"], ["ü"], []],
}


@dataclass
class Place:
    """A database for the tables, with the server it is in."""

    server: servers.Database
    url: str
    #: How precise times are, in microseconds.
    precision: int

    def section(self) -> str:
        url = urlsplit(self.url)
        keys = {"host": url.hostname, "port": url.port, "user": url.username, "database": url.path[1:]}
        kind = "mysql" if isinstance(self.server, servers.MariaDb) else "postgres\n  sslmode: disable"
        lines = "".join(f"  {key}: {value}\n" for key, value in keys.items())
        return f"online_store:\n  type: {kind}\n{lines}  password: '{unquote(url.password or '')}'\n"

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(statement))]

    def run(self, statement: str) -> None:
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement))


@pytest.fixture(params=["postgres", "mariadb"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server = request.getfixturevalue(request.param)
    with server.database() as url:
        yield Place(server, url, 1 if request.param == "postgres" else 1_000_000)


@dataclass
class Repo:
    """A folder that both serve from, applied by Feast."""

    folder: Path
    store: Any = field(default=None)

    @classmethod
    def create(cls, folder: Path, place: Place) -> "Repo":
        folder.mkdir()
        text = "project: sqlstores\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\nentity_key_serialization_version: 3\n"
        (folder / "feature_store.yaml").write_text(text + place.section())
        times = {"event_timestamp": pa.array([NOW] * 3, pa.timestamp("us", tz="UTC")), "created": pa.array([NOW] * 3, pa.timestamp("us", tz="UTC"))}
        pq.write_table(pa.table({name: pa.array(values) for name, values in ROWS.items()} | times), folder / "stats.parquet")
        repo = cls(folder)
        repo.reopen()
        repo.apply()
        return repo

    def reopen(self) -> None:
        """Feast with connections of its own."""
        from feast import FeatureStore

        self.store = FeatureStore(repo_path=str(self.folder))

    def apply(self) -> None:
        from feast import Entity, FeatureView, Field, FileSource, ValueType
        from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

        types = [Float64, Float32, Int64, Int32, String, Bool, UnixTimestamp, Array(Float64), Array(String)]
        driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
        source = FileSource(name="stats_file", path=str(self.folder / "stats.parquet"), timestamp_field="event_timestamp", created_timestamp_column="created")
        schema = [Field(name="driver_id", dtype=Int64), *(Field(name=name, dtype=dtype) for name, dtype in zip(FEATURES, types, strict=True))]
        self.store.apply([driver, FeatureView(name="stats", entities=[driver], schema=schema, source=source, ttl=timedelta(0))])

    def feast_writes(self, when: datetime, **changes: list[Any]) -> None:
        frame = pd.DataFrame(ROWS | changes)
        frame["event_timestamp"] = [when] * len(frame)
        frame["created"] = [when] * len(frame)
        self.store.write_to_online_store("stats", frame)

    def feast_reads(self) -> dict[str, list[Any]]:
        rows = [{"driver_id": driver} for driver in DRIVERS]
        return self.store.get_online_features(REFS, rows).to_dict()


def thali_writes(thali: Thali, when: datetime, **changes: list[Any]) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return "NaN" if isinstance(value, float) and value != value else value

    columns = {name: [plain(value) for value in values] for name, values in (ROWS | changes).items()}
    count = len(columns["driver_id"])
    columns |= {"event_timestamp": [when.isoformat()] * count, "created": [when.isoformat()] * count}
    status, answer = harness.http("POST", f"{thali.url('online')}/write-to-online-store", {"feature_view_name": "stats", "df": columns})
    assert status == 200, answer


def thali_reads(thali: Thali) -> dict[str, Any]:
    status, answer = harness.http("POST", f"{thali.url('online')}/get-online-features", {"features": REFS, "entities": {"driver_id": DRIVERS}})
    assert status == 200, answer
    return answer


def plain(column: list[Any]) -> list[Any]:
    """Values of the SDK as JSON has them."""

    def one(value: Any) -> Any:
        if isinstance(value, datetime):
            return int((value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp())
        if isinstance(value, float) and value != value:
            return "NaN"
        return value

    return [one(value) for value in column]


def columns(answer: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: column["values"] for name, column in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)}


def times(answer: dict[str, Any]) -> set[str]:
    return {column["event_timestamps"][0] for column in answer["results"][1:]}


def assert_equal(ours: dict[str, list[Any]], feasts: dict[str, list[Any]]) -> None:
    assert {name: plain(values) for name, values in ours.items()} == {name: plain(values) for name, values in feasts.items()}


def test_what_feast_wrote_is_served_equal(place: Place, tmp_path: Path) -> None:
    repo = Repo.create(tmp_path / "repo", place)
    when = NOW + timedelta(microseconds=123_456)
    repo.feast_writes(when)
    with Thali.serve(repo.folder) as thali:
        answer = thali_reads(thali)
        assert_equal(columns(answer), repo.feast_reads())
        assert columns(answer)["name"] == [*ROWS["name"], None]
        assert times(answer) == {"2026-03-01T12:00:00.123456Z" if place.precision == 1 else "2026-03-01T12:00:00Z"}
        # A row of Feast's is not gone behind, one that corrects it is taken.
        thali_writes(thali, NOW - timedelta(hours=1), trips=[7, 7, 7])
        assert columns(thali_reads(thali))["trips"] == [*ROWS["trips"], None]
        thali_writes(thali, when, trips=[8, 8, 8])
        assert columns(thali_reads(thali))["trips"] == [8, 8, 8, None]


def test_what_thali_wrote_is_read_equal(place: Place, tmp_path: Path) -> None:
    from feast import FeatureStore

    repo = Repo.create(tmp_path / "repo", place)
    with Thali.serve(repo.folder) as thali:
        thali_writes(thali, NOW)
        written = columns(thali_reads(thali))
        assert_equal(written, repo.feast_reads())
        ours = place.rows("SELECT * FROM sqlstores_stats ORDER BY entity_key, feature_name")
        assert len(ours) == 3 * len(FEATURES)
        # The rows themselves are those that Feast writes, byte for byte.
        repo.feast_writes(NOW)
        assert place.rows("SELECT * FROM sqlstores_stats ORDER BY entity_key, feature_name") == ours
        # Materialized by thali, read by Feast that knows nothing else.
        thali.succeed("materialize", "2026-02-28T00:00:00", "2026-03-02T00:00:00")
        assert_equal(columns(thali_reads(thali)), FeatureStore(repo_path=str(repo.folder)).get_online_features(REFS, [{"driver_id": d} for d in DRIVERS]).to_dict())


def test_times_are_utc_whatever_the_time_zone_of_the_database(place: Place, tmp_path: Path) -> None:
    repo = Repo.create(tmp_path / "repo", place)
    name = urlsplit(place.url).path[1:]
    if isinstance(place.server, servers.Postgres):
        place.server.execute("ALTER ROLE thali SET timezone = 'America/New_York'")
        place.server.execute(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
        stored = "SELECT DISTINCT extract(epoch FROM event_ts)::bigint, extract(epoch FROM created_ts)::bigint FROM sqlstores_stats"
    else:
        place.server.execute("SET GLOBAL time_zone = '-05:00'")
        stored = "SELECT DISTINCT UNIX_TIMESTAMP(event_ts), UNIX_TIMESTAMP(created_ts) FROM sqlstores_stats"
    try:
        with Thali.serve(repo.folder) as thali:
            thali_writes(thali, NOW)
            assert times(thali_reads(thali)) == {"2026-03-01T12:00:00Z"}
            seconds = int(NOW.timestamp())
            assert place.rows(stored) == [(seconds, seconds)]
            repo.reopen()
            assert_equal(columns(thali_reads(thali)), repo.feast_reads())
    finally:
        if isinstance(place.server, servers.Postgres):
            place.server.execute("ALTER ROLE thali RESET timezone")
        else:
            place.server.execute("SET GLOBAL time_zone = 'SYSTEM'")


DOCS = {"doc_id": [1, 2, 3, 4], "place": [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 1.0]], "title": ["one", "two", "three", "four"]}


def apply_docs(folder: Path, online_store: str) -> Any:
    """A view of documents with a vector, applied by stock Feast, whose store it answers."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Float32, Int64, String

    folder.mkdir()
    text = "project: sqlstores\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\nentity_key_serialization_version: 3\n"
    (folder / "feature_store.yaml").write_text(text + online_store)
    doc = Entity(name="doc", join_keys=["doc_id"], value_type=ValueType.INT64)
    fields = [Field(name="doc_id", dtype=Int64), Field(name="place", dtype=Array(Float32), vector_index=True), Field(name="title", dtype=String)]
    source = FileSource(name="docs_file", path=str(folder / "docs.parquet"), timestamp_field="event_timestamp")
    table = {name: pa.array(values) for name, values in DOCS.items()} | {"event_timestamp": pa.array([NOW] * 4, pa.timestamp("us", tz="UTC"))}
    pq.write_table(pa.table(table), folder / "docs.parquet")
    store = FeatureStore(repo_path=str(folder))
    store.apply([doc, FeatureView(name="docs", entities=[doc], schema=fields, source=source, ttl=timedelta(0))])
    return store


def write_docs(thali: Thali) -> None:
    body = {"feature_view_name": "docs", "df": DOCS | {"event_timestamp": [NOW.isoformat()] * 4}}
    status, answer = harness.http("POST", f"{thali.url('online')}/write-to-online-store", body)
    assert status == 200, answer


def searches_find(thali: Thali) -> None:
    """Rows come best first, and each column's values belong to the same rows."""

    def search(**body: Any) -> dict[str, list[Any]]:
        body = {"features": ["docs:title", "docs:place"], "top_k": 2, "api_version": 2} | body
        status, answer = harness.http("POST", f"{thali.url('online')}/search", body)
        assert status == 200, answer
        return {name: result["values"] for name, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)}

    near = search(query=[3.1, 1.0], distance_metric="L2")
    assert (near["title"], near["doc_id"], near["place"]) == (["three", "four"], [3, 4], [[3.0, 1.0], [4.0, 1.0]])
    assert near["distance"] == pytest.approx([0.1, 0.9], rel=1e-4)
    # What does not meet the condition is left out before the best are picked.
    filtered = search(query=[3.1, 1.0], distance_metric="L2", filters={"type": "ne", "key": "title", "value": "three"})
    assert filtered["title"] == ["four", "two"] and filtered["doc_id"] == [4, 2]
    # The older answer has nothing but the vectors, as text.
    assert search(query=[3.1, 1.0], api_version=1) == {"place": ["[3,1]", "[4,1]"]}
    words = search(query_string="two")
    assert (words["title"], words["doc_id"]) == (["two"], [2])


def test_vectors_that_thali_wrote_are_found_by_feast(pgvector: servers.Pgvector, tmp_path: Path) -> None:
    with pgvector.database() as url:
        place = Place(pgvector, url, 1)
        folder = tmp_path / "repo"
        place.run("CREATE EXTENSION vector")  # Feast leaves that to its user
        store = apply_docs(folder, place.section() + "  vector_enabled: true\n  enable_openai_compatible_store: true\n  db_schema: vectors\n")
        with Thali.serve(folder) as thali:
            write_docs(thali)
            stored = "SELECT value_text, value_num, vector_value::text, event_ts FROM vectors.sqlstores_docs ORDER BY entity_key, feature_name"
            ours = place.rows(stored)
            asked = {"features": ["docs:title", "docs:place"], "top_k": 1, "query": [3.1, 1.0]}
            assert store.retrieve_online_documents_v2(**asked).to_dict()["title"] == ["three"]
            searches_find(thali)
            store.write_to_online_store("docs", pd.DataFrame(DOCS | {"event_timestamp": [NOW] * 4}))
            assert place.rows(stored) == ours and len(ours) == 8


def test_searches_on_sqlite(tmp_path: Path) -> None:
    apply_docs(tmp_path / "repo", "online_store: {type: sqlite, path: online.db}\n")
    yaml = tmp_path / "repo/feature_store.yaml"
    yaml.write_text(yaml.read_text().replace("path: online.db", "path: online.db, vector_enabled: true, text_search_enabled: true"))
    with Thali.serve(tmp_path / "repo") as thali:
        write_docs(thali)
        searches_find(thali)


ITEMS = {
    "item_id": [1, 2, 3, 4],
    "title": ["Running shoes", "walk", "Café table", "red running table"],
    "body": ["for runners who run", "walking shoes", "a table", "run"],
    "price": [10.0, 20.0, 30.0, 40.0],
    "sold": [True, False, True, False],
    "place": [[1.0, 1.0]] * 4,
}
QUERIES = ["run", "RUNNING", "shoes", "shoes OR table", "cafe", "run AND table", "walk shoes", '"red running"', "tab*", "title:running", "run NOT red", "nothing"]


def test_texts_on_sqlite_are_searched_as_feast_does(tmp_path: Path) -> None:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Bool, Float32, Float64, Int64, String

    text = "project: sqlstores\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\nentity_key_serialization_version: 3\n"
    store = "online_store: {type: sqlite, path: online.db, text_search_enabled: true, enable_openai_compatible_store: true}\n"
    (tmp_path / "feature_store.yaml").write_text(text + store)
    types = {"item_id": Int64, "title": String, "body": String, "price": Float64, "sold": Bool}
    items = FeatureView(
        name="items",
        entities=[Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)],
        # Feast searches no view without a vector, not even for words.
        schema=[*(Field(name=name, dtype=dtype) for name, dtype in types.items()), Field(name="place", dtype=Array(Float32), vector_index=True)],
        source=FileSource(name="items", path="nowhere.parquet", timestamp_field="event_timestamp"),
    )
    feast = FeatureStore(repo_path=str(tmp_path))
    feast.registry.apply_entity(Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64), "sqlstores", commit=False)
    feast.registry.apply_feature_view(items, "sqlstores")
    rows = "SELECT entity_key, feature_name, value, value_text, value_num, event_ts FROM sqlstores_items ORDER BY 1, 2"
    with Thali.serve(tmp_path) as thali:
        url = thali.url("online")
        frame = ITEMS | {"event_timestamp": [NOW.isoformat()] * 4}
        # thali makes the table, with the column Feast keeps numbers in.
        status, answer = harness.http("POST", f"{url}/write-to-online-store", {"feature_view_name": "items", "df": frame})
        assert status == 200, answer
        with sqlite3.connect(tmp_path / "online.db") as database:
            ours = database.execute(rows).fetchall()
            feast.write_to_online_store("items", pd.DataFrame(ITEMS | {"event_timestamp": [NOW] * 4}))
            assert database.execute(rows).fetchall() == ours and len(ours) == 20
        for query in QUERIES:
            # Feast's index grows with every search, so that few results could be all the same one.
            asked = {"features": ["items:title", "items:price"], "query_string": query, "top_k": 1000}
            theirs = feast.retrieve_online_documents_v2(query=None, **asked).to_dict()
            status, answer = harness.http("POST", f"{url}/search", asked | {"api_version": 2})
            assert status == 200, answer
            found = dict(zip(answer["metadata"]["feature_names"], (column["values"] for column in answer["results"])))
            assert sorted(zip(found["title"], found["price"])) == sorted(zip(theirs["title"], theirs["price"])), query
            assert found["text_rank"] == sorted(found["text_rank"], reverse=True)
            assert [ITEMS["title"][item - 1] for item in found["item_id"]] == found["title"]
        # Whoever just writes words gets what has all of them.
        status, answer = harness.http("POST", f"{url}/search", asked | {"api_version": 2, "query_string": "who's running? (shoes)"})
        assert status == 200 and answer["results"][0]["values"] == [], answer
        status, answer = harness.http("POST", f"{url}/search", asked | {"api_version": 2, "query_string": "who: running? (shoes)"})
        assert status == 200 and answer["results"][0]["values"] == ["Running shoes"], answer


@contextmanager
def load(ask: Callable[[], tuple[int, Any]], clients: int = 8) -> Iterator[list[tuple[float, float, int, Any]]]:
    """Asks again and again, from several threads: when each request began, when it ended, its status and its answer."""
    answers: list[tuple[float, float, int, Any]] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            began = time.monotonic()
            status, answer = ask()
            answers.append((began, time.monotonic(), status, answer))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_server_that_was_gone_is_used_again_within_two_seconds(place: Place, tmp_path: Path, how: str) -> None:
    repo = Repo.create(tmp_path / "repo", place)
    with Thali.serve(repo.folder) as thali:
        thali_writes(thali, NOW)
        expected = thali_reads(thali)
        body = {"features": REFS, "entities": {"driver_id": DRIVERS}}
        url = f"{thali.url('online')}/get-online-features"
        with load(lambda: harness.http("POST", url, body)) as answers:
            harness.eventually(lambda: len(answers) > 100, "answers")
            getattr(place.server, how)()
            gone = time.monotonic()
            harness.eventually(lambda: sum(status == 503 for _, _, status, _ in answers) > 20, "clear refusals")
            status, answer = harness.http("GET", f"{thali.url('online')}/ready")
            assert status == 503, answer
            place.server.start()
            back = time.monotonic()
            harness.eventually(lambda: any(began > back and status == 200 for began, _, status, _ in answers), "answers again", 2.0)
            first = min(ended for began, ended, status, _ in answers if began > back and status == 200)
            count = len(answers)
            harness.eventually(lambda: len(answers) > count + 200, "more answers")
        assert first - back < 2
        assert {status for _, _, status, _ in answers} == {200, 503}
        # No answer is wrong, none is late, and from two seconds after the return on all are right.
        assert all(answer == expected for _, _, status, answer in answers if status == 200)
        assert max(ended - began for began, ended, _, _ in answers) < 5
        assert all(status == 200 for began, _, status, _ in answers if began > back + 2)
        refusals = {str(answer) for _, _, status, answer in answers if status == 503}
        assert all("online store" in refusal and servers.PASSWORD not in refusal for refusal in refusals), refusals
        assert gone < back
        thali_writes(thali, NOW, trips=[1, 2, 3])
        assert columns(thali_reads(thali))["trips"] == [1, 2, 3, None]
        status, _ = harness.http("GET", f"{thali.url('online')}/ready")
        assert status == 200
