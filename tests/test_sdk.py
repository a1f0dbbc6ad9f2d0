"""The stock Feast SDK with thali as registry, online store and offline store, and nothing else.

The definitions are `sdk/repo/`. Stock Feast on the same definitions and data is the oracle: where its answer is
defined, thali's must be equal. Where Feast is known to be wrong, the test states the right answer.
"""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent / "sdk"))

import data
import feast_repo
import harness
from data import NOW, hours
from feast_repo import MATERIALIZED, Oracle
from harness import Thali, eventually

STATS = [f"driver_stats:{name}" for name in ("conv_rate", "acc_rate", "trips", "driver_name")]
TYPES = [f"zone_types:{name}" for name in data.zones().column_names if name.startswith("f_")]


@dataclass
class Served:
    """thali with the repository applied: the server, its client and what the client's definitions are."""

    thali: Thali
    folder: Path
    client: Path
    output: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def store(self) -> Any:
        from feast import FeatureStore

        return FeatureStore(repo_path=str(self.client))

    def settle(self, check: Any, what: str) -> Any:
        """In one process a change is served at once; other processes look at the registry every second."""
        if self.thali.layout == "all-in-one":
            answer = check()
            assert answer, what
            return answer
        return eventually(check, what)


def start(folder: Path, layout: str) -> Iterator[Served]:
    data.write(folder / "data")
    with Thali.serve(feast_repo.server_repo(folder), layout) as thali:
        client = feast_repo.client_repo(thali, folder)
        yield Served(thali, folder, client, feast_repo.apply(client, folder / "data"))


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with feast_repo.oracle(tmp_path_factory.mktemp("oracle")) as oracle:
        yield oracle


@pytest.fixture(scope="module")
def applied(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from start(tmp_path_factory.mktemp(f"sdk-{layout}"), layout)


@pytest.fixture(scope="module")
def definitions(applied: Served) -> ModuleType:
    return feast_repo.definitions(applied.data)


@pytest.fixture(scope="module")
def store(applied: Served) -> Any:
    """The SDK after a materialization in two steps, both through the SDK."""
    store = applied.store()
    store.materialize(feast_repo.START, hours(3), MATERIALIZED)
    store.materialize_incremental(NOW, MATERIALIZED)
    return store


# --- registry -------------------------------------------------------------------------------------------------------


def test_every_kind_is_read_back_as_stock_feast_reads_it(applied: Served, oracle: Oracle) -> None:
    ours = feast_repo.contents(applied.store(), applied.data)
    feasts = feast_repo.contents(oracle.store(), oracle.data)
    feast_repo.assert_same(ours, feasts)
    assert all(feasts[kind] for kind in feast_repo.KINDS if kind != "saved_datasets"), "a kind is missing from the repository"


def test_objects_are_equal_to_their_definitions(applied: Served, definitions: ModuleType) -> None:
    store = applied.store()
    assert store.get_entity("driver") == definitions.driver
    assert store.get_data_source("drivers_file") == definitions.drivers_file
    assert store.get_data_source("trip") == definitions.trip
    assert store.get_data_source("rides_kafka") == definitions.rides_kafka
    assert store.get_data_source("moods_kinesis") == definitions.moods_kinesis
    assert store.get_data_source("driver_push") == definitions.driver_push
    assert store.get_stream_feature_view("ride_counts").name == "ride_counts"
    assert store.get_on_demand_feature_view("doubled").feature_transformation.udf_string.startswith("@on_demand")
    assert store.get_label_view("driver_quality") == definitions.driver_quality
    assert store.get_feature_service("two_drivers") == definitions.two_drivers
    assert store.get_permission("readers") == definitions.readers
    assert store.get_project("sdk").description == definitions.project.description
    assert store.get_feature_service("logged").logging_config.sample_rate == 0.5


def test_what_does_not_exist_raises_feasts_exceptions(applied: Served) -> None:
    from feast import errors

    store = applied.store()
    with pytest.raises(errors.EntityNotFoundException):
        store.get_entity("nobody")
    with pytest.raises(errors.FeatureViewNotFoundException):
        store.get_feature_view("nothing")
    with pytest.raises(errors.FeatureServiceNotFoundException):
        store.get_feature_service("nothing")
    with pytest.raises(errors.DataSourceObjectNotFoundException):
        store.get_data_source("nothing")
    with pytest.raises(errors.FeatureViewNotFoundException):
        store.get_on_demand_feature_view("nothing")


def test_applying_the_same_again_changes_nothing(applied: Served) -> None:
    store = applied.store()

    def stamps() -> dict[str, Any]:
        # A view with a stream source is never equal to itself in stock Feast, so its update time may move.
        views = {view.name: (view.created_timestamp, view.last_updated_timestamp) for view in store.list_feature_views() if not view.stream_source}
        return views | {entity.name: (entity.created_timestamp, entity.last_updated_timestamp) for entity in store.list_entities()}

    before, objects = stamps(), feast_repo.contents(store, applied.data)
    feast_repo.apply(applied.client, applied.data)
    feast_repo.assert_same(feast_repo.contents(store, applied.data), objects)
    assert stamps() == before


def test_a_changed_repository_changes_and_deletes(layout: str, tmp_path: Path) -> None:
    for served in start(tmp_path, layout):
        file = served.client / "definitions.py"
        text = file.read_text()
        assert "timedelta(hours=24)" in text
        # One view changed, a service and a permission gone, an entity added.
        text = text.replace("timedelta(hours=24)", "timedelta(hours=48)").replace('computed_service = ', "_ = [] and ").replace("team = Permission", "_ = lambda: Permission")
        file.write_text(text + '\nshop = Entity(name="shop", value_type=ValueType.STRING)\n')
        store = served.store()
        created = store.get_feature_view("driver_stats").created_timestamp
        feast_repo.apply(served.client, served.data)
        view = store.get_feature_view("driver_stats")
        assert view.ttl == timedelta(hours=48)
        assert view.created_timestamp == created and view.last_updated_timestamp > created
        assert store.get_entity("shop").join_key == "shop"
        assert "computed" not in {service.name for service in store.list_feature_services()}
        assert {permission.name for permission in store.list_permissions()} == {"readers", "space"}


def test_saved_datasets_and_validation_references(applied: Served) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.protos.feast.core.ValidationProfile_pb2 import GEValidationProfiler, ValidationReference
    from feast.protos.feast.registry import RegistryServer_pb2 as rpc
    from feast.saved_dataset import SavedDataset

    store = applied.store()
    storage = SavedDatasetFileStorage(path=str(applied.data / "saved.parquet"))
    dataset = SavedDataset("training", STATS, ["driver_id"], storage, tags={"model": "m1"}, full_feature_names=True)
    store.registry.apply_saved_dataset(dataset, "sdk")
    read = store.registry.get_saved_dataset("training", "sdk")
    assert (read.features, read.join_keys, read.tags, read.full_feature_names) == (STATS, ["driver_id"], {"model": "m1"}, True)

    # The SDK's own class needs great_expectations; on the wire it is this.
    reference = ValidationReference(name="check", reference_dataset_name="training", project="sdk", tags={"a": "b"})
    reference.ge_profiler.CopyFrom(GEValidationProfiler(profiler=GEValidationProfiler.UserDefinedProfiler(body=b"\x00\x01dill")))
    stub = store.registry.stub
    stub.ApplyValidationReference(rpc.ApplyValidationReferenceRequest(validation_reference=reference, project="sdk", commit=True))
    got = stub.GetValidationReference(rpc.GetValidationReferenceRequest(name="check", project="sdk"))
    assert (got.ge_profiler, got.reference_dataset_name, dict(got.tags)) == (reference.ge_profiler, "training", {"a": "b"})
    stub.DeleteValidationReference(rpc.DeleteValidationReferenceRequest(name="check", project="sdk", commit=True))
    assert not stub.ListValidationReferences(rpc.ListValidationReferencesRequest(project="sdk")).validation_references
    store.registry.delete_saved_dataset("training", "sdk")
    assert store.registry.list_saved_datasets("sdk") == []


# --- online ---------------------------------------------------------------------------------------------------------

ONLINE = {
    "one view": (STATS, [{"driver_id": key} for key in (1001, 1002, 1003, 1004, 9)], False),
    "full names": ([*STATS, "customer_profile:age"], [{"driver_id": 1002, "customer_id": "c2"}], True),
    "the same row twice": (STATS[:1], [{"driver_id": 1002}, {"driver_id": 1001}, {"driver_id": 1002}], False),
    "several keys": (
        ["driver_customer:rides", "driver_customer:spent"],
        [{"driver_id": 1001, "customer_id": key} for key in ("c1", "c2", "c3")],
        False,
    ),
    "key with other letters": (["customer_profile:age", "customer_profile:member"], [{"customer_id": "ç3"}, {"customer_id": ""}], False),
    "no entity": (["city_now:surge", "city_now:mood"], [{"driver_id": 1001}, {"driver_id": 1002}], False),
    "service": ("plain", [{"driver_id": 1001, "customer_id": "c1"}, {"driver_id": 1002, "customer_id": "c9"}], False),
    "service, full names": ("plain", [{"driver_id": 1001, "customer_id": "c1"}], True),
    "service with aliases": ("two_drivers", [{"picked_id": 1001, "dropped_id": 1002}, {"picked_id": 1003, "dropped_id": 7}], True),
    "on demand, pandas": (
        ["rate_with_bonus:rate_plus_bonus", "driver_stats:trips"],
        [{"driver_id": 1001, "bonus": 1.5, "seats": 2}, {"driver_id": 1002, "bonus": -1.5, "seats": 3}],
        False,
    ),
    "on demand, python": (["doubled:trips_doubled", "doubled:greeting"], [{"driver_id": 1002, "customer_id": "c1"}], False),
    "on demand, one row": (["one_seat_less:seats_left", "driver_stats:trips"], [{"driver_id": 1002, "bonus": 0.0, "seats": 4}], False),
    "on demand in a service": ("computed", [{"driver_id": 1002, "customer_id": "c1"}, {"driver_id": 1001, "customer_id": "c1"}], False),
    "every type": (TYPES, [{"zone": 1}, {"zone": 3}], False),
}
#: The SDK's remote client fails on an empty list, so these are only asked for over HTTP.
EMPTY = {"every type, empty": (TYPES, [{"zone": 2}, {"zone": 1}], False)}


def online(store: Any, features: Any, rows: list[dict[str, Any]], full: bool) -> dict[str, list[Any]]:
    wanted = store.get_feature_service(features) if isinstance(features, str) else features
    return store.get_online_features(wanted, rows, full_feature_names=full).to_dict()


@pytest.mark.parametrize("case", ONLINE)
def test_online_features_equal_stock_feasts(case: str, store: Any, oracle: Oracle) -> None:
    features, rows, full = ONLINE[case]
    expected = online(oracle.client(), features, rows, full)
    if case == "every type":  # stock Feast rounds a 64-bit integer beside a null to a double on its way through pandas
        assert expected["f_int64"][0] == 2**53
        expected["f_int64"][0] = 2**53 + 1
    answer = online(store, features, rows, full)
    assert answer == expected
    if isinstance(features, list) and not any(name.startswith(("rate_", "doubled", "one_")) for name in features):
        names = [name.replace(":", "__") if full else name.split(":")[1] for name in features]
        assert list(answer)[-len(names) :] == names, "features are in the order of the request"


@pytest.mark.parametrize("case", ONLINE | EMPTY)
def test_http_answers_equal_stock_feasts(case: str, applied: Served, store: Any, oracle: Oracle) -> None:
    """The same on the wire: values, statuses and event timestamps of each column, and nothing else."""
    features, rows, full = (ONLINE | EMPTY)[case]
    body = {"entities": {key: [row[key] for row in rows] for key in rows[0]}, "full_feature_names": full}
    body |= {"feature_service": features} if isinstance(features, str) else {"features": features}

    def ask(url: str) -> dict[str, Any]:
        status, answer = harness.http("POST", f"{url}/get-online-features", body)
        assert status == 200, answer
        assert set(answer) == {"metadata", "results"} and set(answer["metadata"]) == {"feature_names"}
        return dict(zip(answer["metadata"]["feature_names"], answer["results"]))

    expected = ask(oracle.url)
    if case.startswith("every type"):
        expected["f_int64"]["values"] = [None if value is None else 2**53 + 1 for value in expected["f_int64"]["values"]]
    if case == "every type, empty":  # stock Feast shows the number pandas keeps for a missing time
        assert expected["f_time"]["values"][0] == -(2**63)
        expected["f_time"]["values"][0] = None
    assert ask(applied.thali.url("online")) == expected


def test_one_row_at_a_time_answers_every_row(store: Any) -> None:
    """Stock Feast gives all rows the value of the first."""
    rows = [{"driver_id": 1002, "bonus": 0.0, "seats": seats} for seats in (4, 9)]
    assert online(store, ["one_seat_less:seats_left"], rows, False)["seats_left"] == [3, 8]


def test_python_on_demand_features_with_full_names(store: Any) -> None:
    """Stock Feast leaves them out of the answer."""
    answer = online(store, ["doubled:trips_doubled"], [{"driver_id": 1002, "customer_id": "c1"}], True)
    assert answer["doubled__trips_doubled"] == [2**41]


def test_a_missing_key_and_an_unknown_feature_are_errors(store: Any) -> None:
    from feast.errors import FeatureViewNotFoundException

    with pytest.raises(Exception, match="(?i)driver_id"):
        store.get_online_features(STATS, [{"customer_id": "c1"}])
    with pytest.raises(FeatureViewNotFoundException):
        store.get_online_features(["nothing:trips"], [{"driver_id": 1001}])


# --- materialization ------------------------------------------------------------------------------------------------


def test_intervals_are_recorded_once_each(applied: Served, store: Any) -> None:
    for name in MATERIALIZED:
        assert store.get_feature_view(name).materialization_intervals == [(feast_repo.START, hours(3)), (hours(3), NOW)], name
    assert store.get_feature_view("driver_pushed").materialization_intervals == []


def test_materializing_what_does_not_exist_is_refused(applied: Served) -> None:
    store = applied.store()
    before = feast_repo.contents(store, applied.data)
    with pytest.raises(Exception, match="nothing"):
        store.materialize(feast_repo.START, NOW, ["nothing"])
    with pytest.raises(Exception, match="(?i)online"):
        store.materialize(feast_repo.START, NOW, ["driver_batch"])
    feast_repo.assert_same(feast_repo.contents(store, applied.data), before)


# --- writes ---------------------------------------------------------------------------------------------------------


def stats(driver: int, rate: float, when: Any) -> pd.DataFrame:
    row = {"driver_id": [driver], "event_timestamp": [when], "created": [when], "conv_rate": [rate]}
    return pd.DataFrame(row | {"acc_rate": [rate], "trips": [driver], "driver_name": [f"d{driver}"]})


def test_push_online_and_offline(applied: Served, store: Any) -> None:
    from feast.data_source import PushMode

    store.push("driver_push", stats(2001, 0.5, hours(1)), to=PushMode.ONLINE_AND_OFFLINE)
    store.push("driver_push", stats(2002, 0.25, hours(1)), to=PushMode.ONLINE)
    store.push("driver_push", stats(2003, 0.75, hours(1)), to=PushMode.OFFLINE)
    references = ["driver_pushed:conv_rate", "driver_pushed:driver_name"]
    answer = online(store, references, [{"driver_id": key} for key in (2001, 2002, 2003)], False)
    assert answer["conv_rate"] == [0.5, 0.25, None] and answer["driver_name"] == ["d2001", "d2002", None]
    assert sorted(pq.read_table(applied.data / "pushed.parquet")["driver_id"].to_pylist()) == [2001, 2003]
    frame = pd.DataFrame({"driver_id": [2001, 2002, 2003], "event_timestamp": [NOW] * 3})
    joined = store.get_historical_features(frame, references).to_df()
    assert joined["driver_name"].tolist() == ["d2001", None, "d2003"]


def test_push_over_http(applied: Served, store: Any) -> None:
    frame = stats(2004, 0.125, "2026-03-01T11:00:00").to_dict(orient="list")
    for to in ("online", "offline"):
        status, answer = harness.http("POST", f"{applied.thali.url('online')}/push", {"push_source_name": "driver_push", "df": frame, "to": to})
        assert (status, answer) == (200, ""), to
    assert online(store, ["driver_pushed:conv_rate"], [{"driver_id": 2004}], False)["conv_rate"] == [0.125]
    assert 2004 in pq.read_table(applied.data / "pushed.parquet")["driver_id"].to_pylist()
    status, answer = harness.http("POST", f"{applied.thali.url('online')}/push", {"push_source_name": "nothing", "df": frame})
    assert status == 422 and harness.feast_error(answer)["class"] == "PushSourceNotFoundException"


def test_an_older_write_does_not_replace_a_newer(store: Any) -> None:
    """Stock Feast lets the last writer win."""
    for rate, when in ((0.5, hours(1)), (0.25, hours(2))):
        store.write_to_online_store("driver_pushed", stats(2005, rate, when))
    assert online(store, ["driver_pushed:conv_rate"], [{"driver_id": 2005}], False)["conv_rate"] == [0.5]


def test_write_to_online_store(store: Any, oracle: Oracle) -> None:
    from feast import FeatureStore

    def write_and_read(store: FeatureStore) -> dict[str, list[Any]]:
        store.write_to_online_store("driver_pushed", stats(2006, 0.5, hours(1)))
        return online(store, ["driver_pushed:conv_rate", "driver_pushed:trips", "driver_pushed:driver_name"], [{"driver_id": 2006}], True)

    assert write_and_read(store) == write_and_read(oracle.client())


# --- offline --------------------------------------------------------------------------------------------------------


def entity_rows() -> pd.DataFrame:
    rows = [
        (1001, "c1", NOW),
        (1001, "c1", NOW),  # twice: both stay
        (1001, None, hours(5)),  # exactly at a fact; no customer
        (1001, "c2", hours(6)),  # the fact before is exactly a ttl old
        (1001, "c2", hours(6) - timedelta(microseconds=1)),
        (1002, "c1", hours(2)),
        (1002, "nobody", hours(2.5)),
        (1003, "ç3", NOW),  # only an expired fact
        (1004, "c1", NOW),  # exactly a ttl old
        (1004, "c1", NOW + timedelta(microseconds=1)),  # a µs older than that
        (7, "c1", hours(20)),
    ]
    frame = pd.DataFrame(rows, columns=["driver_id", "customer_id", "event_timestamp"])
    return frame.assign(bonus=[float(row) for row in range(len(rows))], seats=3, label=[f"row {row}" for row in range(len(rows))])


HISTORICAL = {
    "one view": (STATS, False),
    "field mapping and other time column": (["customer_profile:age", "customer_profile:member"], False),
    "several views, full names": ([*STATS, "customer_profile:age", "driver_customer:rides"], True),
    "service": ("plain", False),
    "on demand, pandas": (["driver_stats:conv_rate", "driver_stats:trips", "rate_with_bonus:rate_plus_bonus"], False),
}


@pytest.mark.parametrize("case", HISTORICAL)
def test_historical_features_equal_stock_feasts(case: str, store: Any, oracle: Oracle) -> None:
    features, full = HISTORICAL[case]

    def ask(store: Any) -> pd.DataFrame:
        wanted = store.get_feature_service(features) if isinstance(features, str) else features
        return store.get_historical_features(entity_rows(), wanted, full_feature_names=full).to_df()

    answer = ask(store)
    # In the order of the entity rows, which duckdb does not promise: `bonus` numbers them.
    expected = ask(oracle.store()).sort_values("bonus", kind="stable").reset_index(drop=True)
    assert answer["bonus"].tolist() == entity_rows()["bonus"].tolist()
    assert set(answer.columns) == set(expected.columns)
    for name in expected.columns:
        got, want = ([None if pd.isna(v) else v for v in frame[name]] for frame in (answer, expected))
        assert got == want, name


def test_the_point_in_time_rules_by_hand(store: Any) -> None:
    answer = store.get_historical_features(entity_rows(), ["driver_stats:conv_rate"]).to_df()
    rates = [None if pd.isna(value) else round(value, 3) for value in answer["conv_rate"]]
    assert rates == [0.4, 0.4, 0.3, 0.1, 0.1, 0.5, 0.6, None, 0.8, None, None]


def test_naive_times_are_utc(store: Any) -> None:
    frame = entity_rows()
    naive = frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None))
    aware, plain = (store.get_historical_features(rows, STATS).to_df() for rows in (frame, naive))
    assert aware["conv_rate"].equals(plain["conv_rate"])


def test_a_service_that_uses_a_view_twice(store: Any) -> None:
    frame = pd.DataFrame({"picked_id": [1001, 1002], "dropped_id": [1002, 1001], "event_timestamp": [hours(4), NOW]})
    answer = store.get_historical_features(frame, store.get_feature_service("two_drivers"), full_feature_names=True).to_df()
    assert answer["picked__trips"].tolist() == [12, 2**40]
    assert [None if pd.isna(v) else v for v in answer["dropped__trips"]] == [None, None]
    assert [None if pd.isna(v) else v for v in answer["dropped__driver_name"]] == [None, None]


def test_a_view_without_entities_is_joined_by_time(store: Any) -> None:
    frame = pd.DataFrame({"driver_id": [1, 2, 3], "event_timestamp": [hours(21), hours(10), NOW]})
    answer = store.get_historical_features(frame, ["city_now:surge", "city_now:mood"]).to_df()
    assert [None if pd.isna(v) else v for v in answer["surge"]] == [None, 1.0, 2.0]


def test_without_entity_rows_every_fact_of_the_range_is_a_row(store: Any) -> None:
    answer = store.get_historical_features(entity_df=None, features=STATS, start_date=hours(5), end_date=NOW).to_df()
    stamps = pd.to_datetime(answer["event_timestamp"], utc=True)
    rows = sorted((key, when.to_pydatetime(), round(rate, 3)) for key, when, rate in zip(answer["driver_id"], stamps, answer["conv_rate"]))
    assert sorted(set(rows)) == sorted([(1001, hours(5), 0.3), (1001, hours(1), 0.4), (1002, hours(3), 0.6), (1002, hours(2), 0.5)])


def test_saving_a_dataset(applied: Served, store: Any) -> None:
    from feast import FileSource
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    path = applied.data / "dataset.parquet"
    # The server writes only to data sources it knows; the SDK names the source of a file storage by its path.
    store.registry.apply_data_source(FileSource(path=str(path)), "sdk")
    job = store.get_historical_features(entity_rows(), STATS)
    store.create_saved_dataset(from_=job, name="kept", storage=SavedDatasetFileStorage(path=str(path)))
    assert pq.read_metadata(path).num_rows == len(entity_rows())
    assert store.registry.get_saved_dataset("kept", "sdk").features == STATS
    store.registry.delete_saved_dataset("kept", "sdk")
    store.registry.delete_data_source(str(path), "sdk")


# --- files that both read ---------------------------------------------------------------------------------------------


def test_thali_reads_what_stock_feast_wrote(layout: str, oracle: Oracle, tmp_path: Path) -> None:
    repo = feast_repo.server_repo(tmp_path)
    shutil.copy(oracle.folder / "registry.db", repo / "data/registry.db")
    shutil.copy(oracle.folder / "online.db", repo / "data/online.db")
    with Thali.serve(repo, layout) as thali:
        store = harness.sdk(thali, "sdk", tmp_path / "client")
        feast_repo.assert_same(feast_repo.contents(store, oracle.data), feast_repo.contents(oracle.store(), oracle.data))
        for case in ("one view", "several keys", "service with aliases", "every type"):
            assert online(store, *ONLINE[case]) == online(oracle.client(), *ONLINE[case]), case


def test_stock_feast_reads_what_thali_wrote(applied: Served, store: Any, oracle: Oracle, tmp_path: Path) -> None:
    from feast import FeatureStore

    for name in ("registry.db", "online.db"):
        shutil.copy(applied.thali.repo / "data" / name, tmp_path)
        for suffix in ("-wal", "-shm"):
            if (extra := applied.thali.repo / "data" / f"{name}{suffix}").exists():
                shutil.copy(extra, tmp_path)
    (tmp_path / "feature_store.yaml").write_text(feast_repo.ORACLE_YAML.format(registry="registry.db", offline="duckdb"))
    local = FeatureStore(repo_path=str(tmp_path))
    feast_repo.assert_same(feast_repo.contents(local, applied.data), feast_repo.contents(store, applied.data))
    for case in ("one view", "several keys", "no entity"):
        assert online(local, *ONLINE[case]) == online(oracle.store(), *ONLINE[case]), case


SQL = "{registry_type: sql, path: 'sqlite:///REPO/registry_sql.db', cache_ttl_seconds: 1}"


def test_a_sql_registry_written_by_stock_feast(oracle: Oracle, tmp_path: Path) -> None:
    repo = feast_repo.server_repo(tmp_path, SQL.replace("REPO", str(tmp_path)))
    writer = tmp_path / "writer"
    writer.mkdir()
    shutil.copy(feast_repo.REPO / "definitions.py", writer)
    (writer / "feature_store.yaml").write_text(feast_repo.ORACLE_YAML.format(registry=SQL.replace("REPO", str(tmp_path)), offline="duckdb"))
    feast_repo.apply(writer, oracle.data)
    with Thali.serve(repo) as thali:
        store = harness.sdk(thali, "sdk", tmp_path / "client")
        feast_repo.assert_same(feast_repo.contents(store, oracle.data), feast_repo.contents(oracle.store(), oracle.data))


def test_a_sql_registry_written_by_thali(tmp_path: Path, oracle: Oracle) -> None:
    from feast import FeatureStore

    registry = SQL.replace("REPO", str(tmp_path))
    with Thali.serve(feast_repo.server_repo(tmp_path, registry)) as thali:
        feast_repo.apply(feast_repo.client_repo(thali, tmp_path), oracle.data)
    reader = tmp_path / "reader"
    reader.mkdir()
    (reader / "feature_store.yaml").write_text(feast_repo.ORACLE_YAML.format(registry=registry, offline="duckdb"))
    local = FeatureStore(repo_path=str(reader))
    feast_repo.assert_same(feast_repo.contents(local, oracle.data), feast_repo.contents(oracle.store(), oracle.data))
