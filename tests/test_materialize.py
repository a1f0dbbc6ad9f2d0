"""What materialization does beside the plain case: dry runs, late rows, backfill, equal times, cancelling, on-demand views."""

import json
import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

import harness
from harness import Thali, eventually, http

DAY = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = ("2026-03-01T00:00:00", "2026-03-02T00:00:00")
DEFINITIONS = """entities: [{name: driver, join_key: id, value_type: Int64}]
data_sources: [{name: s, type: file, path: stats.parquet, timestamp_field: event_timestamp, created_timestamp_column: created}]
feature_views:
  - {name: stats, entities: [driver], source: s, schema: [{name: trips, type: Int64}]}
on_demand_feature_views:
  - name: twice
    entities: [driver]
    sources: [stats]
    schema: [{name: doubled, type: Int64}]
    expressions: {doubled: "trips * 2"}
    write_to_online_store: true
"""

Row = tuple[int, datetime, datetime, int]


def write(repo: Path, rows: list[Row]) -> None:
    stamp = pyarrow.timestamp("us", "UTC")
    names = ("id", "event_timestamp", "created", "trips")
    types = (pyarrow.int64(), stamp, stamp, pyarrow.int64())
    columns = {name: pyarrow.array([row[n] for row in rows], kind) for n, (name, kind) in enumerate(zip(names, types))}
    pyarrow.parquet.write_table(pyarrow.table(columns), repo / "stats.parquet")


def project(repo: Path, rows: list[Row], settings: str = "") -> Path:
    repo.mkdir()
    write(repo, rows)
    (repo / "feature_store.yaml").write_text(
        "project: p\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\noffline_store: {type: file}\n"
        f"entity_key_serialization_version: 3\n{settings}"
    )
    (repo / "definitions.yaml").write_text(DEFINITIONS)
    harness.succeed(repo, "apply")
    return repo


def at(hours: float) -> datetime:
    return DAY + timedelta(hours=hours)


def served(repo: Path, *ids: int, feature: str = "stats:trips") -> list[Any]:
    words = [word for id in ids for word in ("-e", f"id={id}")]
    answer = json.loads(harness.succeed(repo, "get-online-features", *words, "-f", feature))
    return answer[feature.split(":")[1]]


def jobs(repo: Path) -> list[dict[str, Any]]:
    return json.loads(harness.succeed(repo, "jobs", "--output", "json"))


def test_a_dry_run_stores_and_records_nothing(tmp_path: Path) -> None:
    repo = project(tmp_path / "repo", [(1, at(1), at(1), 10), (1, at(2), at(2), 20), (2, at(3), at(3), 30), (3, at(30), at(30), 40)])
    said = harness.succeed(repo, "materialize", *WINDOW, "--dry-run")
    assert "stats: would read 3 rows and write 2 keys" in said, said
    assert jobs(repo) == [] and served(repo, 1, 2) == [None, None]
    with Thali.serve(repo) as thali:
        body = {"start_ts": WINDOW[0], "end_ts": WINDOW[1], "dry_run": True}
        status, told = http("POST", f"{thali.url('online')}/materialize", body)
        assert status == 200 and [(view["rows"], view["keys"]) for view in told["feature_views"]] == [(3, 2)]
    assert jobs(repo) == []


def test_of_equal_times_the_row_created_last_wins_in_any_order_of_chunks(tmp_path: Path) -> None:
    rows = [(id, at(1), at(made), 100 * id + made) for id in range(1, 40) for made in range(2, 9)]
    random.Random(3).shuffle(rows)
    repo = project(tmp_path / "repo", rows, "materialization: {online_write_batch_size: 1}\n")
    # A view that is named twice is run once.
    harness.succeed(repo, "materialize", *WINDOW, "-v", "stats", "-v", "stats")
    assert served(repo, *range(1, 40)) == [100 * id + 8 for id in range(1, 40)]
    (job,) = jobs(repo)
    assert (job["rowsRead"], job["rowsWritten"], job["chunks"]) == (39 * 7, 39, 39)


def test_late_rows_are_found_as_far_back_as_is_asked(tmp_path: Path) -> None:
    first = [(id, at(1), at(1), 1) for id in (1, 2)]
    for lookback, found in (("", [1, None]), ("thali: {materialize_lookback: 2h}\n", [1, 7])):
        repo = project(tmp_path / f"repo{len(lookback)}", first[:1], lookback)
        harness.succeed(repo, "materialize-incremental", at(12).strftime("%Y-%m-%dT%H:%M:%S"), "-v", "stats")
        # One came late, one is too late for both.
        write(repo, [*first[:1], (2, at(10.5), at(13), 7), (3, at(5), at(13), 7)])
        harness.succeed(repo, "materialize-incremental", at(13).strftime("%Y-%m-%dT%H:%M:%S"), "-v", "stats")
        assert served(repo, 1, 2) == found and served(repo, 3) == [None]


def test_a_backfill_overwrites_what_is_newer(tmp_path: Path) -> None:
    repo = project(tmp_path / "repo", [(1, at(1), at(1), 1), (1, at(30), at(30), 30)])
    harness.succeed(repo, "materialize", "2026-03-02T00:00:00", "2026-03-03T00:00:00", "-v", "stats")
    harness.succeed(repo, "materialize", *WINDOW, "-v", "stats")
    assert served(repo, 1) == [30]
    harness.succeed(repo, "materialize", *WINDOW, "-v", "stats", "--backfill")
    assert served(repo, 1) == [1]


def test_an_on_demand_view_is_stored(tmp_path: Path) -> None:
    repo = project(tmp_path / "repo", [(1, at(1), at(1), 10), (1, at(2), at(2), 20), (2, at(3), at(3), 30)])
    harness.succeed(repo, "materialize", *WINDOW)
    assert served(repo, 1, 2, 3, feature="twice:doubled") == [40, 60, None]
    assert {job["featureView"]: job["rowsWritten"] for job in jobs(repo)} == {"stats": 2, "twice": 2}
    # An older window does not replace what a newer one left.
    write(repo, [(1, at(1), at(5), 99)])
    harness.succeed(repo, "materialize", *WINDOW, "-v", "twice")
    assert served(repo, 1, feature="twice:doubled") == [40]


def test_a_run_is_cancelled_from_elsewhere_and_the_next_goes_on(tmp_path: Path) -> None:
    rows = [(id, at(1), at(1), id) for id in range(100_000)]
    repo = project(tmp_path / "repo", rows, "materialization: {online_write_batch_size: 10}\n")
    run = subprocess.Popen(
        [str(harness.binary()), "-c", str(repo), "materialize", *WINDOW, "-v", "stats"], stderr=subprocess.PIPE, text=True, env=harness.environment()
    )
    (job,) = eventually(lambda: [job for job in jobs(repo) if job["rowsWritten"]], "rows are written")
    assert job["state"] == "running" and job["chunks"] > 0
    harness.succeed(repo, "jobs", "--cancel", job["id"])
    _, said = run.communicate(timeout=harness.DEADLINE)
    assert run.returncode != 0 and "cancelled" in said, said
    (job,) = jobs(repo)
    assert job["state"] == "cancelled" and 0 < job["rowsWritten"] < 100_000
    assert harness.run(repo, "jobs", "--cancel", job["id"]).returncode != 0
    harness.succeed(repo, "materialize", *WINDOW, "-v", "stats", "--dry-run")
    with Thali.serve(repo) as thali:
        status, _ = http("POST", f"{thali.url('ui')}/api/thali/v1/jobs/{job['id']}/cancel", {})
        assert status == 404
