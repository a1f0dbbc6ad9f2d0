"""Saved datasets that thali and the stock SDK made: made again, compared, and validated against a reference."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import harness
import small_project

FEATURES = ("stats:rate", "stats:trips")
ROWS = 400
NOW = small_project.NOW


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = small_project.create(tmp_path, ROWS)
    harness.succeed(repo, "apply")
    drivers = pa.array(range(1, ROWS + 1), pa.int64())
    pq.write_table(pa.table({"driver_id": drivers, "event_timestamp": pa.array([NOW] * ROWS, pa.timestamp("us", tz="UTC"))}), repo / "rows.parquet")
    return repo


def create(repo: Path, name: str, *more: str) -> Path:
    path = repo / f"data/{name}.parquet"
    wanted = [part for feature in FEATURES for part in ("-f", feature)]
    harness.succeed(repo, "dataset", "create", name, *wanted, "--entity-file", repo / "rows.parquet", "--path", path, *more)
    return path


def ask(repo: Path, *command: str) -> tuple[int, dict[str, Any]]:
    done = harness.run(repo, *command, "--json")
    assert done.returncode in (0, 2), done.stderr
    return done.returncode, json.loads(done.stdout)


def sdk(repo: Path) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))


def rewrite(path: Path, column: str, change: Any) -> None:
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, change(table.column(column))), path)


def second_row_is(value: float) -> Any:
    return lambda column: pa.array([value if row == 1 else old for row, old in enumerate(column.to_pylist())], column.type)


def test_a_dataset_is_made_again_until_something_moves(repo: Path) -> None:
    create(repo, "first")
    status, verdict = ask(repo, "dataset", "verify", "first")
    assert (status, verdict["same"], verdict["reasons"], verdict["definition_changes"]) == (0, True, [], [])
    assert verdict["stored"] == verdict["rebuilt"] and verdict["rebuilt"]["rows"] == ROWS
    assert "the same 400 rows" in harness.succeed(repo, "dataset", "verify", "first")

    # The manifest lives through Feast reading the dataset and writing it back.
    store = sdk(repo)
    dataset = store.registry.get_saved_dataset("first", "small")
    assert dataset.tags["thali.manifest.rows"] == str(ROWS) and dataset.tags["thali.manifest.row-hash"] == verdict["rebuilt"]["row_hash"]
    dataset.tags["team"] = "ops"
    store.registry.apply_saved_dataset(dataset, "small")
    status, verdict = ask(repo, "dataset", "verify", "first")
    assert status == 0 and verdict["manifest"]["rows"] == ROWS

    # A definition that changes and rows that do not: told, but proved.
    definitions = repo / "definitions.yaml"
    text = definitions.read_text()
    definitions.write_text(text.replace("ttl: 2d", "ttl: 3d"))
    harness.succeed(repo, "apply")
    status, verdict = ask(repo, "dataset", "verify", "first")
    assert (status, verdict["definition_changes"]) == (0, ["feature view stats has changed"])
    definitions.write_text(text.replace("ttl: 2d", "ttl: 2d\n    description: another one"))
    harness.succeed(repo, "apply")
    assert ask(repo, "dataset", "verify", "first")[1]["definition_changes"] == []

    # The source changes.
    rewrite(repo / "data/stats.parquet", "rate", second_row_is(99.5))
    status, verdict = ask(repo, "dataset", "verify", "first")
    assert (status, verdict["same"], verdict["reasons"]) == (2, False, ["the rebuilt rows differ from the manifest"])
    moved = verdict["difference"]
    assert moved["rows"] == {"before": ROWS, "after": ROWS, "same": ROWS - 1, "changed": 1, "added": 0, "removed": 0}
    assert moved["changed_columns"] == {"rate": 1}
    assert (moved["changed"][0]["key"]["driver_id"], moved["changed"][0]["before"], moved["changed"][0]["after"]) == (2, {"rate": 1.0}, {"rate": 99.5})
    done = harness.run(repo, "dataset", "verify", "first")
    assert done.returncode == 2 and "rate 1.0 -> 99.5" in done.stdout, done.stdout


def test_a_file_that_was_touched_is_told(repo: Path) -> None:
    path = create(repo, "first")
    rewrite(path, "rate", second_row_is(7.0))
    status, verdict = ask(repo, "dataset", "verify", "first")
    assert (status, verdict["reasons"]) == (2, ["the stored rows differ from the manifest"])
    path.unlink()
    assert harness.run(repo, "dataset", "verify", "first").returncode != 0
    assert harness.run(repo, "dataset", "verify", "nothing").returncode == 1


def test_a_diff_says_what_moved(repo: Path) -> None:
    create(repo, "first")
    path = create(repo, "second")
    assert ask(repo, "dataset", "diff", "first", "second")[0] == 0
    table = pq.read_table(path)
    last = table.slice(ROWS - 1)
    last = last.set_column(0, "driver_id", pa.array([5000], pa.int64()))
    table = pa.concat_tables([table.slice(0, ROWS - 1), last])
    table = table.set_column(table.column_names.index("trips"), "trips", pc.add(table.column("trips"), pa.scalar(1)))
    table = table.append_column("label", pa.array([True] * ROWS))
    pq.write_table(table, path)
    status, moved = ask(repo, "dataset", "diff", "first", "second")
    assert status == 2 and moved["key"] == ["driver_id", "event_timestamp"]
    assert moved["columns"] == {"added": ["label"], "removed": [], "retyped": []}
    assert moved["rows"] == {"before": ROWS, "after": ROWS, "same": 0, "changed": ROWS - 1, "added": 1, "removed": 1}
    assert moved["changed_columns"] == {"trips": ROWS - 1} and len(moved["changed"]) == 5
    assert (moved["added"][0]["driver_id"], moved["removed"][0]["driver_id"]) == (5000, ROWS)
    done = harness.run(repo, "dataset", "diff", "first", "second")
    assert "column label: added" in done.stdout and "+ driver_id=5000" in done.stdout, done.stdout


def test_a_dataset_of_the_sdk_is_made_again(repo: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    store = sdk(repo)
    job = store.get_historical_features(pq.read_table(repo / "rows.parquet").to_pandas(), list(FEATURES))
    storage = SavedDatasetFileStorage(path=str(repo / "data/of_sdk.parquet"))
    store.create_saved_dataset(from_=job, name="of_sdk", storage=storage)
    status, verdict = ask(repo, "dataset", "verify", "of_sdk")
    assert (status, verdict["same"], verdict["manifest"], verdict["reasons"]) == (0, True, None, [])
    create(repo, "of_thali")
    status, moved = ask(repo, "dataset", "diff", "of_sdk", "of_thali")
    assert status == 0, moved


def test_a_dataset_that_the_sdk_has_a_server_save_has_a_manifest(repo: Path, tmp_path: Path) -> None:
    from feast import FeatureService, FileSource
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    rows = pq.read_table(repo / "rows.parquet").to_pandas()
    with harness.Thali.serve(repo) as thali:
        store = harness.sdk(thali, "small", tmp_path / "client")
        view = store.get_feature_view("stats")
        service = FeatureService(name="renamed", features=[view.with_name("other")[["rate"]]])
        store.apply([service])
        service = store.get_feature_service("renamed")
        for name, features, of_service in (("by_list", list(FEATURES), None), ("by_service", service, service)):
            path = repo / f"data/{name}.parquet"
            store.registry.apply_data_source(FileSource(path=str(path)), "small")
            job = store.get_historical_features(rows, features)
            storage = SavedDatasetFileStorage(path=str(path))
            store.create_saved_dataset(from_=job, name=name, storage=storage, feature_service=of_service, tags={"team": "ops"})
            kept = store.get_saved_dataset(name)
            assert kept.tags == {"team": "ops"} and len(kept.to_df()) == ROWS
    for name in ("by_list", "by_service"):
        status, verdict = ask(repo, "dataset", "verify", name)
        assert (status, verdict["same"], verdict["reasons"], verdict["definition_changes"]) == (0, True, [], []), verdict
        assert verdict["manifest"]["rows"] == ROWS and verdict["manifest"]["row_hash"] == verdict["stored"]["row_hash"]
        assert any("stats" in definition for definition in verdict["manifest"]["definition"]["objects"])
    # What thali makes carries the same, in its tags and with its rows.
    path = create(repo, "of_thali")
    manifest = ask(repo, "dataset", "verify", "of_thali")[1]["manifest"]
    noted = json.loads(pq.read_metadata(path).metadata[b"thali.note"])
    assert noted["thali.manifest.row-hash"] == manifest["row_hash"]
    assert ask(repo, "dataset", "verify", "by_list")[1]["manifest"]["definition"] == manifest["definition"]
    rewrite(repo / "data/stats.parquet", "rate", second_row_is(99.5))
    status, verdict = ask(repo, "dataset", "verify", "by_service")
    assert (status, verdict["reasons"]) == (2, ["the rebuilt rows differ from the manifest"])


def apply_reference(repo: Path, name: str, dataset: str) -> None:
    """By the SDK, which wants Great Expectations for a reference only to keep its profiler."""
    from feast.protos.feast.core.ValidationProfile_pb2 import GEValidationProfiler

    name_of_module = "feast.dqm.profilers.ge_profiler"

    class GEProfiler:
        def to_proto(self) -> Any:
            return GEValidationProfiler(profiler=GEValidationProfiler.UserDefinedProfiler(body=b"dill"))

        @classmethod
        def from_proto(cls, _proto: Any) -> "GEProfiler":
            return cls()

    module = ModuleType(name_of_module)
    module.GEProfiler, module.GEProfile = GEProfiler, type("GEProfile", (), {})  # type: ignore[attr-defined]
    sys.modules[name_of_module] = module
    try:
        from feast.saved_dataset import ValidationReference

        sdk(repo).registry.apply_validation_reference(ValidationReference(name, dataset, GEProfiler()), "small")
    finally:
        del sys.modules[name_of_module]


def test_values_are_validated_against_a_reference(repo: Path) -> None:
    create(repo, "reference_rows")
    apply_reference(repo, "expected", "reference_rows")
    path = create(repo, "now")
    status, report = ask(repo, "validate", "--dataset", "now", "--reference", "expected")
    assert (status, report["passed"], report["reference"]) == (0, True, "reference_rows")
    rate = next(column for column in report["columns"] if column["name"] == "rate")
    assert (rate["psi"], rate["ks"], rate["exact"]) == (0.0, 0.0, True)
    assert rate["dataset"] == {"values": ROWS, "null_rate": 0.0, "range": [0.5, ROWS / 2]}

    rewrite(path, "rate", lambda column: pc.add(column, pa.scalar(ROWS / 4)))
    rewrite(path, "trips", lambda column: pa.array([None if row % 10 == 0 else value for row, value in enumerate(column.to_pylist())], column.type))
    status, report = ask(repo, "validate", "--dataset", "now", "--reference", "expected")
    failing = {column["name"]: len(column["failures"]) for column in report["columns"] if column["failures"]}
    assert (status, failing) == (2, {"rate": 3, "trips": 1}), report
    rate = next(column for column in report["columns"] if column["name"] == "rate")
    assert rate["ks"] == pytest.approx(0.5) and rate["out_of_range"] == pytest.approx(0.5)
    done = harness.run(repo, "validate", "--dataset", "now", "--reference", "reference_rows")
    assert done.returncode == 2 and "null rate rose from 0.0000 to 0.1000" in done.stdout, done.stdout
    lenient = ("--max-psi", "9", "--max-ks", "1", "--max-null-rise", "0.2", "--max-out-of-range", "1")
    assert ask(repo, "validate", "--dataset", "now", "--reference", "expected", *lenient)[0] == 0
    assert ask(repo, "validate", "--dataset", "now", "--reference", "expected", *lenient, "--max-null-rate", "0.05")[0] == 2
    assert harness.run(repo, "validate", "--dataset", "now", "--reference", "nothing").returncode == 1


def test_a_log_of_served_requests_is_validated(repo: Path) -> None:
    from feast.feature_logging import LoggingConfig
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    create(repo, "expected")
    folder = repo / "data/log"
    folder.mkdir()
    numbers = range(1, ROWS + 1)
    log = {
        "driver_id": pa.array(numbers, pa.int64()),
        "stats__rate": pa.array([number / 2 for number in numbers], pa.float64()),
        "stats__rate__status": pa.array([2] * ROWS, pa.int32()),
        "stats__trips": pa.array([number * 20 for number in numbers], pa.int64()),
        "__log_timestamp": pa.array([NOW + timedelta(seconds=number) for number in numbers], pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(log), folder / "one.parquet")
    store = sdk(repo)
    service = store.get_feature_service("all_of_it")
    service.logging_config = LoggingConfig(destination=FileLoggingDestination(path=str(folder)))
    store.registry.apply_feature_service(service, "small")
    status, report = ask(repo, "validate", "--log", "all_of_it", "--reference", "expected")
    failing = [column["name"] for column in report["columns"] if column["failures"]]
    assert (status, failing, report["rows"]) == (2, ["trips"], ROWS), report
