"""Many writers at once lose nothing and see no error, on every database, and all replicas see the result."""

import itertools
import subprocess
import time
from dataclasses import dataclass

import grpc
import pytest

import harness
import registries
import registry_load as load
from harness import Node, eventually
from registries import Backend, Clients

PROJECT = "load"
WRITERS, VIEWS = 16, 50


@dataclass(frozen=True)
class Load:
    """How many clients apply how many views each, through how many servers on one storage."""

    backend: str
    servers: int
    writers: int = WRITERS
    views: int = VIEWS

    def __str__(self) -> str:
        return f"{self.backend}-{self.servers} servers"

    def names(self) -> list[list[str]]:
        return [[f"view_{writer}_{number}" for number in range(self.views)] for writer in range(self.writers)]


# Two servers are the harder case, so one gets less of it; and a registry that is one file is written whole with every change.
LOADS = [
    Load("sqlite", 1, WRITERS, 10),
    Load("sqlite", 2),
    Load("postgres", 1, WRITERS, 10),
    Load("postgres", 2),
    Load("mariadb", 1, WRITERS, 10),
    Load("mariadb", 2),
    Load("file", 2, 8, 10),
    Load("s3", 2, 8, 5),
    Load("remote", 2, 8, 10),
]


@pytest.mark.parametrize(("backend", "size"), [pytest.param(size.backend, size, id=str(size)) for size in LOADS], indirect=["backend"])
def test_many_clients_at_once_lose_nothing(backend: Backend, size: Load) -> None:
    nodes: list[Node] = []
    try:
        for _ in range(size.servers):
            nodes.append(backend.start())
        addresses = [registries.address(node) for node in nodes]
        channels = [grpc.insecure_channel(address) for address in addresses]
        load.prepare(channels[0], PROJECT)
        shares = [[load.apply(load.view(name), PROJECT) for name in names] for names in size.names()]
        expected = set(itertools.chain(*size.names()))
        clients = Clients(backend.folder / "clients", shares, addresses)
        begin = time.monotonic()
        assert clients.run() == []
        written = time.monotonic()
        for channel in channels:
            eventually(lambda: set(load.views(channel, PROJECT)) == expected, "every replica has all views a second after the last write", deadline=1)
        print(f"{size}: written in {written - begin:.1f} s, seen after {time.monotonic() - written:.2f} s")
        for node in nodes:
            node.stop()
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.parametrize("backend", ["file", "sqlite", "postgres", "mariadb"], indirect=True)
def test_many_applies_at_once_lose_nothing(backend: Backend) -> None:
    """The command, each with a project of its own, on the storage itself."""
    names = Load(backend.name, 0).names()
    for writer in range(WRITERS):
        repo = backend.repo(f"apply-{writer}", project=f"load_{writer}")
        load.data(repo)
        (repo / "definitions.yaml").write_text(load.definitions(names[writer]))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    folders = [backend.folder / f"apply-{writer}" for writer in range(WRITERS)]
    running = [subprocess.Popen([harness.binary(), "apply"], cwd=folder, env=harness.environment(**backend.env), **pipes) for folder in folders]
    outputs = [(process.communicate(timeout=harness.DEADLINE)[0], process.returncode) for process in running]
    assert [output for output, code in outputs if code] == []
    with backend.serve() as node:
        channel = grpc.insecure_channel(registries.address(node))
        assert [set(load.views(channel, f"load_{writer}")) for writer in range(WRITERS)] == [set(share) for share in names]
