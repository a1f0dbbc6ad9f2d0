"""A registry of many feature views: thali beside Feast's own registry server, on one machine in one run.

    cargo build --release && make venv servers
    target/venv/bin/python benches/registry.py [--views 10000] [--database postgres|sqlite] [--bin target/release/thali]

Each gets a database with the same rows, in Feast's tables (PostgreSQL is started for the run, see tests/servers.py), and two
replicas on it: one takes the changes, the other is read. Measured are, in this order: start until the first answer; all views
(ListFeatureViews), a page of 100 of them and one view (GetFeatureView), each by one client that asks again and again; one
changed view (ApplyFeatureView); how soon the other replica serves that change; online features (HTTP) at a fixed rate, first
undisturbed, then while views change all the time; memory of the reading replica. Feast's online features come from `feast
serve` on the same database, thali's from the reading replica itself.

The client is the same for both: Python's gRPC with bytes in and out, nothing decoded. The line "no work" is what this client
needs for a call that does nothing (gRPC health), so it is the floor of every other line. Online latencies count from the
moment at which a request was due, so that a server that stalls pays for all requests that had to wait. Both serve reads from
their caches (allow_cache); `--ttl` is after how many seconds Feast's replicas reload theirs, thali's hear of changes.

Nothing here is a test: figures depend on the machine, so quote them with it.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import grpc
import sqlalchemy
from feast.infra.registry import sql as feast_sql
from feast.protos.feast.core.FeatureView_pb2 import FeatureView
from feast.protos.feast.core.Project_pb2 import Project
from feast.protos.feast.registry import RegistryServer_pb2 as rpc
from grpc_health.v1 import health_pb2

import registry_load as load
import servers
from registries import SERVICE

PROJECT = "load"
FEAST = pathlib.Path(sys.executable).with_name("feast")
OPTIONS = [("grpc.max_receive_message_length", -1)]
ONLINE = {"features": ["view_0:rate", "view_0:trips"], "entities": {"driver_id": [1, 2, 3]}}
YAML = """project: {project}
provider: local
registry: {{registry_type: sql, path: '{url}', cache_ttl_seconds: {ttl}}}
online_store: {{type: sqlite, path: {folder}/online.db}}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""


# --- the registry ---------------------------------------------------------------------------------------------------


def view(number, **tags):
    """A view as people have them: a few features with descriptions, tags, an owner."""
    view = load.view(f"view_{number}", team=f"team-{number % 20}", **tags)
    view.spec.description, view.spec.owner = f"What drivers did, part {number}", "ops@example.com"
    for feature in range(6):
        view.spec.features.add(name=f"extra_{feature}", value_type=view.spec.features[0].value_type, description="One more")
    return view


def fill(url, views):
    """Feast's tables and rows, as its own registry would have written them."""
    now = int(time.time())
    engine = sqlalchemy.create_engine(url)
    feast_sql.metadata.create_all(engine)
    project, driver = Project(), load.driver()
    project.spec.name = PROJECT
    for stored in (project, driver):  # without, Feast writes them again with every change
        stored.meta.created_timestamp.GetCurrentTime()
        stored.meta.last_updated_timestamp.CopyFrom(stored.meta.created_timestamp)
    rows = []
    for number in range(views):
        stored = view(number)
        stored.meta.created_timestamp.GetCurrentTime()
        stored.meta.last_updated_timestamp.CopyFrom(stored.meta.created_timestamp)
        rows.append((stored.spec.name, stored.SerializeToString()))
    common = {"project_id": PROJECT, "last_updated_timestamp": now}
    with engine.begin() as connection:
        insert = lambda table, rows: connection.execute(table.insert(), rows)
        insert(feast_sql.projects, [common | {"project_name": PROJECT, "project_proto": project.SerializeToString()}])
        insert(feast_sql.entities, [common | {"entity_name": "driver", "entity_proto": driver.SerializeToString()}])
        insert(feast_sql.data_sources, [common | {"data_source_name": "trips", "data_source_proto": load.source().SerializeToString()}])
        insert(feast_sql.feature_views, [common | {"feature_view_name": name, "feature_view_proto": proto} for name, proto in rows])
        version = {"project_id": PROJECT, "version_number": 0, "feature_view_type": "feature_view", "created_timestamp": now, "description": ""}
        versions = [version | {"feature_view_name": name, "feature_view_proto": proto, "version_id": f"{number:036}"} for number, (name, proto) in enumerate(rows)]
        insert(feast_sql.feature_view_version_history, versions)
        insert(feast_sql.feast_metadata, [common | {"metadata_key": "project_uuid", "metadata_value": f"{views:036}"}])
    engine.dispose()


# --- the two systems ------------------------------------------------------------------------------------------------


class System:
    """One of the two, with its database: starts processes and ends them."""

    def __init__(self, url, folder, options):
        self.url, self.options, self.processes = url, options, []
        self.folder = folder / type(self).__name__.lower()
        self.folder.mkdir()
        text = YAML.format(project=PROJECT, url=url, folder=self.folder, ttl=options.ttl)
        (self.folder / "feature_store.yaml").write_text(text)

    def spawn(self, *command):
        log = open(self.folder / f"process-{len(self.processes)}.log", "w+")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, text=True)
        self.processes.append((process, log))
        return process

    def wait(self, process, check):
        """Until `check` answers without an error."""
        end = time.monotonic() + 300
        while True:
            try:
                return check()
            except (grpc.RpcError, OSError, http.client.HTTPException) as error:
                if process.poll() is not None or time.monotonic() > end:
                    log = next(log for other, log in self.processes if other is process)
                    log.seek(0)
                    raise SystemExit(f"{process.args} does not serve: {error}\n{log.read()[-3000:]}")
                time.sleep(0.005)

    def replica(self):
        """A registry server: its process, a channel to it, and the seconds until its first answer."""
        port, begin = servers.free_port(), time.monotonic()
        process = self.serve_registry(port)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", [*OPTIONS, ("grpc.max_reconnect_backoff_ms", 50), ("grpc.initial_reconnect_backoff_ms", 10)])
        self.wait(process, lambda: call(channel, *get(0)))
        return process, channel, time.monotonic() - begin

    def close(self):
        for process, log in self.processes:
            process.send_signal(signal.SIGTERM)
        for process, log in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            log.close()


class Thali(System):
    def serve_registry(self, port):
        self.online_port = servers.free_port()
        ports = ["--registry-port", port, "--online-port", self.online_port, "--registry-rest-port", 0, "--metrics-port", 0]
        return self.spawn(self.options.bin, "-c", self.folder, "serve", "--role", "registry,online", *ports)

    def online(self):
        return self.processes[-1][0], self.online_port


class Feast(System):
    def serve_registry(self, port):
        return self.spawn(FEAST, "-c", self.folder, "serve_registry", "-p", port)

    def online(self):
        from feast import FeatureStore

        store = FeatureStore(repo_path=str(self.folder))
        store._get_provider().update_infra(PROJECT, [], [store.get_feature_view("view_0")], [], [], partial=True)
        port = servers.free_port()
        command = ["serve", "-p", port, "--no-access-log", "--max-requests", 0, "--registry_ttl_sec", self.options.ttl]
        return self.spawn(FEAST, "-c", self.folder, *command), port


# --- the client -----------------------------------------------------------------------------------------------------


def call(channel, method, request):
    return channel.unary_unary(method)(request.SerializeToString(), timeout=300)


def get(number):
    return f"{SERVICE}GetFeatureView", rpc.GetFeatureViewRequest(name=f"view_{number}", project=PROJECT, allow_cache=True)


def changed(number, generation):
    return f"{SERVICE}ApplyFeatureView", rpc.ApplyFeatureViewRequest(feature_view=view(number, generation=str(generation)), project=PROJECT, commit=True)


def listing(**page):
    request = rpc.ListFeatureViewsRequest(project=PROJECT, allow_cache=True)
    if page:
        request.pagination.page, request.pagination.limit = page["page"], page["limit"]
    return f"{SERVICE}ListFeatureViews", request


def repeat(ask, seconds, most):
    """Milliseconds of each of up to `most` calls one after the other, and of as many as fit in the time, but at least 3."""
    times, end = [], time.monotonic() + seconds
    while len(times) < 3 or (time.monotonic() < end and len(times) < most):
        begin = time.perf_counter()
        ask()
        times.append((time.perf_counter() - begin) * 1000)
    return times


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


class Online:
    """Asks for online features at a fixed rate."""

    RATE = 50

    def __init__(self, port):
        self.port = port

    def post(self, path, body, connection=None):
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise http.client.HTTPException(f"{answer.status}: {text[:500]}")
        return text

    def write(self):
        columns = {"driver_id": [1, 2, 3], "event_timestamp": ["2026-03-01T00:00:00Z"] * 3, "rate": [0.1, 0.2, 0.3], "trips": [1.0, 2.0, 3.0]}
        columns |= {f"extra_{number}": [0.5] * 3 for number in range(6)}
        self.post("/write-to-online-store", {"feature_view_name": "view_0", "df": columns, "allow_registry_cache": True})

    def measure(self, seconds):
        times, connection = [], http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        begin = time.perf_counter()
        for number in itertools.count():
            due = begin + number / self.RATE
            if due > begin + seconds:
                return times
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            self.post("/get-online-features", ONLINE, connection)
            times.append((time.perf_counter() - due) * 1000)


# --- the run --------------------------------------------------------------------------------------------------------


def memory(process):
    """Resident MiB of the process and its children."""
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
    family = {process.pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    lines = [line for pid in family for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return sum(int(line.split()[1]) for line in lines) / 1024


def measure(system, options):
    """Name of the figure → its value, all of them such that less is better."""
    figures, numbers = {}, random.Random(1)
    seconds, any_view = options.seconds, lambda: numbers.randrange(options.views)

    def record(name, times):
        figures[f"{name}, p50, ms"], figures[f"{name}, p99, ms"] = statistics.median(times), percentile(times, 0.99)

    writer_process, writer, _ = system.replica()
    reader_process, reader, figures["start until the first answer, s"] = system.replica()
    health = "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest()
    record("no work", repeat(lambda: call(reader, *health), seconds, 2000))
    whole = call(reader, *listing())
    if (count := len(rpc.ListFeatureViewsResponse.FromString(whole).feature_views)) != options.views:
        raise SystemExit(f"{count} views instead of {options.views}")
    print(f"  {type(system).__name__}: all views are {len(whole) / 2**20:.1f} MiB", file=sys.stderr)
    record("all views", repeat(lambda: call(reader, *listing()), seconds, 500))
    record("page of 100", repeat(lambda: call(reader, *listing(page=numbers.randrange(max(1, options.views // 100)) + 1, limit=100)), seconds, 2000))
    record("one view", repeat(lambda: call(reader, *get(any_view())), seconds, 5000))
    generations = itertools.count(1)
    record("one change", repeat(lambda: call(writer, *changed(any_view(), next(generations))), seconds, 200))

    def fresh():
        number, generation = any_view(), next(generations)
        call(writer, *changed(number, generation))
        begin, tag = time.perf_counter(), str(generation)
        while FeatureView.FromString(call(reader, *get(number))).spec.tags["generation"] != tag:
            if time.perf_counter() - begin > 120:
                raise SystemExit("the reader does not see the change")
            time.sleep(0.001)
        return (time.perf_counter() - begin) * 1000

    delays = [fresh() for _ in range(options.changes)]
    figures["change seen by the other replica, median, ms"], figures["change seen by the other replica, worst, ms"] = statistics.median(delays), max(delays)
    figures["memory of the reading replica, MiB"] = memory(reader_process)

    process, port = system.online()
    online = Online(port)
    system.wait(process, online.write)
    system.wait(process, lambda: online.post("/get-online-features", ONLINE))
    online.measure(1)
    record("online, undisturbed", online.measure(seconds))
    end, made = threading.Event(), []

    def change():
        while not end.is_set():
            call(writer, *changed(any_view(), next(generations)))
            made.append(1)
            end.wait(0.2)

    changes = threading.Thread(target=change)
    changes.start()
    record("online, views change", online.measure(seconds))
    end.set()
    changes.join()
    print(f"  {type(system).__name__}: {len(made)} changes meanwhile", file=sys.stderr)
    return figures


@contextlib.contextmanager
def databases(kind, folder, count):
    """As many new databases, each by its URL."""
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            yield [f"sqlite:///{folder}/registry-{number}.sqlite" for number in range(count)]
        else:
            server = stack.enter_context(servers.Postgres.running())
            yield [stack.enter_context(server.database()) for _ in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target/release/thali"))
    parser.add_argument("--views", type=int, default=10_000)
    parser.add_argument("--database", choices=["postgres", "sqlite"], default="postgres")
    parser.add_argument("--seconds", type=float, default=20, help="how long each figure is measured, at most")
    parser.add_argument("--changes", type=int, default=10, help="how many changes the other replica has to see")
    parser.add_argument("--ttl", type=int, default=5, help="Feast's cache_ttl_seconds and --registry_ttl_sec")
    parser.add_argument("--only", choices=["thali", "feast"], help="measure one of the two")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder, databases(options.database, folder, 2) as urls:
        for system_class, url in zip((Thali, Feast), urls):
            name = system_class.__name__.lower()
            if options.only in (None, name):
                fill(url, options.views)
                system = system_class(url, pathlib.Path(folder), options)
                try:
                    found[name] = measure(system, options)
                finally:
                    system.close()
    print(f"{options.views} feature views on {options.database}, cache of Feast {options.ttl} s")
    print(f"{'':48}{''.join(f'{name:>12}' for name in found)}{'ratio':>10}")
    for figure in next(iter(found.values())):
        values = [figures[figure] for figures in found.values()]
        ratio = f"{values[1] / values[0]:9.1f}x" if len(values) == 2 else ""
        print(f"{figure:48}{''.join(f'{value:12.2f}' for value in values)}{ratio:>10}")


if __name__ == "__main__":
    main()
