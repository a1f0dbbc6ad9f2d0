"""Many writers at once lose nothing and see no error, on every database, and all replicas see the result."""

import subprocess
import time

import grpc
import pytest

import harness
import registries
import registry_load as load
from harness import Node, eventually
from registries import Backend, Clients

WRITERS, VIEWS = 16, 50
PROJECT = "load"
DATABASES = ("sqlite", "postgres", "mariadb")
EXPECTED = {f"view_{writer}_{number}" for writer in range(WRITERS) for number in range(VIEWS)}


@pytest.mark.parametrize("replicas", [1, 2], ids=["one server", "two servers"])
@pytest.mark.parametrize("backend", DATABASES, indirect=True)
def test_many_clients_at_once_lose_nothing(backend: Backend, replicas: int) -> None:
    nodes: list[Node] = []
    try:
        for _ in range(replicas):
            nodes.append(backend.start())
        addresses = [registries.address(node) for node in nodes]
        channels = [grpc.insecure_channel(address) for address in addresses]
        load.prepare(channels[0], PROJECT)
        shares = [[load.apply(load.view(f"view_{writer}_{number}"), PROJECT) for number in range(VIEWS)] for writer in range(WRITERS)]
        clients = Clients(backend.folder / "clients", shares, addresses)
        begin = time.monotonic()
        assert clients.run() == []
        written = time.monotonic()
        for channel in channels:
            eventually(lambda: set(load.views(channel, PROJECT)) == EXPECTED, "every replica has all views a second after the last write", deadline=1)
        print(f"{backend.name}, {replicas}: written in {written - begin:.1f} s, seen after {time.monotonic() - written:.2f} s")
        for node in nodes:
            node.stop()
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.parametrize("backend", ["file", *DATABASES], indirect=True)
def test_many_applies_at_once_lose_nothing(backend: Backend) -> None:
    """The command, each with a project of its own, on the storage itself."""
    for writer in range(WRITERS):
        repo = backend.repo(f"apply-{writer}", project=f"load_{writer}")
        load.data(repo)
        (repo / "definitions.yaml").write_text(load.definitions([f"view_{writer}_{number}" for number in range(VIEWS)]))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    folders = [backend.folder / f"apply-{writer}" for writer in range(WRITERS)]
    running = [subprocess.Popen([harness.binary(), "apply"], cwd=folder, env=harness.environment(**backend.env), **pipes) for folder in folders]
    outputs = [(process.communicate(timeout=harness.DEADLINE)[0], process.returncode) for process in running]
    assert [output for output, code in outputs if code] == []
    with backend.serve() as node:
        channel = grpc.insecure_channel(registries.address(node))
        assert {name for writer in range(WRITERS) for name in load.views(channel, f"load_{writer}")} == EXPECTED
