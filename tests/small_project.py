"""A feature repository of a few rows, for tests that need a server but no particular data."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import harness

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
START, END = "2026-02-01T00:00:00", "2026-03-01T12:00:00"

FEATURE_STORE = """project: small
provider: local
registry: data/registry.db
online_store:
  type: sqlite
  path: data/online.db
offline_store:
  type: file
entity_key_serialization_version: 3
"""

DEFINITIONS = """entities:
  - {name: driver, join_key: driver_id, value_type: Int64}
data_sources:
  - {name: stats_file, type: file, path: data/stats.parquet, timestamp_field: event_timestamp}
  - {name: stats_push, type: push, batch_source: stats_file}
  - {name: trip, type: request, schema: [{name: bonus, type: Float64}]}
feature_views:
  - name: stats
    entities: [driver]
    source: stats_push
    ttl: 2d
    schema:
      - {name: rate, type: Float64}
      - {name: trips, type: Int64}
on_demand_feature_views:
  - name: better
    sources: [stats, trip]
    schema: [{name: better_rate, type: Float64}]
    expressions: {better_rate: "rate + bonus"}
feature_services:
  - {name: all_of_it, features: [stats, better]}
"""


def create(folder: Path, rows: int = 3, definitions: str = DEFINITIONS) -> Path:
    """The repository in a new folder, with one fact each for drivers 1, 2, …: rate 0.5, 1.0, …, trips 10, 20, …"""
    repo = folder / "small"
    (repo / "data").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(FEATURE_STORE)
    (repo / "definitions.yaml").write_text(definitions)
    numbers = range(1, rows + 1)
    table = pa.table(
        {
            "driver_id": pa.array(numbers, pa.int64()),
            "event_timestamp": pa.array([NOW - timedelta(hours=1)] * rows, pa.timestamp("us", tz="UTC")),
            "rate": pa.array([number / 2 for number in numbers], pa.float64()),
            "trips": pa.array([number * 10 for number in numbers], pa.int64()),
        }
    )
    pq.write_table(table, repo / "data/stats.parquet")
    return repo


def create_served(folder: Path, rows: int = 3) -> Path:
    """The same, applied and materialized."""
    repo = create(folder, rows)
    harness.succeed(repo, "apply")
    harness.succeed(repo, "materialize", START, END)
    return repo
