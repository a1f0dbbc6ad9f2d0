"""Places for a registry, one of each kind, and thali's registry server on them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

import clouds
import harness
import servers
from harness import Node

OBJECTS = ("s3", "gcs", "azure")
BACKENDS = ("file", "sqlite", "postgres", "mariadb", "s3", "remote")
#: The other clouds' differ from the one only in how an object is read and written; for tests of what is stored there.
ALL_BACKENDS = (*BACKENDS, "gcs", "azure")
SERVICE = "/feast.registry.RegistryServer/"


@dataclass
class Backend:
    """A new, empty place for a registry."""

    name: str
    folder: Path
    #: The `registry` of a feature_store.yaml, thali's and Feast's alike.
    registry: str
    #: The same as SQLAlchemy's URL, for a database.
    url: str | None = None
    #: What has to run for it.
    server: "servers.Server | Upstream | None" = None
    env: dict[str, str] = field(default_factory=dict)
    #: The `registry` with which stock Feast opens the storage itself, where it is another one.
    storage: str | None = None
    #: Of an object store.
    bucket: str = ""

    @classmethod
    def new(cls, name: str, folder: Path, request: pytest.FixtureRequest) -> "Backend":
        if name == "file":
            return cls(name, folder, str(folder / "registry.db"))
        if name == "remote":
            file = cls("file", folder / "upstream", str(folder / "upstream/registry.db"))
            upstream = Upstream(file)
            request.addfinalizer(upstream.kill)
            upstream.start()
            registry = f"{{registry_type: remote, path: '127.0.0.1:{upstream.port}'}}"
            return cls(name, folder, registry, server=upstream, storage=file.registry)
        if name in OBJECTS:
            server: servers.ObjectServer = request.getfixturevalue(name)
            bucket = server.new_bucket()
            backend = cls(name, folder, f"{server.scheme}://{bucket}/feast/registry.db", server=server, env=server.environment(), bucket=bucket)
            if isinstance(server, clouds.Azure):
                # As Feast has it: the account by its host, and the key in a variable of Feast's.
                at = "{{registry_store_type: AzureRegistryStore, path: '{}/{}/feast/registry.db'}}"
                backend.registry, backend.storage = (at.format(url, bucket) for url in (server.url, f"http://{server.HOST}:{server.port}"))
                backend.env = {"REGISTRY_BLOB_KEY": server.secret}
            return backend
        url = f"sqlite:///{folder}/registry.sqlite" if name == "sqlite" else request.getfixturevalue(f"{name}_url")
        server = None if name == "sqlite" else request.getfixturevalue(name)
        return cls(name, folder, f"{{registry_type: sql, path: '{url}'}}", url, server)

    def repo(self, name: str = "server", project: str = "sdk", registry: str | None = None) -> Path:
        """A folder with a feature_store.yaml for this registry, or for another, and nothing else."""
        repo = self.folder / name
        repo.mkdir(parents=True, exist_ok=True)
        (repo / "feature_store.yaml").write_text(
            f"""project: {project}
provider: local
registry: {registry or self.registry}
online_store: {{type: sqlite, path: {self.folder / "online.db"}}}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""
        )
        return repo

    def content(self) -> bytes:
        """The one file or object that is the registry, where it is one."""
        if isinstance(self.server, servers.ObjectServer):
            return self.server.get(self.bucket, "feast/registry.db")
        return Path(self.registry).read_bytes()

    def replace_content(self, content: bytes) -> None:
        if isinstance(self.server, servers.ObjectServer):
            self.server.put(self.bucket, "feast/registry.db", content)
        else:
            Path(self.registry).write_bytes(content)

    def start(self, *arguments: object) -> Node:
        return Node.start(self.repo(), "registry", *arguments, env=harness.environment(**self.env))

    @contextmanager
    def serve(self) -> Iterator[Node]:
        """thali's registry server on it."""
        node = self.start()
        try:
            yield node
            node.stop()
        finally:
            node.kill()


class Upstream:
    """thali's registry server on a file, for those who have it as their remote registry."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.port = backend, servers.free_port()
        self.node: Node | None = None

    def start(self) -> None:
        if self.node is None or self.node.process.poll() is not None:
            self.node = self.backend.start("--registry-port", self.port)

    def stop(self) -> None:
        assert self.node
        self.node.stop()

    def kill(self) -> None:
        if self.node:
            self.node.kill()


def address(node: Node) -> str:
    return node.addresses["registry"].split("//")[1]


def call(channel: grpc.Channel, method: str, request: Any, answer: Any = None, timeout: float = harness.DEADLINE) -> Any:
    """One RPC; `request` is a message or its bytes, `answer` the class of its answer."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    reply = channel.unary_unary(SERVICE + method)(body, timeout=timeout)
    return answer.FromString(reply) if answer else reply


class Clients:
    """Many processes that send requests at once; see `load_client.py`."""

    def __init__(self, folder: Path, shares: Sequence[Sequence[tuple[str, bytes]]], addresses: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = []
        for number, share in enumerate(shares):
            file = folder / f"requests-{number}.json"
            file.write_text(json.dumps([[method, body.hex()] for method, body in share]))
            # Each begins with another server.
            turn = number % len(addresses)
            command = [sys.executable, str(Path(__file__).with_name("load_client.py")), str(file), *addresses[turn:], *addresses[:turn]]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def run(self, deadline: float = harness.DEADLINE) -> list[str]:
        """Starts all at the same time; what went wrong, one line per request."""
        try:
            for process in self.processes:
                assert process.stdout.readline() == "connected\n"
            for process in self.processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            return [line for process in self.processes for line in process.communicate(timeout=deadline)[0].splitlines()]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
