"""Stock Feast's registry servers, gRPC and REST, as oracles: on the same registry file as a thali beside them.

Run as a program this is the REST server: Feast 0.67 hands FastAPI two keywords that FastAPI never had, which
newer releases of FastAPI refuse, so that `feast serve_registry --rest-api` does not start with them. The program
leaves these two out and changes nothing else.
"""

import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "sdk"))

import harness

PROJECT = "sdk"
YAML = """project: sdk
provider: local
registry: data/registry.db
online_store: {{type: sqlite, path: data/online.db}}
offline_store: {{type: {offline}}}
entity_key_serialization_version: 3
"""


@dataclass
class Feast:
    """Where the oracles answer."""

    folder: Path
    grpc: str
    rest: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rich_registry(folder: Path) -> None:
    """A registry with every kind of object, in `folder/data/registry.db`, made by stock Feast."""
    import data
    import feast_repo

    (folder / "data").mkdir(parents=True)
    data.write(folder / "facts")
    shutil.copy(feast_repo.REPO / "definitions.py", folder)
    (folder / "feature_store.yaml").write_text(YAML.format(offline="duckdb"))
    feast_repo.apply(folder, folder / "facts")
    add_more(folder)


def add_more(folder: Path) -> None:
    """What `feast apply` does not write: data sets, materialized windows, another project, a protected one."""
    from feast import Entity, FeatureStore, Project, ValueType
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.saved_dataset import SavedDataset

    import data

    store = FeatureStore(repo_path=str(folder))
    registry = store.registry
    for number, space in enumerate(("ml", "ml", "ops")):
        dataset = SavedDataset(
            name=f"training_{number}",
            features=["driver_stats:conv_rate", "driver_stats:trips"],
            join_keys=["driver_id"],
            storage=SavedDatasetFileStorage(path=str(folder / "facts/drivers.parquet")),
            tags={"number": str(number)},
            namespace=space,
            collection=f"c{number % 2}",
        )
        registry.apply_saved_dataset(dataset, PROJECT)
    for name in ("driver_stats", "zone_types"):
        view = registry.get_feature_view(name, PROJECT)
        for hours in (9, 3):
            registry.apply_materialization(view, PROJECT, data.hours(hours + 1), data.hours(hours))
    registry.apply_project(Project(name="second", description="Not much", tags={"purpose": "tests"}))
    registry.apply_entity(Entity(name="alone", value_type=ValueType.INT64), "second")
    registry.apply_project(Project(name="vault", tags={"feast.dev/protected-project": "true"}))


def thali_yaml(folder: Path) -> None:
    python = f"thali: {{python: {{command: {sys.executable}}}}}\n"
    (folder / "feature_store.yaml").write_text(YAML.format(offline="file") + python)


@contextmanager
def serve(folder: Path) -> Iterator[Feast]:
    """Both servers of stock Feast on a folder."""
    grpc, rest = free_port(), free_port()
    feast = str(Path(sys.executable).parent / "feast")
    commands = {
        "grpc": [feast, "-c", str(folder), "serve_registry", "-p", str(grpc)],
        "rest": [sys.executable, __file__, str(folder), str(rest)],
    }
    # Feast makes some lists from sets; so that they come out alike in every process.
    env = harness.environment(SDK_DATA=str(folder / "facts"), PYTHONWARNINGS="ignore", PYTHONHASHSEED="0")
    with ExitStack() as stack:
        servers = {}
        for name, command in commands.items():
            log = stack.enter_context(open(folder / f"{name}.log", "wb"))
            servers[name] = subprocess.Popen(command, stdout=log, stderr=log, env=env)
            stack.callback(end, servers[name])

        def answers(name: str, look: Any) -> None:
            harness.eventually(lambda: servers[name].poll() is not None or look(), f"stock Feast's {name} server answers")
            assert servers[name].poll() is None, (folder / f"{name}.log").read_text()

        answers("grpc", lambda: socket.create_connection(("127.0.0.1", grpc), 1).close() or True)
        answers("rest", lambda: urllib.request.urlopen(f"http://127.0.0.1:{rest}/version").status == 200)
        yield Feast(folder, f"127.0.0.1:{grpc}", f"http://127.0.0.1:{rest}")


def end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def rest_server(folder: str, port: int) -> None:
    import fastapi

    original = fastapi.FastAPI.__init__

    def without(self: Any, *arguments: Any, default_status_code: Any = None, default_headers: Any = None, **rest: Any) -> None:
        original(self, *arguments, **rest)

    fastapi.FastAPI.__init__ = without  # type: ignore[method-assign]
    import uvicorn
    from feast import FeatureStore
    from feast.api.registry.rest.rest_registry_server import RestRegistryServer

    uvicorn.run(RestRegistryServer(FeatureStore(repo_path=folder)).app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    rest_server(sys.argv[1], int(sys.argv[2]))
