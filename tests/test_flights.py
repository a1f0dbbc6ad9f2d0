"""Real data: the 336,776 flights of the demo project, joined with weather and planes.

The training rows are compared with a brute-force join (`flights/brute_force.py`), every one of them;
so is stock Feast, which shows that the brute force follows Feast's rules. What is served online after
a materialization up to a moment is compared with the brute force at that moment.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness
from brute_force import View, join, microseconds
from harness import FLIGHTS, Thali

TTL = timedelta(hours=2)
FEATURES = {
    "weather": ["local_time", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"],
    "planes": ["year", "type", "manufacturer", "model", "engines", "seats", "speed", "engine"],
}
REFERENCES = [f"{view}:{feature}" for view, features in FEATURES.items() for feature in features]
KEYS = {"weather": "origin", "planes": "tailnum"}


def facts(name: str) -> pa.Table:
    return pq.read_table(FLIGHTS / f"data/{name}.parquet")


def view(name: str, ttl: timedelta) -> View:
    return View(name, facts(name), KEYS[name], FEATURES[name], ttl)


@pytest.fixture(scope="session")
def flights() -> pa.Table:
    return facts("flights")


@pytest.fixture(scope="session")
def expected(flights: pa.Table) -> dict[str, list[Any]]:
    """What the join has to answer: feature → one value per flight."""
    times = microseconds(flights["event_timestamp"])
    columns: dict[str, list[Any]] = {}
    for name, ttl in {"weather": TTL, "planes": timedelta(0)}.items():
        answers = join(flights[KEYS[name]].to_pylist(), times, view(name, ttl))
        for position, feature in enumerate(FEATURES[name]):
            columns[feature] = [None if answer is None else answer[position] for answer in answers]
    return columns


@pytest.fixture(scope="module")
def thali(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thali]:
    repo = harness.copy_flights(tmp_path_factory.mktemp(f"flights-{layout}"))
    harness.succeed(repo, "apply")
    with Thali.serve(repo, layout) as thali:
        yield thali


@pytest.fixture(scope="module")
def store(thali: Thali, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return harness.sdk(thali, "flights", tmp_path_factory.mktemp("client"))


def assert_join(answer: pa.Table, flights: pa.Table, expected: dict[str, list[Any]]) -> None:
    assert answer.num_rows == flights.num_rows
    for name in flights.column_names:  # every entity row once, unchanged and in its place
        assert plain(answer[name]) == plain(flights[name]), name
    for name, values in expected.items():
        got = plain(answer[name])
        wrong = [row for row, (a, b) in enumerate(zip(got, values)) if a != b]
        assert not wrong, f"{name}: {len(wrong)} rows differ, first row {wrong[0]}: {got[wrong[0]]!r}, not {values[wrong[0]]!r}"


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Python values: times as µs, and NaN, which pandas makes of a missing number on the way, as None."""
    if pa.types.is_timestamp(column.type):
        return microseconds(column)
    return [None if value != value else value for value in column.to_pylist()]


def test_the_data_is_what_it_says(flights: pa.Table, expected: dict[str, list[Any]]) -> None:
    """The numbers that make these flights a test: without such rows, the comparison would prove little."""
    assert flights.num_rows == 336_776
    assert flights["tailnum"].null_count == 2_512
    assert sum(value is None for value in expected["local_time"]) == 973, "no observation within the ttl"
    assert sum(value is None for value in expected["engine"]) == 52_606, "no tail number, or not in the register"
    assert min(microseconds(facts("planes")["event_timestamp"])) < 0, "a plane that was built before 1970"
    repeated = [time for time in facts("weather")["local_time"].to_pylist() if time == "2013-11-03 01:00"]
    assert len(repeated) == 6, "the hour that the clock change repeats, at three airports"


def test_stock_feast_agrees_with_the_brute_force(flights: pa.Table, expected: dict[str, list[Any]], tmp_path: Path) -> None:
    from feast import Entity, FeatureStore, FeatureView, FileSource, ValueType

    (tmp_path / "feature_store.yaml").write_text(
        "project: flights\nprovider: local\nregistry: registry.db\n"
        "online_store: {type: sqlite, path: online.db}\noffline_store: {type: duckdb}\nentity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(tmp_path))
    for name, ttl in {"weather": TTL, "planes": timedelta(0)}.items():
        entity = Entity(name=KEYS[name], value_type=ValueType.STRING)
        source = FileSource(name=f"{name}_file", path=str(FLIGHTS / f"data/{name}.parquet"), timestamp_field="event_timestamp")
        store.apply([entity, source, FeatureView(name=name, entities=[entity], ttl=ttl, source=source)])
    # duckdb answers in no particular order, so the rows carry their number.
    rows = flights.append_column("row", pa.array(range(flights.num_rows)))
    answer = store.get_historical_features(rows.to_pandas(), REFERENCES).to_arrow().sort_by("row")
    assert_join(answer, flights, expected)


def test_every_training_row_equals_the_brute_force(store: Any, flights: pa.Table, expected: dict[str, list[Any]]) -> None:
    answer = store.get_historical_features(flights.to_pandas(), REFERENCES).to_arrow()
    assert answer.column_names == flights.column_names + list(expected)
    assert_join(answer, flights, expected)


def test_a_feature_service_and_full_names(store: Any, flights: pa.Table, expected: dict[str, list[Any]]) -> None:
    some = flights.slice(100_000, 1_000)
    service = store.get_feature_service("departure_delay")
    answer = store.get_historical_features(some.to_pandas(), service, full_feature_names=True).to_arrow()
    names = {f"weather__{name}": name for name in FEATURES["weather"]} | {f"planes__{name}": name for name in ("year", "seats", "engines")}
    assert set(answer.column_names) == set(some.column_names) | set(names)
    assert_join(answer, some, {full: expected[name][100_000:101_000] for full, name in names.items()})


SQL = "SELECT origin, event_timestamp FROM weather_hourly WHERE origin = 'JFK' AND wind_gust IS NOT NULL ORDER BY event_timestamp LIMIT 500"


def gusts() -> list[float]:
    """What that query has to be answered: the rows' own values."""
    rows = facts("weather").sort_by("event_timestamp").to_pylist()
    return [row["wind_gust"] for row in rows if row["origin"] == "JFK" and row["wind_gust"] is not None][:500]


def test_entity_rows_are_a_query_over_the_sources(store: Any) -> None:
    answer = store.get_historical_features(SQL, ["weather:wind_gust"]).to_arrow()
    assert answer.column_names == ["origin", "event_timestamp", "wind_gust"]
    assert plain(answer["wind_gust"]) == gusts()
    with pytest.raises(Exception, match="`pg_catalog.pg_class`, which is no data source"):
        store.get_historical_features("SELECT * FROM pg_catalog.pg_class", ["weather:wind_gust"]).to_arrow()


def test_the_command_takes_a_query_and_writes_a_file(tmp_path: Path) -> None:
    repo = harness.copy_flights(tmp_path / "repo")
    harness.succeed(repo, "apply")
    output = tmp_path / "answer.parquet"
    told = harness.succeed(repo, "get-historical-features", "--entity-sql", SQL, "-f", "weather:wind_gust", "-o", output)
    assert told == f"Wrote 500 rows to {output}\n"
    assert plain(pq.read_table(output)["wind_gust"]) == gusts()
    refused = harness.run(repo, "get-historical-features", "--entity-sql", SQL, "-f", "weather:wind_gust", "--filter-by-created-timestamp")
    assert refused.returncode == 1 and "has no created timestamp column" in refused.stderr, refused.stderr


def test_on_demand_features_follow_from_stored_ones(store: Any, flights: pa.Table, expected: dict[str, list[Any]]) -> None:
    some = flights.slice(200_000, 500)
    references = ["weather:temp", "planes:year", "conditions:temp_celsius", "conditions:plane_age"]
    answer = store.get_historical_features(some.to_pandas(), references).to_arrow()
    temp, year = (expected[name][200_000:200_500] for name in ("temp", "year"))
    celsius = [None if value is None else pytest.approx((value - 32) * 5 / 9) for value in temp]
    assert plain(answer["temp_celsius"]) == celsius
    assert plain(answer["plane_age"]) == [None if value is None else 2013 - value for value in year]


MOMENTS = [
    datetime(2013, 3, 10, 7, 30, tzinfo=timezone.utc),  # in the hour that the spring clock change skips
    datetime(2013, 7, 4, 12, 0, tzinfo=timezone.utc),  # exactly at an observation
    datetime(2013, 11, 3, 6, 59, 59, tzinfo=timezone.utc),  # in the hour that the autumn clock change repeats
    datetime(2014, 1, 1, 5, 0, tzinfo=timezone.utc),  # a day after the last observation
]


def test_online_values_equal_the_join_at_that_moment(layout: str, flights: pa.Table, tmp_path: Path) -> None:
    """Materialize up to a moment, then ask for every airport and a sample of planes.

    An online read does not apply the ttl (Feast's rule), so the expected values are those of the join
    without it; the last moment is beyond the ttl of every observation.
    """
    repo = harness.copy_flights(tmp_path)
    harness.succeed(repo, "apply")
    tails = sorted({tail for tail in flights["tailnum"].to_pylist() if tail})[::10] + ["N0NE"]
    keys = {"weather": ["EWR", "JFK", "LGA"], "planes": tails}
    with Thali.serve(repo, layout) as thali:
        store = harness.sdk(thali, "flights", tmp_path / "client")
        start = "1950-01-01T00:00:00"
        for turn, moment in enumerate(MOMENTS):
            end = moment.strftime("%Y-%m-%dT%H:%M:%S")
            match turn % 3:
                case 0:
                    thali.succeed("materialize", start, end)
                case 1:
                    status, answer = harness.http("POST", f"{thali.url('online')}/materialize", {"start_ts": start, "end_ts": end})
                    assert status == 200, answer
                case _:
                    thali.succeed("materialize-incremental", end)
            for name, entities in keys.items():
                references = [f"{name}:{feature}" for feature in FEATURES[name]]
                at = join(entities, [int(moment.timestamp()) * 1_000_000] * len(entities), view(name, timedelta(0)))
                expected = {f: [None if row is None else row[i] for row in at] for i, f in enumerate(FEATURES[name])}
                answer = store.get_online_features(references, [{KEYS[name]: key} for key in entities]).to_dict()
                assert answer == {KEYS[name]: entities} | expected, f"{name} at {moment}"
