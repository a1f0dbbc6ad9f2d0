"""The data behind `repo/`: small, deterministic, and with the cases a join or a materialization can get wrong.

Times are relative to NOW, which is fixed: gaps longer than a ttl, facts at exactly the same time with different created
times, facts that come late, nulls in keys and values.
"""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
UTC = pa.timestamp("us", tz="UTC")


def hours(count: float) -> datetime:
    return NOW - timedelta(hours=count)


def drivers() -> pa.Table:
    rows = [
        # driver, event, created, conv_rate, acc_rate, trips, name
        (1001, hours(30), hours(30), 0.1, 0.5, 10, "ann"),
        (1001, hours(5), hours(5), 0.2, 0.25, 11, "ann"),
        (1001, hours(5), hours(4), 0.3, 0.125, 12, "anne"),  # corrected later: wins the tie
        (1001, hours(1), hours(1), 0.4, None, None, None),  # the newest, with nulls
        (1002, hours(2), hours(2), 0.5, 1.5, 2**40, "bób"),
        (1002, hours(3), hours(1), 0.6, 2.5, 20, "late"),  # arrived after a newer one: loses
        (1003, hours(70), hours(70), 0.7, float("inf"), -5, ""),  # beyond the ttl
        (1004, hours(24), hours(24), 0.8, 3.5, 0, "edge"),  # exactly ttl before NOW
    ]
    names = ["driver_id", "event_timestamp", "created", "conv_rate", "acc_rate", "trips", "driver_name"]
    types = [pa.int64(), UTC, UTC, pa.float32(), pa.float64(), pa.int64(), pa.string()]
    return table(names, types, rows)


def customers() -> pa.Table:
    rows = [
        ("c1", hours(40), 33, True),
        ("c1", hours(10), 34, False),
        ("c2", hours(10), None, True),
        ("ç3", hours(1), 18, None),
    ]
    return table(["customer_id", "ts", "age_years", "member"], [pa.string(), UTC, pa.int32(), pa.bool_()], rows)


def pairs() -> pa.Table:
    rows = [
        (1001, "c1", hours(9), 3, 1.5),
        (1001, "c2", hours(8), 4, 2.5),
        (1002, "c1", hours(7), 5, 3.5),
    ]
    names = ["driver_id", "customer_id", "event_timestamp", "rides", "spent"]
    return table(names, [pa.int64(), pa.string(), UTC, pa.int64(), pa.float64()], rows)


def city() -> pa.Table:
    rows = [(hours(20), 1.0, "calm"), (hours(2), 2.0, "rush")]
    return table(["event_timestamp", "surge", "mood"], [UTC, pa.float64(), pa.string()], rows)


def zones() -> pa.Table:
    """A column of each type that Feast 0.67 can carry from Parquet to the online store."""
    columns = {
        "zone": pa.array([1, 2], pa.int32()),
        "event_timestamp": pa.array([hours(6), hours(6)], UTC),
        "f_int32": pa.array([-7, None], pa.int32()),
        "f_int64": pa.array([2**53 + 1, None], pa.int64()),
        "f_float": pa.array([0.1, None], pa.float32()),
        "f_double": pa.array([0.1, None], pa.float64()),
        "f_string": pa.array(["héllo", None], pa.string()),
        "f_bytes": pa.array([b"\x00\xffabc", None], pa.binary()),
        "f_bool": pa.array([True, None], pa.bool_()),
        "f_time": pa.array([datetime(1969, 7, 20, 20, 17, 40, tzinfo=timezone.utc), None], UTC),
        "f_int32_list": pa.array([[1, -2], []], pa.list_(pa.int32())),
        "f_int64_list": pa.array([[1, 2**40], []], pa.list_(pa.int64())),
        "f_float_list": pa.array([[0.5, -0.25], []], pa.list_(pa.float32())),
        "f_double_list": pa.array([[0.1, 2.5], []], pa.list_(pa.float64())),
        "f_string_list": pa.array([["a", "ü"], []], pa.list_(pa.string())),
        "f_bytes_list": pa.array([[b"a", b"\xff"], []], pa.list_(pa.binary())),
        "f_bool_list": pa.array([[True, False], []], pa.list_(pa.bool_())),
        "f_time_list": pa.array([[hours(1), hours(2)], []], pa.list_(UTC)),
    }
    return pa.table(columns)


def table(names: list[str], types: list[pa.DataType], rows: list[tuple]) -> pa.Table:
    return pa.table([pa.array(column, kind) for column, kind in zip(zip(*rows), types)], names=names)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for build in (drivers, customers, pairs, city, zones):
        pq.write_table(build(), folder / f"{build.__name__}.parquet")
    # Targets of pushes: the batch side of a push source, with nothing in it yet.
    pq.write_table(drivers().slice(0, 0), folder / "pushed.parquet")
    pq.write_table(zones().select(["zone", "event_timestamp"]).slice(0, 0), folder / "written.parquet")
    labels = pa.schema([("driver_id", pa.int64()), ("event_timestamp", UTC), ("verdict", pa.string()), ("labeler", pa.string())])
    pq.write_table(labels.empty_table(), folder / "labels.parquet")
