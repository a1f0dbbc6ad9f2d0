"""What the feature server answered for a feature service, and what the service's log holds of it."""

import json
import random
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness
import small_project

STATUSES = {"PRESENT": 1, "NULL_VALUE": 2, "NOT_FOUND": 3, "OUTSIDE_MAX_AGE": 4}
LONG_AGO, FAR_AHEAD = datetime(2000, 1, 1, tzinfo=timezone.utc), datetime(2100, 1, 1, tzinfo=timezone.utc)


class World:
    """A served project with services that are logged, and the SDK beside it."""

    def __init__(self, thali: harness.Thali, folder: Path) -> None:
        self.thali, self.folder = thali, folder
        self.store = harness.sdk(thali, "small", folder / "client")

    def apply(self, name: str, partition_by: list[str] | None = None, sample_rate: float = 1.0) -> Any:
        """A service over everything, logged into a folder of its name."""
        from feast import FeatureService
        from feast.feature_logging import LoggingConfig
        from feast.infra.offline_stores.file_source import FileLoggingDestination

        views = [self.store.get_feature_view("stats"), self.store.get_on_demand_feature_view("better")]
        destination = FileLoggingDestination(path=str(self.path(name)), partition_by=partition_by)
        self.store.apply([FeatureService(name=name, features=views, logging_config=LoggingConfig(destination, sample_rate))])
        service = self.store.get_feature_service(name)

        def known() -> bool:
            status, _ = self.ask(name, [0], id="")
            return status == 200

        harness.eventually(known, f"the server knows {name}")
        return service

    def path(self, name: str) -> Path:
        return self.thali.repo / "logs" / name

    def ask(self, service: str, drivers: list[int], bonus: list[float] | None = None, full: bool = False, id: str = "x") -> tuple[int, Any]:
        entities = {"driver_id": drivers, "bonus": bonus or [0.5] * len(drivers)}
        body = {"feature_service": service, "entities": entities, "full_feature_names": full}
        return harness.http("POST", f"{self.thali.url('online')}/get-online-features", body, **({"x-request-id": id} if id else {}))

    def metric(self, name: str, **labels: str) -> float:
        _, text = harness.http("GET", f"{self.thali.url('online')}/metrics")
        found = 0.0
        for line in text.splitlines():
            if match := re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line):
                if all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                    found += float(match[2])
        return found


def served(repo: Path, folder: Path, logging: str) -> Iterator[World]:
    with (repo / "feature_store.yaml").open("a") as yaml:
        yaml.write(f"feature_server:\n  feature_logging: {logging}\n")
    with harness.Thali.serve(repo) as thali:
        yield World(thali, folder)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return small_project.create_served(tmp_path)


def log_of(path: Path) -> pd.DataFrame:
    """Every file of a log, read one by one: nothing depends on how a reader takes folders."""
    files = sorted(path.rglob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files]).to_pandas() if files else pd.DataFrame()


def as_logged(answer: Any) -> list[dict[str, Any]]:
    """An HTTP answer with full names, as the rows of a log have it."""
    names = answer["metadata"]["feature_names"]
    rows: list[dict[str, Any]] = [{} for _ in answer["results"][0]["values"]]
    for name, column in zip(names, answer["results"]):
        for row, value, status, time in zip(rows, column["values"], column["statuses"], column["event_timestamps"]):
            row[name] = value
            if "__" in name:
                row[f"{name}__status"] = STATUSES[status]
                # No time at all is the first second there is, which the log leaves out.
                row[f"{name}__timestamp"] = None if time.startswith("1970-01-01T00:00:00") else time[:19]
    return rows


def as_answered(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a log in the words of an answer."""

    def plain(name: str, value: Any) -> Any:
        if pd.isna(value):
            return None
        return value.strftime("%Y-%m-%dT%H:%M:%S") if name.endswith("__timestamp") else value

    return {name: plain(name, value) for name, value in row.items() if name not in ("bonus", "__log_timestamp", "__log_date", "__request_id")}


def test_every_answer_is_in_the_log_as_it_was_served(repo: Path, tmp_path: Path) -> None:
    """Random requests in every form, over known, unknown and null values; each is found again under its id."""
    dice = random.Random(5)
    answers: dict[str, Any] = {}
    sent: dict[str, list[float]] = {}
    start = datetime.now(timezone.utc)
    for world in served(repo, tmp_path, "{enabled: true}"):
        world.apply("everything", ["__log_date"])
        url = world.thali.url("online")
        unrated = {"driver_id": [50], "rate": [None], "trips": [7], "event_timestamp": ["2026-03-01T11:30:00.75Z"]}
        status, answer = harness.http("POST", f"{url}/push", {"push_source_name": "stats_push", "df": unrated, "to": "online"})
        assert status == 200, answer
        for number in range(60):
            drivers = [dice.choice([1, 2, 3, 50, 99, 100 + number]) for _ in range(dice.randint(1, 5))]
            bonus = [dice.choice([0.0, -1.5, 1e300]) for _ in drivers]
            id, full = f"request {number}", dice.random() < 0.5
            status, answer = world.ask("everything", drivers, bonus, full, id)
            assert status == 200, answer
            if not full:
                views = {"rate": "stats", "trips": "stats", "better_rate": "better"}
                names = answer["metadata"]["feature_names"]
                answer["metadata"]["feature_names"] = [f"{views[name]}__{name}" if name in views else name for name in names]
            answers[id], sent[id] = answer, bonus
        # Asked for one by one, the same features are nobody's log.
        harness.http("POST", f"{url}/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [1]}})
        assert not world.path("everything").exists(), "nothing is due yet"
    # Told to end, thali writes what it has.
    path = repo / "logs/everything"
    log = log_of(path)
    assert {folder.name for folder in path.iterdir()} <= {str(day.date()) for day in (start, datetime.now(timezone.utc))}
    assert log.columns.to_list()[:4] == ["driver_id", "stats__rate", "stats__rate__timestamp", "stats__rate__status"]
    log = log[log["__request_id"].str.startswith("request ")]
    assert (log["__log_timestamp"] >= start).all() and (log["__log_timestamp"].dt.date == log["__log_date"]).all()
    for id, answer in answers.items():
        mine = log[log["__request_id"] == id]
        assert [as_answered(row) for row in mine.to_dict("records")] == as_logged(answer), id
        assert mine["bonus"].to_list() == sent[id]
    assert len(log) == sum(len(bonus) for bonus in sent.values())


def test_answers_over_grpc_are_logged(repo: Path, tmp_path: Path) -> None:
    """Both of Feast's services; the service and its logging are defined in YAML."""
    from feast.protos.feast.serving import GrpcServer_pb2_grpc, ServingService_pb2, ServingService_pb2_grpc

    definitions = repo / "definitions.yaml"
    logging = "  - {name: logged, features: [stats, better], logging: {path: logs/logged, partition_by: [__log_date]}}\n"
    definitions.write_text(definitions.read_text() + logging)
    harness.succeed(repo, "apply")
    stubs = {"serving": ServingService_pb2_grpc.ServingServiceStub, "server": GrpcServer_pb2_grpc.GrpcFeatureServerStub}
    for world in served(repo, tmp_path, "{enabled: true}"):
        with grpc.insecure_channel(f"127.0.0.1:{world.thali.port('online')}") as channel:
            for id, stub in stubs.items():
                request = ServingService_pb2.GetOnlineFeaturesRequest(feature_service="logged")
                for driver in (1, 99):
                    request.entities["driver_id"].val.add(int64_val=driver)
                    request.entities["bonus"].val.add(double_val=0.5)
                answer = stub(channel).GetOnlineFeatures(request, metadata=(("x-request-id", id),))
                rates = answer.results[list(answer.metadata.feature_names.val).index("rate")]
                assert list(rates.statuses) == [STATUSES["PRESENT"], STATUSES["NOT_FOUND"]]
    log = log_of(repo / "logs/logged")
    assert len(log) == 4
    for id in stubs:
        mine = log[log["__request_id"] == id]
        assert mine["driver_id"].to_list() == [1, 99] and mine["bonus"].to_list() == [0.5, 0.5]
        assert mine["stats__rate"].to_list()[0] == 0.5 and mine["better__better_rate"].to_list()[0] == 1.0
        assert mine["stats__rate__status"].to_list() == [STATUSES["PRESENT"], STATUSES["NOT_FOUND"]]


def test_the_sdk_reads_and_validates_what_was_served(repo: Path, tmp_path: Path) -> None:
    """Through thali's offline server, and with Feast's own stores on the folder itself."""
    from feast import FeatureStore
    from feast.dqm.errors import ValidationFailed
    from feast.dqm.profilers.profiler import Profile, Profiler, ValidationReport
    from feast.saved_dataset import ValidationReference

    class Report(ValidationReport):
        def __init__(self, good: bool) -> None:
            self.good = good

        is_success = property(lambda self: self.good)
        errors: Any = []

    class Rates(Profile):
        def __init__(self, least: float) -> None:
            self.least, self.seen = least, pd.DataFrame()

        def validate(self, dataset: pd.DataFrame) -> Report:
            self.seen = dataset
            return Report(bool((dataset["stats__rate"].dropna() >= self.least).all()))

        def to_proto(self) -> None: ...

        @classmethod
        def from_proto(cls, proto: Any) -> None: ...

    class Fixed(Profiler):
        def analyze_dataset(self, dataset: pd.DataFrame) -> Rates:
            return Rates(0)

        def to_proto(self) -> None: ...

        @classmethod
        def from_proto(cls, proto: Any) -> None: ...

    def reference(least: float) -> Any:
        made = ValidationReference(name="r", dataset_name="d", profiler=Fixed())
        made._profile = Rates(least)
        return made

    for world in served(repo, tmp_path, "{enabled: true, flush_interval_secs: 1}"):
        services = {name: world.apply(name, part) for name, part in (("flat", None), ("by_day", ["__log_date"]))}
        for name, service in services.items():
            # The SDK asks for a service by its name, so its requests are logged as well.
            answer = world.store.get_online_features(features=service, entity_rows=[{"driver_id": 1, "bonus": 1.0}, {"driver_id": 99, "bonus": 1.0}])
            assert answer.to_dict()["rate"] == [0.5, None]
            harness.eventually(lambda name=name: len(log_of(world.path(name))) >= 2, "the log is written")
            for kind in ("remote", "file", "duckdb"):
                store = world.store
                if kind != "remote":
                    folder = tmp_path / kind
                    folder.mkdir(exist_ok=True)
                    yaml = harness.client_yaml(world.thali, "small").split("offline_store:")[0]
                    (folder / "feature_store.yaml").write_text(f"{yaml}offline_store: {{type: {kind}}}\nentity_key_serialization_version: 3\n")
                    store = FeatureStore(repo_path=str(folder))
                good = reference(0.5)
                assert store.validate_logged_features(service, LONG_AGO, FAR_AHEAD, good, cache_profile=False) is None
                seen = good.profile.seen
                assert set(seen["stats__rate"].dropna()) == {0.5}, kind
                assert {1, 3} <= set(seen["better__better_rate__status"]) | set(seen["stats__trips__status"])
                failed = store.validate_logged_features(service, LONG_AGO, FAR_AHEAD, reference(0.6), throw_exception=False, cache_profile=False)
                assert isinstance(failed, ValidationFailed), kind


def test_logs_of_others_are_written_by_the_sdk(repo: Path, tmp_path: Path) -> None:
    """`write_logged_features` through the offline server: what another server logged, beside what thali did."""
    from feast.feature_logging import FeatureServiceLoggingSource

    for world in served(repo, tmp_path, "{enabled: false}"):
        service = world.apply("theirs", ["__log_date"])
        world.ask("theirs", [1])
        schema = FeatureServiceLoggingSource(service, "small").get_schema(world.store.registry)
        moment = datetime(2026, 3, 1, 23, 59, 59, tzinfo=timezone.utc)
        moments = [moment, moment + timedelta(seconds=1), moment]
        values: dict[str, list[Any]] = {
            "driver_id": [1, 2, 3],
            "stats__rate": [0.5, None, 1.5],
            "stats__rate__timestamp": [moment] * 3,
            "bonus": [0.0] * 3,
            "__log_timestamp": moments,
            "__log_date": [moment.date() for moment in moments],
            "__request_id": ["a", "b", "c"],
        }
        logs = pa.table([pa.array(values.get(field.name, [1] * 3), field.type) for field in schema], schema=schema)
        world.store.write_logged_features(logs, service)
        folders = {file.parent.name: pq.ParquetFile(file).metadata.num_rows for file in world.path("theirs").rglob("*.parquet")}
        assert folders == {"2026-03-01": 2, "2026-03-02": 1}, "and nothing that was served: logging is off"
        kept = log_of(world.path("theirs")).sort_values("driver_id")
        assert kept["stats__rate__timestamp"].to_list() == [pd.Timestamp(moment)] * 3 and kept["__request_id"].to_list() == ["a", "b", "c"]
        # A folder of files, as the Go server leaves it behind.
        pq.write_table(logs, tmp_path / "more.parquet")
        world.store.write_logged_features(tmp_path / "more.parquet", service)
        assert len(log_of(world.path("theirs"))) == 6
        unlogged = world.store.get_feature_service("all_of_it")
        unlogged.logging_config = service.logging_config
        with pytest.raises(Exception, match="feature service `all_of_it` has no logging configuration"):
            world.store.write_logged_features(logs, unlogged)
        with pytest.raises(Exception, match="partitioned by `__log_date`, which its rows lack"):
            world.store.write_logged_features(logs.drop_columns(["__log_date"]), service)


def test_a_share_of_requests_and_a_full_queue(repo: Path, tmp_path: Path) -> None:
    for world in served(repo, tmp_path, "{enabled: true, queue_capacity: 4, flush_interval_secs: 1}"):
        world.apply("half", sample_rate=0.5)
        for number in range(200):
            assert world.ask("half", [1], id=f"n{number}")[0] == 200
        # More rows than the queue ever holds: they are dropped, the caller is answered all the same.
        world.apply("wide")
        assert world.ask("wide", [1, 2, 3, 1, 2])[0] == 200
        assert world.metric("thali_feature_log_rows_total", feature_service="wide", outcome="queue_full") == 5
    log = log_of(repo / "logs/half")
    # The chance of all or none is 1 in 2^199.
    assert 0 < log["__request_id"].str.startswith("n").sum() < 200


def test_the_log_is_held_against_a_training_set(repo: Path, tmp_path: Path) -> None:
    """`thali validate --log`: the drivers that were served are those that the reference has, and then they are not."""
    times = pa.array([small_project.NOW] * 3, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"driver_id": [1, 2, 3], "event_timestamp": times}), repo / "rows.parquet")
    features = ("-f", "stats:rate", "-f", "stats:trips")
    harness.succeed(repo, "dataset", "create", "reference", *features, "--entity-file", repo / "rows.parquet", "--path", repo / "data/reference.parquet")
    validate = ("validate", "--log", "checked", "--reference", "reference")
    for world in served(repo, tmp_path, "{enabled: true, flush_interval_secs: 1}"):
        world.apply("checked", ["__log_date"])
        for _ in range(20):
            assert world.ask("checked", [1, 2, 3])[0] == 200
        harness.eventually(lambda: len(log_of(world.path("checked"))) >= 60, "the log is written")
        # The first requests were for a driver that does not exist, which are few enough.
        done = harness.run(repo, *validate)
        assert done.returncode == 0, done.stdout + done.stderr
        between = datetime.now(timezone.utc).isoformat()
        for _ in range(20):
            assert world.ask("checked", [77, 78, 3])[0] == 200
        harness.eventually(lambda: len(log_of(world.path("checked"))) >= 120, "the log is written")
        done = harness.run(repo, *validate)
        assert done.returncode == 2 and "rate: null rate rose" in done.stdout, done.stdout + done.stderr
        # What was served until then still passes; what was served since is all that fails.
        rows = {option: json.loads(harness.run(repo, *validate, option, between, "--json").stdout) for option in ("--start", "--end")}
        assert rows["--end"]["passed"] and not rows["--start"]["passed"]
        assert rows["--start"]["rows"] == 60 and rows["--start"]["rows"] + rows["--end"]["rows"] == len(log_of(world.path("checked")))
        refused = harness.run(repo, "validate", "--dataset", "reference", "--reference", "reference", "--start", between)
        assert refused.returncode != 0 and "--start" in refused.stderr
