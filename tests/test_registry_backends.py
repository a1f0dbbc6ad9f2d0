"""The registry in every place it can be kept: what stock Feast's SDK puts there through thali it reads back equal, Feast opens
what thali wrote, and thali what Feast wrote.

The definitions are `sdk/repo/`, in a first generation and a changed one; stock Feast on a file of its own is the oracle.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "sdk"))

import data
import feast_repo
from data import NOW, hours
from harness import Node, eventually
from registries import ALL_BACKENDS, Backend, address

KINDS = (*feast_repo.KINDS, "validation_references")
#: Old → new text of the definitions: of most kinds one object changes, one goes, one comes.
CHANGES = {
    'description="Everything Feast can define"': 'description="Changed"',
    'description="Who drives"': 'description="Who drove"',
    'tags={"tier": "gold"}': 'tags={"tier": "silver"}',
    "ttl=timedelta(hours=24)": "ttl=timedelta(hours=48)",
    'Field(name="age", dtype=Int32), Field(name="member", dtype=Bool)': 'Field(name="age", dtype=Int32)',
    "None if trips is None else 2 * trips": "None if trips is None else 3 * trips",
    'description="Rides of the last hour"': 'description="Rides"',
    'description="What reviewers think"': 'description="What reviewers thought"',
    'tags={"stage": "prod"}': 'tags={"stage": "test"}',
    "computed_service = FeatureService": "_ = lambda: FeatureService",
    "team = Permission": "_ = lambda: Permission",
    'roles=["reader", "writer"]': 'roles=["reader"]',
}
ADDED = '\nshop = Entity(name="shop", value_type=ValueType.STRING)\n'


@pytest.fixture(scope="module", autouse=True)
def profiler() -> Iterator[None]:
    """Feast reads a validation reference with great_expectations, of which it needs a version of 2022. This keeps the proto."""
    from feast.dqm.profilers.profiler import Profiler

    class GEProfiler(Profiler):
        def __init__(self, proto: Any) -> None:
            self.proto = proto

        def to_proto(self) -> Any:
            return self.proto

        @classmethod
        def from_proto(cls, proto: Any) -> "GEProfiler":
            return cls(proto)

    name = "feast.dqm.profilers.ge_profiler"
    module = ModuleType(name)
    module.GEProfiler, module.GEProfile = GEProfiler, type("GEProfile", (), {})
    sys.modules[name] = module
    yield
    del sys.modules[name]


@dataclass
class Repos:
    """The definitions, changed, and as they were again; the data behind them, and what stock Feast makes of each in turn."""

    data: Path
    first: Path
    changed: Path
    back: Path
    expected: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def apply(self, store: Any, repo: Path) -> None:
        feast_repo.apply_in_process(store, repo, self.data)
        add_the_rest(store)

    def contents(self, store: Any) -> dict[str, Any]:
        return feast_repo.contents(store, self.data, KINDS)

    def assert_is(self, store: Any, repo: Path) -> None:
        feast_repo.assert_same(self.contents(store), self.expected[repo])


def add_the_rest(store: Any) -> None:
    """The kinds that no repository of definitions can have."""
    from feast.dqm.profilers.ge_profiler import GEProfiler
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.protos.feast.core.ValidationProfile_pb2 import GEValidationProfiler
    from feast.saved_dataset import SavedDataset, ValidationReference

    features = ["driver_stats:conv_rate", "customer_profile:age"]
    storage = SavedDatasetFileStorage(path="saved.parquet")
    dataset = SavedDataset("training", features, ["driver_id"], storage, tags={"model": "m1"}, full_feature_names=True)
    dataset.min_event_timestamp, dataset.max_event_timestamp = hours(5), NOW  # left out, stock Feast makes them 1970 in its second write
    store.registry.apply_saved_dataset(dataset, store.project)
    profiler = GEProfiler(GEValidationProfiler(profiler=GEValidationProfiler.UserDefinedProfiler(body=b"\x00\xffdill")))
    reference = ValidationReference("check", "training", profiler, description="Looks right", tags={"a": "b"})
    store.registry.apply_validation_reference(reference, store.project)


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Repos:
    folder = tmp_path_factory.mktemp("repos")
    repos = Repos(folder / "data", folder / "first", folder / "changed", folder / "back")
    data.write(repos.data)
    text = (feast_repo.REPO / "definitions.py").read_text()
    for repo in (repos.first, repos.back):
        repo.mkdir()
        (repo / "definitions.py").write_text(text)
    for old, new in CHANGES.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    repos.changed.mkdir()
    (repos.changed / "definitions.py").write_text(text + ADDED)
    oracle = directly(Backend("file", folder, str(folder / "oracle.db")))
    for repo in (repos.first, repos.changed, repos.back):
        repos.apply(oracle, repo)
        repos.expected[repo] = repos.contents(oracle)
    assert all(repos.expected[repos.first].values()), "a kind is missing from the repository"
    assert repos.expected[repos.first] != repos.expected[repos.changed]
    return repos


def feast_store(backend: Backend, name: str, registry: str | None = None) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(backend.repo(name, registry=registry)))


def through(node: Node, backend: Backend) -> Any:
    """A stock SDK that has nothing but thali's registry."""
    return feast_store(backend, "through", f"{{registry_type: remote, path: {address(node)}}}")


def directly(backend: Backend) -> Any:
    """A stock SDK that opens the storage itself, and knows nothing of what others have read or written before."""
    return feast_store(backend, "direct", backend.storage)


def stamps(store: Any) -> dict[str, Any]:
    """When each object was made and last changed. A view with a stream is never equal to itself in stock Feast, so it may move."""
    views = {view.name: (view.created_timestamp, view.last_updated_timestamp) for view in store.list_feature_views() if not view.stream_source}
    return views | {entity.name: (entity.created_timestamp, entity.last_updated_timestamp) for entity in store.list_entities()}


# --- through thali --------------------------------------------------------------------------------------------------


def test_applied_changed_applied_again(backend: Backend, repos: Repos) -> None:
    with backend.serve() as node:
        store = through(node, backend)
        repos.apply(store, repos.first)
        repos.assert_is(store, repos.first)
        before = stamps(store)
        repos.apply(store, repos.first)
        repos.assert_is(store, repos.first)
        assert stamps(store) == before, "applying the same again changed something"
        repos.apply(store, repos.changed)
        repos.assert_is(store, repos.changed)
        after = stamps(store)
        assert after["driver_stats"][0] == before["driver_stats"][0] and after["driver_stats"][1] > before["driver_stats"][1]
        assert after["driver_customer"] == before["driver_customer"]
    with backend.serve() as node:
        store = through(node, backend)
        repos.assert_is(store, repos.changed)
        assert stamps(store) == after
        repos.apply(store, repos.back)
        repos.assert_is(store, repos.back)


def test_deleted_one_by_one(backend: Backend, repos: Repos) -> None:
    deletes = {  # in an order in which nothing is left without what it needs
        "validation_references": "delete_validation_reference",
        "saved_datasets": "delete_saved_dataset",
        "permissions": "delete_permission",
        "feature_services": "delete_feature_service",
        "on_demand_feature_views": "delete_feature_view",
        "stream_feature_views": "delete_feature_view",
        "label_views": "delete_label_view",
        "feature_views": "delete_feature_view",
        "data_sources": "delete_data_source",
        "entities": "delete_entity",
    }
    assert set(deletes) == set(KINDS) - {"projects"}
    with backend.serve() as node:
        store = through(node, backend)
        repos.apply(store, repos.first)
        left = repos.contents(store)
        for kind, delete in deletes.items():
            for name in list(left[kind]):
                getattr(store.registry, delete)(name, "sdk")
                del left[kind][name]
            feast_repo.assert_same(repos.contents(store), left)
        feast_repo.assert_same(repos.contents(directly(backend)), left)
        store.registry.delete_project("sdk", commit=True)
        assert store.list_projects() == []
        # Nothing of it stands in the way of the next one.
        repos.apply(store, repos.first)
        repos.assert_is(store, repos.first)


# --- the same storage, by turns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL_BACKENDS, indirect=True)
def test_feast_opens_what_thali_wrote(backend: Backend, repos: Repos) -> None:
    from feast.infra.infra_object import Infra
    from feast.infra.online_stores.sqlite import SqliteTable

    with backend.serve() as node:
        store = through(node, backend)
        repos.apply(store, repos.first)
        view = store.get_feature_view("driver_stats")
        store.registry.apply_materialization(view, "sdk", hours(5), hours(3))
        store.registry.apply_materialization(view, "sdk", hours(3), NOW)
        store.registry.update_infra(Infra([SqliteTable(str(backend.folder / "infra.db"), "a_table")]), "sdk")
        repos.assert_is(directly(backend), repos.first)  # while thali has it open
        repos.apply(store, repos.changed)
    feasts = directly(backend)
    repos.assert_is(feasts, repos.changed)
    assert feasts.get_feature_view("driver_stats").materialization_intervals == [(hours(5), hours(3)), (hours(3), NOW)]
    assert versions(feasts, "customer_profile") == [0, 1], "its schema changed once"
    assert versions(feasts, "driver_stats") == [0], "only its ttl changed"
    repos.apply(feasts, repos.back)
    with backend.serve() as node:
        store = through(node, backend)
        repos.assert_is(store, repos.back)
        assert store.get_feature_view("driver_stats").materialization_intervals == [(hours(5), hours(3)), (hours(3), NOW)]


@pytest.mark.parametrize("backend", ALL_BACKENDS, indirect=True)
def test_thali_opens_what_feast_wrote(backend: Backend, repos: Repos) -> None:
    from feast import Entity

    feasts = directly(backend)
    repos.apply(feasts, repos.first)
    feasts.registry.apply_materialization(feasts.get_feature_view("driver_stats"), "sdk", hours(5), hours(3))
    infra = feasts.registry.get_infra("sdk").to_proto()
    with backend.serve() as node:
        store = through(node, backend)
        repos.assert_is(store, repos.first)
        assert store.get_feature_view("driver_stats").materialization_intervals == [(hours(5), hours(3))]
        assert store.registry.get_infra("sdk").to_proto() == infra
        # Feast goes on writing beside thali, and the other way round.
        directly(backend).registry.apply_entity(Entity(name="beside"), "sdk")
        eventually(lambda: store.get_entity("beside"), "thali sees what Feast wrote meanwhile", deadline=5)
        store.registry.delete_entity("beside", "sdk")
        repos.assert_is(directly(backend), repos.first)
        repos.apply(store, repos.changed)
        assert store.get_feature_view("driver_stats").materialization_intervals == [(hours(5), hours(3))]
    feasts = directly(backend)
    repos.assert_is(feasts, repos.changed)
    assert versions(feasts, "customer_profile") == [0, 1]


def versions(store: Any, name: str) -> list[int]:
    return sorted(record["version_number"] for record in store.list_feature_view_versions(name))
