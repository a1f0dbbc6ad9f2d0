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

import harness
import servers
from harness import Node

BACKENDS = ("file", "sqlite", "postgres", "mariadb", "s3")
SERVICE = "/feast.registry.RegistryServer/"


@dataclass
class Backend:
    """A new, empty place for a registry."""

    name: str
    folder: Path
    #: The `registry` of a feature_store.yaml, thali's and Feast's alike.
    registry: str
    #: The same as SQLAlchemy's URL, and the server behind it, for a database.
    url: str | None = None
    server: servers.Server | None = None
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def new(cls, name: str, folder: Path, request: pytest.FixtureRequest) -> "Backend":
        if name == "file":
            return cls(name, folder, str(folder / "registry.db"))
        if name == "s3":
            server: servers.S3 = request.getfixturevalue("s3")
            return cls(name, folder, f"s3://{server.new_bucket()}/feast/registry.db", server=server, env=server.environment())
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
