"""Views with a schedule are materialized when due, once for each moment, and every run is kept as it went."""

import json
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import harness
import small_project
from harness import Node, Thali, eventually, http

#: Long enough that the rows of the small project, whose times are fixed, are never too old.
DEFINITIONS = small_project.DEFINITIONS.replace("ttl: 2d", "ttl: 20000d")
EVERY_SECOND = 'thali: {schedules: {stats: "every 1s"}}\n'


def create(folder: Path) -> Path:
    repo = small_project.create(folder, definitions=DEFINITIONS)
    harness.succeed(repo, "apply")
    with (repo / "feature_store.yaml").open("a") as file:
        file.write(EVERY_SECOND)
    return repo


def jobs(repo: Path) -> list[dict[str, Any]]:
    answer = json.loads(harness.succeed(repo, "jobs", "--output", "json", "--limit", "200"))
    return answer["jobs"] if isinstance(answer, dict) else answer


def ended(repo: Path, state: str, count: int) -> list[dict[str, Any]]:
    found = [job for job in jobs(repo) if job["state"] == state]
    return found if len(found) >= count else []


def test_a_due_view_is_materialized_and_served(tmp_path: Path, layout: str) -> None:
    repo = create(tmp_path)
    with Thali.serve(repo, layout) as thali:
        runs = eventually(lambda: ended(repo, "succeeded", 2), "two scheduled runs have succeeded")
        assert {(run["trigger"], run["kind"], run["featureView"]) for run in runs} == {
            ("schedule", "materialize-incremental", "stats")
        }
        assert max(run["rowsWritten"] for run in runs) == 3
        answer = thali.online_features(features=["stats:rate"], entities={"driver_id": [1, 9]})
        assert answer["rate"] == [0.5, None]
        status, listed = http("GET", f"{thali.url('ui')}/api/thali/v1/schedules?project=small")
        assert status == 200 and [entry["featureView"] for entry in listed["schedules"]] == ["stats"]
        assert listed["schedules"][0]["lastRun"]["state"] in ("succeeded", "running")
        assert listed["schedules"][0]["nextRun"]


def test_several_schedulers_run_each_moment_once(tmp_path: Path) -> None:
    repo = create(tmp_path)
    with ExitStack() as stack:
        nodes = [Node.start(repo, "scheduler") for _ in range(3)]
        for node in nodes:
            stack.callback(node.kill)
        eventually(lambda: ended(repo, "succeeded", 4), "four scheduled runs have succeeded")
        for node in nodes:
            node.stop()
    runs = jobs(repo)
    assert all(run["state"] in ("succeeded", "cancelled") for run in runs), runs
    # One moment a second: three drivers that did not share them would have started three times as many runs.
    started = sorted(datetime.fromisoformat(run["startedAt"]) for run in runs)
    assert len(runs) <= (started[-1] - started[0]).total_seconds() + 2
    # A run that waited for its turn has nothing left to do, so no two windows may overlap.
    windows = sorted((run["windowStart"], run["windowEnd"]) for run in runs if run["rowsWritten"])
    assert len(windows) == 1, windows


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    repo = create(tmp_path)
    (repo / "data" / "stats.parquet").unlink()
    node = Node.start(repo, "scheduler")
    try:
        runs = eventually(lambda: ended(repo, "failed", 1), "a scheduled run has failed")
        assert "stats.parquet" in runs[0]["error"] and runs[0]["endedAt"]
        node.stop()
    finally:
        node.kill()
