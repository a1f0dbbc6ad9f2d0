"""The Python repository of `repo/` in use: applied by stock Feast, to itself (the oracle) or to thali."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf.json_format import MessageToDict

import data
import harness

REPO = Path(__file__).parent / "repo"
FEAST = Path(sys.executable).parent / "feast"
#: The views that have anything to materialize.
MATERIALIZED = ["driver_stats", "customer_profile", "driver_customer", "city_now", "zone_types"]
START = data.NOW - timedelta(days=10)

ORACLE_YAML = """project: sdk
provider: local
registry: {registry}
online_store: {{type: sqlite, path: online.db}}
offline_store: {{type: {offline}}}
entity_key_serialization_version: 3
"""


def feast(repo: Path, data_folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The stock `feast` command, to its end."""
    command = [str(FEAST), "-c", str(repo), *arguments]
    env = harness.environment(SDK_DATA=str(data_folder), PYTHONWARNINGS="ignore", COLUMNS="200")
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=env)


def apply(repo: Path, data_folder: Path) -> str:
    done = feast(repo, data_folder, "apply")
    assert done.returncode == 0, f"feast apply ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def apply_in_process(store: Any, repo: Path, data_folder: Path) -> None:
    """What `feast apply` does in `repo`, without the seconds that a new Python takes."""
    from feast import repo_operations

    os.environ["SDK_DATA"] = str(data_folder)
    sys.path.insert(0, str(repo))
    try:
        with chdir(repo):
            contents = repo_operations.parse_repo(repo)
            repo_operations.apply_total_with_repo_instance(store, store.project, store.registry, contents, skip_source_validation=False)
    finally:
        sys.path.remove(str(repo))
        for file in repo.glob("*.py"):  # the next folder has other modules of the same names
            sys.modules.pop(file.stem, None)


def definitions(data_folder: Path) -> ModuleType:
    """The repository's objects as Python has them, before any registry has seen them."""
    os.environ["SDK_DATA"] = str(data_folder)
    spec = importlib.util.spec_from_file_location("sdk_definitions", REPO / "definitions.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Oracle:
    """Stock Feast on the same definitions and data, without thali."""

    folder: Path
    url: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def store(self, offline: str = "duckdb", online: str | None = None) -> Any:
        """Stock Feast in this process; `online` instead of the local SQLite store."""
        from feast import FeatureStore

        folder = self.folder / f"client-{offline}-{'remote' if online else 'local'}"
        folder.mkdir(exist_ok=True)
        text = ORACLE_YAML.format(registry=self.folder / "registry.db", offline=offline)
        here = f"{{type: remote, path: {online}}}" if online else f"{{type: sqlite, path: {self.folder / 'online.db'}}}"
        (folder / "feature_store.yaml").write_text(text.replace("{type: sqlite, path: online.db}", here))
        return FeatureStore(repo_path=str(folder))

    def client(self) -> Any:
        """A stock SDK that reads from stock Feast's feature server: what thali's answers must look like."""
        return self.store(online=self.url)


@contextmanager
def oracle(folder: Path) -> Iterator[Oracle]:
    data.write(folder / "data")
    shutil.copy(REPO / "definitions.py", folder)
    # dask materializes views without entities, which duckdb does not; duckdb keeps every entity row, which dask does not.
    (folder / "feature_store.yaml").write_text(ORACLE_YAML.format(registry="registry.db", offline="dask"))
    apply(folder, folder / "data")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    feasts = Oracle(folder, f"http://127.0.0.1:{port}")
    feasts.store("dask").materialize(START, data.NOW, MATERIALIZED)
    with open(folder / "server.log", "wb") as log:
        command = [str(FEAST), "-c", str(folder), "serve", "-p", str(port), "--no-access-log", "--max-requests", "0"]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=harness.environment(SDK_DATA=str(folder / "data")))
    try:
        harness.eventually(
            lambda: server.poll() is not None or urllib.request.urlopen(f"{feasts.url}/health").status == 200,
            "stock Feast's feature server answers",
        )
        assert server.poll() is None, (folder / "server.log").read_text()
        yield feasts
    finally:
        server.terminate()
        server.wait(30)


def server_repo(folder: Path, registry: str = "data/registry.db") -> Path:
    """A folder for `thali serve` without any definitions: those come from `feast apply`."""
    repo = folder / "server"
    (repo / "data").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(
        f"""project: sdk
provider: local
registry: {registry}
online_store: {{type: sqlite, path: data/online.db}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
thali:
  python: {{command: {sys.executable}}}
"""
    )
    return repo


def client_repo(thali: harness.Thali, folder: Path) -> Path:
    """The same Python repository, for a `feast apply` that has nothing but thali."""
    repo = folder / "client"
    repo.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPO / "definitions.py", repo)
    (repo / "feature_store.yaml").write_text(harness.client_yaml(thali, "sdk"))
    return repo


#: What may differ between two registries with the same definitions: who wrote when, what was materialized, pickled code.
VOLATILE = {"createdTimestamp", "lastUpdatedTimestamp", "lastUpdated", "versionId", "body", "materializationIntervals", "state"}


def plain(message: Any, data_folder: Path) -> Any:
    """A registry object without what may differ, and with the data folder out of its paths."""

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: v for k, v in ((k, clean(v)) for k, v in node.items() if k not in VOLATILE) if v not in ({}, [])}
        if isinstance(node, list):
            return [clean(value) for value in node]
        return node.replace(str(data_folder), "DATA") if isinstance(node, str) else node

    return clean(MessageToDict(message))


KINDS = (
    "projects",
    "entities",
    "data_sources",
    "feature_views",
    "stream_feature_views",
    "on_demand_feature_views",
    "label_views",
    "feature_services",
    "permissions",
    "saved_datasets",
)


def contents(store: Any, data_folder: Path, kinds: Sequence[str] = KINDS) -> dict[str, dict[str, Any]]:
    """Kind → name → object, read one kind at a time through the registry API."""
    registry = store.registry
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        read = getattr(registry, f"list_{kind}")
        objects = read() if kind == "projects" else read(store.project)
        found[kind] = {item.name: plain(item.to_proto(), data_folder) for item in objects}
    return found


def assert_same(ours: dict[str, dict[str, Any]], feasts: dict[str, dict[str, Any]]) -> None:
    """The same, object by object, so that a failure names the one that differs."""
    assert ours.keys() == feasts.keys()
    for kind in feasts:
        assert sorted(ours[kind]) == sorted(feasts[kind]), kind
        for name, item in feasts[kind].items():
            assert (kind, name, ours[kind][name]) == (kind, name, item)
