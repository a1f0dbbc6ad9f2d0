"""A process or a database that ends in the middle of writes: the registry is always as before an apply or as after it, and what
was acknowledged is there.

Every round has two writers: `thali apply` of a folder, whose generation shows in every object, and a client that changes
one view through a server again and again. At some moment of the round both processes are killed, or the database is. What
is checked holds whatever that moment was; a hundred rounds make it hit all kinds of moments.
"""

import random
import subprocess
import threading
import time
from dataclasses import dataclass, field

import grpc
import pytest
import sqlalchemy
from feast.protos.feast.core.FeatureView_pb2 import FeatureView
from feast.protos.feast.core.Registry_pb2 import Registry

import harness
import registries
import registry_load as load
import servers
from harness import Node
from registries import Backend, call

#: How often each place is hit, and by what; a hundred times in all.
ROUNDS = {
    "file": ["processes"] * 20,
    "s3": ["processes"] * 10,
    "sqlite": ["processes"] * 20,
    "postgres": ["processes", "database"] * 15,
    "mariadb": ["processes", "database"] * 10,
}
assert sum(map(len, ROUNDS.values())) == 100
STABLE, CHANGING = 15, 5


@dataclass
class Stored:
    """What is in the storage, read without thali."""

    views: dict[tuple[str, str], FeatureView] = field(default_factory=dict)
    #: The newest version of each view.
    versions: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def read(cls, backend: Backend) -> "Stored":
        stored = cls()
        if backend.url is None:
            registry = Registry.FromString(backend.content())
            stored.views = {(view.spec.project, view.spec.name): view for view in registry.feature_views}
            versions = [(r.project_id, r.feature_view_name, r.version_number) for r in registry.feature_view_version_history.records]
        else:
            engine = sqlalchemy.create_engine(backend.url, poolclass=sqlalchemy.NullPool)
            with engine.connect() as connection:
                for project, name, proto in connection.execute(sqlalchemy.text("SELECT project_id, feature_view_name, feature_view_proto FROM feature_views")):
                    stored.views[project, name] = FeatureView.FromString(proto)
                query = "SELECT project_id, feature_view_name, version_number FROM feature_view_version_history"
                versions = [tuple(row) for row in connection.execute(sqlalchemy.text(query))]
        for project, name, number in versions:
            stored.versions[project, name] = max(number, stored.versions.get((project, name), 0))
        return stored

    def generation(self) -> int:
        """The one generation that all of the folder's objects have."""
        views = {name: view for (project, name), view in self.views.items() if project == "whole"}
        generations = {int(view.spec.tags["generation"]) for view in views.values()}
        assert len(generations) == 1, f"half applied: {sorted((name, view.spec.tags['generation']) for name, view in views.items())}"
        (generation,) = generations
        assert set(views) == set(names(generation)), f"objects of another generation than {generation}: {sorted(views)}"
        for name, view in views.items():
            assert len(view.spec.features) == 1 + generation % 2
            assert view.meta.current_version_number == self.versions["whole", name], f"{name} and its versions differ"
        return generation


def names(generation: int) -> list[str]:
    """The views of a generation: most are in all of them, some only in every other one."""
    return [f"stable_{number}" for number in range(STABLE)] + [f"changing_{generation % 2}_{number}" for number in range(CHANGING)]


@dataclass
class Counter:
    """A client that stores a number after the other through a server, and knows which it was promised to find again."""

    sent: int = 0
    acknowledged: int = -1
    errors: list[str] = field(default_factory=list)

    def run(self, address: str, end: threading.Event) -> None:
        with grpc.insecure_channel(address) as channel:
            while not end.is_set():
                self.sent += 1
                view = load.view("counter", number=str(self.sent))
                try:
                    call(channel, *load.apply(view, "single"))
                    self.acknowledged = self.sent
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code().name} {error.details()}")
                    time.sleep(0.01)  # not to spin while the server is away


@pytest.mark.parametrize("backend", ROUNDS, indirect=True)
def test_killed_in_the_middle(backend: Backend) -> None:
    repo = backend.repo("apply", project="whole")
    load.data(repo)
    counter, moments, generation, took = Counter(), random.Random(1), 0, 0.0
    outcomes = {"acknowledged": 0, "after": 0, "before": 0}

    def apply() -> subprocess.Popen[str]:
        text = load.definitions(names(generation), generation, ["rate", "trips"][: 1 + generation % 2])
        (repo / "definitions.yaml").write_text(text)
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([harness.binary(), "apply"], cwd=repo, env=harness.environment(**backend.env), **pipes)

    for _ in range(2):  # the second is like those to come: it tells how long they take
        begin = time.monotonic()
        process = apply()
        _, errors = process.communicate(timeout=harness.DEADLINE)
        assert process.returncode == 0, errors
        took = time.monotonic() - begin
        generation += 1
    last = generation - 1
    assert Stored.read(backend).generation() == last

    node = backend.start()
    try:
        with grpc.insecure_channel(registries.address(node)) as channel:
            load.prepare(channel, "single")
        for target in ROUNDS[backend.name]:
            if node.process.poll() is not None:
                node = backend.start()
            end = threading.Event()
            client = threading.Thread(target=counter.run, args=(registries.address(node), end))
            client.start()
            process = apply()
            time.sleep(moments.uniform(0, 2 * took))
            if target == "database":
                assert isinstance(backend.server, servers.Database)
                backend.server.restart()
                promised = counter.acknowledged
                harness.eventually(lambda: counter.acknowledged > promised, "the server writes again")
            else:
                process.kill()
                node.kill()
            _, errors = process.communicate(timeout=harness.DEADLINE)
            end.set()
            client.join()
            stored = Stored.read(backend)
            now = stored.generation()
            assert now in (last, generation), f"neither before nor after: {last}, {generation}, {now}"
            if process.returncode == 0:
                assert now == generation, "it was acknowledged and is not there"
            elif process.returncode > 0:
                assert_one_line(errors)
            outcomes["acknowledged" if process.returncode == 0 else "after" if now == generation else "before"] += 1
            number = int(stored.views["single", "counter"].spec.tags["number"])
            assert counter.acknowledged <= number <= counter.sent, "an acknowledged change is not there"
            last, generation = now, generation + 1
        log = node.log_text()
    finally:
        node.kill()
    print(f"{backend.name}: {outcomes}; {counter.acknowledged} of {counter.sent} acknowledged, errors: {set(counter.errors)}")
    assert "panicked" not in log and servers.PASSWORD not in log
    for error in set(counter.errors):
        assert servers.PASSWORD not in error and "\n" not in error
    assert min(len(counter.errors), counter.acknowledged) > 0, "nothing was interrupted, or nothing was written"


def assert_one_line(errors: str) -> None:
    assert servers.PASSWORD not in errors and servers.quote(servers.PASSWORD, safe="") not in errors, errors
    assert "panicked" not in errors, errors
    problems = [line for line in errors.splitlines() if line.startswith("error")]
    assert len(problems) == 1, errors
