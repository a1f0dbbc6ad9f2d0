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


def test_rows_made_after_the_entity_row_do_not_count_when_asked(tmp_path: Path) -> None:
    """Known as of: what was written down later was not known."""
    # At hour 3 the value of hour 1 was known; that of hour 2 was written down at hour 6.
    repo = project(tmp_path / "repo", [(1, at(1), at(1), 10), (1, at(2), at(6), 20), (2, at(2), at(6), 30)])
    rows = json.dumps([{"id": id, "event_timestamp": at(hour).isoformat()} for id in (1, 2) for hour in (3, 6, 7)])
    file = tmp_path / "answer.parquet"
    for more, wanted in (((), [20, 20, 20, 30, 30, 30]), (("--filter-by-created-timestamp",), [10, 20, 20, None, 30, 30])):
        harness.succeed(repo, "get-historical-features", "-f", "stats:trips", "-d", rows, "-o", file, *more)
        assert pyarrow.parquet.read_table(file)["trips"].to_pylist() == wanted


def test_a_tag_says_how_far_one_view_looks_back(tmp_path: Path) -> None:
    for tag, found in (("2h", [1, 7]), ("0s", [1, None])):
        # The tag wins over the setting, whichever is longer.
        setting = "0s" if tag == "2h" else "5h"
        repo = project(tmp_path / tag, [(1, at(1), at(1), 1)], f"thali: {{materialize_lookback: {setting}}}\n")
        definitions = repo / "definitions.yaml"
        definitions.write_text(definitions.read_text().replace("{name: stats, ", f"{{name: stats, tags: {{thali.lookback: '{tag}'}}, "))
        harness.succeed(repo, "apply")
        harness.succeed(repo, "materialize-incremental", at(12).strftime("%Y-%m-%dT%H:%M:%S"), "-v", "stats")
        write(repo, [(1, at(1), at(1), 1), (2, at(10.5), at(13), 7)])
        harness.succeed(repo, "materialize-incremental", at(13).strftime("%Y-%m-%dT%H:%M:%S"), "-v", "stats")
        assert served(repo, 1, 2) == found
    definitions.write_text(definitions.read_text().replace("'0s'", "'soon'"))
    harness.succeed(repo, "apply")
    done = harness.run(repo, "materialize-incremental", at(14).strftime("%Y-%m-%dT%H:%M:%S"), "-v", "stats")
    assert done.returncode == 1 and "`thali.lookback`" in done.stderr and "`soon`" in done.stderr, done.stderr


def chunks_counted(thali: Thali) -> int:
    _, text = http("GET", f"{thali.url('metrics')}/metrics")
    found = [line for line in text.splitlines() if line.startswith("thali_materialized_chunks_total{")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in found if 'feature_view="stats"' in line)


def test_backfill_and_chunks_over_http(tmp_path: Path) -> None:
    rows = [(id, at(1), at(1), 1) for id in range(1, 31)] + [(1, at(30), at(30), 30)]
    repo = project(tmp_path / "repo", rows, "materialization: {online_write_batch_size: 10}\n")
    with Thali.serve(repo) as thali:

        def materialize(start: str, end: str, **more: Any) -> None:
            status, told = http("POST", f"{thali.url('online')}/materialize", {"start_ts": start, "end_ts": end, "feature_views": ["stats"]} | more)
            assert status == 200, told

        materialize("2026-03-02T00:00:00", "2026-03-03T00:00:00")
        assert chunks_counted(thali) == 1
        materialize(*WINDOW)
        assert thali.online_features(features=["stats:trips"], entities={"id": [1, 30]})["trips"] == [30, 1]
        assert chunks_counted(thali) == 4
        materialize(*WINDOW, backfill=True)
        assert thali.online_features(features=["stats:trips"], entities={"id": [1, 30]})["trips"] == [1, 1]
        assert chunks_counted(thali) == 7


def test_after_a_cancelled_run_the_next_succeeds(tmp_path: Path) -> None:
    rows = [(id, at(1), at(1), id) for id in range(60_000)]
    repo = project(tmp_path / "repo", rows, "materialization: {online_write_batch_size: 10}\n")
    command = [str(harness.binary()), "-c", str(repo), "materialize", *WINDOW, "-v", "stats"]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=harness.environment())
    (job,) = eventually(lambda: [job for job in jobs(repo) if job["rowsWritten"]], "rows are written")
    harness.succeed(repo, "jobs", "--cancel", job["id"])
    assert run.wait(harness.DEADLINE) != 0
    file = repo / "feature_store.yaml"
    file.write_text(file.read_text().replace("online_write_batch_size: 10", "online_write_batch_size: 8000"))
    harness.succeed(repo, "materialize", *WINDOW, "-v", "stats")
    done, cancelled = jobs(repo)
    assert (done["state"], cancelled["state"]) == ("succeeded", "cancelled")
    # What the first had stored was not stored again.
    assert done["rowsWritten"] + cancelled["rowsWritten"] >= 60_000 and done["rowsWritten"] < 60_000
    assert served(repo, 0, 1, 59_999) == [0, 1, 59_999]
