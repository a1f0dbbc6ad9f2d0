"""Online features: thali beside Feast's own server, the store's limit and a static answer, in one run on one machine.

    cargo build --release && make venv servers
    target/venv/bin/python benches/online.py [--stores redis,postgres,sqlite] [--shapes 10x1,250x100] [--seconds 3]

10 views of 25 features (all common types, some nulls), one integer entity, loaded by `thali materialize` into the store; both
serve what is there. A shape such as 50x10 asks for 50 features (10 of each of 5 views) of 10 entities, 2 % of them unknown.
Answers of both are compared value by value before anything is measured.

Saturation is 16 connections that each send the next request when the answer is in, best of the rounds. p50 and p99 are at half
the rate at which the slower of the two is saturated, from the moment a request was due. CPU is user and system time of the
server's processes, and of the store's, per request at saturation. Feast runs two workers that are never recycled.

The shapes of 250 features are also asked as a feature service with `precompute_online`, which reads one vector for each entity.

The limit of a store is what it does for the same rows without a feature server: on Redis one HMGET of the asked fields or one
HGETALL for each entity, whichever is faster, 16 requests in flight on one connection; on PostgreSQL pgbench with the same
statement, prepared. The static line is a server that answers any request with the same bytes (`benches/load.rs`).

Nothing here is a test: figures depend on the machine, so quote ratios, with it.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime, timedelta

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import pyarrow
import pyarrow.parquet

import servers

PROJECT = "bench"
FEAST = pathlib.Path(sys.executable).with_name("feast")
VIEWS, FEATURES = 10, 25
TYPES = ["Float64", "Int64", "Float32", "String", "Bool", "Int32", "Float64", "UnixTimestamp", "Array(Int64)"]
WHEN = datetime(2026, 3, 1, tzinfo=UTC)
SHAPES = [(features, entities) for features in (10, 50, 250) for entities in (1, 10, 100)]
TICKS = os.sysconf("SC_CLK_TCK")


# --- the project ----------------------------------------------------------------------------------------------------


def column(kind, number, entities):
    draw = random.Random(number)
    match kind:
        case "Float64":
            return pyarrow.array([None if draw.random() < 0.05 else draw.random() for _ in range(entities)], pyarrow.float64())
        case "Float32":
            return pyarrow.array([draw.random() for _ in range(entities)], pyarrow.float32())
        case "Int64":
            return pyarrow.array([draw.randrange(10**9) for _ in range(entities)], pyarrow.int64())
        case "Int32":
            return pyarrow.array([draw.randrange(10**6) for _ in range(entities)], pyarrow.int32())
        case "String":
            return pyarrow.array([f"value-{draw.randrange(10**6)}" for _ in range(entities)], pyarrow.string())
        case "Bool":
            return pyarrow.array([draw.random() < 0.5 for _ in range(entities)], pyarrow.bool_())
        case "UnixTimestamp":
            return pyarrow.array([WHEN - timedelta(seconds=draw.randrange(10**7)) for _ in range(entities)], pyarrow.timestamp("us", "UTC"))
        case _:
            return pyarrow.array([[draw.randrange(100) for _ in range(3)] for _ in range(entities)], pyarrow.list_(pyarrow.int64()))


def kind(feature):
    return TYPES[feature % len(TYPES)]


def write_project(folder, store, entities):
    folder.mkdir()
    settings = "\n".join(f"  {key}: {json.dumps(value)}" for key, value in store.items())
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nprovider: local\nregistry: registry.db\nonline_store:\n{settings}\noffline_store: {{type: dask}}\nentity_key_serialization_version: 3\n"
    )
    lines = ["entities:", "  - {name: id, join_key: id, value_type: Int64}", "data_sources:"]
    for view in range(VIEWS):
        lines.append(f"  - {{name: s{view}, type: file, path: {folder}/s{view}.parquet, timestamp_field: event_timestamp}}")
        names = ["id", "event_timestamp", *(f"f{view}_{feature}" for feature in range(FEATURES))]
        arrays = [pyarrow.array(range(entities), pyarrow.int64()), pyarrow.array([WHEN] * entities, pyarrow.timestamp("us", "UTC"))]
        arrays += [column(kind(feature), view * FEATURES + feature, entities) for feature in range(FEATURES)]
        pyarrow.parquet.write_table(pyarrow.table(arrays, names=names), folder / f"s{view}.parquet")
    lines.append("feature_views:")
    for view in range(VIEWS):
        schema = ", ".join(f"{{name: f{view}_{feature}, type: {kind(feature)}}}" for feature in range(FEATURES))
        lines.append(f"  - {{name: v{view}, entities: [id], source: s{view}, online: true, schema: [{schema}]}}")
    lines += ["feature_services:", f"  - {{name: packed, features: [{', '.join(f'v{view}' for view in range(VIEWS))}], precompute_online: true}}"]
    (folder / "features.yaml").write_text("\n".join(lines) + "\n")


def asked(features):
    """The features of a shape, by view."""
    views = max(1, features // 10) if features <= 50 else VIEWS
    return {f"v{view}": [f"f{view}_{feature}" for feature in range(features // views)] for view in range(views)}


def bodies(features, entities, known):
    """Bodies of requests, each for other entities, some of them unknown."""
    draw = random.Random(features * 1000 + entities)
    refs = [f"{view}:{name}" for view, names in asked(features).items() for name in names]
    for _ in range(200 if entities < 100 else 50):
        ids = [draw.randrange(known) if draw.random() > 0.02 else known + draw.randrange(known) for _ in range(entities)]
        yield ids, json.dumps({"features": refs, "entities": {"id": ids}}).encode()


# --- the stores -----------------------------------------------------------------------------------------------------


def entity_key(number):
    return struct.pack("<III", 1, 2, 2) + b"id" + struct.pack("<IIq", 4, 8, number)


def murmur3(data):
    """MurmurHash3 x86 32 with seed 0: what Feast names the fields of a Redis hash by."""
    mask, hashed = 0xFFFFFFFF, 0
    mix = lambda block: ((block * 0xCC9E2D51 & mask) << 15 | (block * 0xCC9E2D51 & mask) >> 17) * 0x1B873593 & mask
    whole = len(data) // 4 * 4
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        hashed ^= mix(block)
        hashed = ((hashed << 13 | hashed >> 19) * 5 + 0xE6546B64) & mask
    if tail := data[whole:]:
        hashed ^= mix(int.from_bytes(tail, "little"))
    hashed ^= len(data)
    hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B & mask
    hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 & mask
    return struct.pack("<I", hashed ^ hashed >> 16)


class Redis:
    def __init__(self, stack):
        self.server = stack.enter_context(servers.Redis.running())
        self.process = self.server.process.pid
        self.config = {"type": "redis", "connection_string": f"127.0.0.1:{self.server.port}"}

    def limit(self, features, requests, options, folder):
        fields = [murmur3(f"{view}:{name}".encode()) for view, names in asked(features).items() for name in names]
        fields += [f"_ts:{view}".encode() for view in asked(features)]
        key = lambda number: entity_key(number) + PROJECT.encode()
        rates = {}
        for command, words in {"HMGET": fields, "HGETALL": []}.items():
            commands = [b"".join(resp(command.encode(), key(number), *words) for number in ids) for ids, _ in requests]
            with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
                whole = [(command, answered(connection, command, len(ids))) for command, (ids, _) in zip(commands, requests)]
            file = requests_file(folder / f"{command}.requests", whole)
            before = cpu(self.process)
            done = load(options, "raw", f"127.0.0.1:{self.server.port}", file, connections=1, pipeline=16, seconds=options.seconds)
            rates[command] = done["rate"], (cpu(self.process) - before) / done["requests"]
        best = max(rates, key=lambda command: rates[command][0])
        return best, rates[best]


def resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def answered(connection, request, replies):
    """The length of the answer to a request."""
    connection.sendall(request)
    reader, length = connection.makefile("rb"), 0

    def reply():
        nonlocal length
        line = reader.readline()
        length += len(line)
        if line[:1] == b"*":
            for _ in range(int(line[1:])):
                reply()
        elif line[:1] == b"$" and int(line[1:]) >= 0:
            length += len(reader.read(int(line[1:]) + 2))

    for _ in range(replies):
        reply()
    return length


class Postgres:
    def __init__(self, stack):
        self.server = stack.enter_context(servers.Postgres.running())
        self.process = self.server.process.pid
        self.server.execute("CREATE DATABASE online")
        self.config = {"type": "postgres", "host": "127.0.0.1", "port": self.server.port, "database": "online", "user": "thali", "password": servers.PASSWORD, "sslmode": "disable", "conn_type": "pool", "max_conn": 8}

    def limit(self, features, requests, options, folder):
        files = []
        for number, (ids, _) in enumerate(requests[:20]):
            keys = ", ".join(f"'\\x{entity_key(i).hex()}'::bytea" for i in ids)
            parts = []
            for tag, (view, names) in enumerate(asked(features).items()):
                listed = ", ".join(f"'{name}'" for name in names)
                parts.append(f"SELECT {tag} AS tag, entity_key, feature_name, value, event_ts FROM {PROJECT}_{view} WHERE entity_key = ANY(ARRAY[{keys}]) AND feature_name = ANY(ARRAY[{listed}])")
            files.append(folder / f"pgbench-{number}.sql")
            files[-1].write_text(" UNION ALL ".join(parts) + ";\n")
        command = [servers.program("pgbench", "postgresql"), "-h", "127.0.0.1", "-p", self.server.port, "-U", "thali", "-n", "-M", "prepared", "-c", 8, "-j", 1, "-T", max(1, round(options.seconds))]
        command += [part for file in files for part in ("-f", file)] + ["online"]
        before = cpu(self.process)
        done = subprocess.run([str(part) for part in command], env=os.environ | {"PGPASSWORD": servers.PASSWORD}, capture_output=True, text=True, check=True)
        rate = float(re.search(r"tps = ([\d.]+)", done.stdout)[1])
        count = int(re.search(r"transactions actually processed: (\d+)", done.stdout)[1])
        return "pgbench", (rate, (cpu(self.process) - before) / count)


class Sqlite:
    def __init__(self, stack):
        self.process = None
        self.config = {"type": "sqlite", "path": "online.db"}

    def limit(self, features, requests, options, folder):
        return None


STORES = {"redis": Redis, "postgres": Postgres, "sqlite": Sqlite}


# --- servers and load -----------------------------------------------------------------------------------------------


def family(pid):
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def cpu(pid):
    """Seconds of processor time of a process and its children, ended ones too."""
    total = 0
    for member in family(pid) if pid else ():
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15 if member == pid else 13]))
    return total / TICKS


def memory(pid):
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{member}/status").read_text()
            total += int(re.search(r"VmRSS:\s+(\d+)", text)[1])
    return total / 1024


def post(port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/get-online-features", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read()


@contextlib.contextmanager
def server(command, port, probe, log):
    with open(log, "w") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                post(port, probe)
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{command} does not serve: {error}\n{pathlib.Path(log).read_text()[-3000:]}")
                time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def http_request(body):
    return b"POST /get-online-features HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def requests_file(path, requests):
    path.write_bytes(b"".join(struct.pack("<II", len(request), length) + request for request, length in requests))
    return path


def load(options, mode, address, file, **settings):
    words = [part for name, value in settings.items() for part in (f"--{name}", value)]
    done = subprocess.run([str(part) for part in (options.load, mode, address, file, *words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr}")
    result = json.loads(done.stdout)
    if result["errors"]:
        raise SystemExit(f"{result['errors']} of {result['requests']} requests failed")
    return result


def saturate(options, port, file, pid, store):
    """The best of the rounds: rate, and CPU seconds of server and store for each request."""
    best = None
    load(options, "http", f"127.0.0.1:{port}", file, connections=16, seconds=min(1, options.seconds))
    for _ in range(options.rounds):
        before = cpu(pid), cpu(store)
        done = load(options, "http", f"127.0.0.1:{port}", file, connections=16, seconds=options.seconds)
        used = (cpu(pid) - before[0]) / done["requests"], (cpu(store) - before[1]) / done["requests"]
        if best is None or done["rate"] > best[0]:
            best = done["rate"], *used
    return best


def comparable(answer):
    """By name: what an answer says of each column, whatever the order."""
    answer = json.loads(answer)
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


# --- the run --------------------------------------------------------------------------------------------------------


def measure(name, options, folder):
    rows = []
    with contextlib.ExitStack() as stack:
        store = STORES[name](stack)
        repo = folder / name
        write_project(repo, store.config, options.entities)
        for command in (["apply"], ["materialize", "2026-01-01T00:00:00", "2026-06-01T00:00:00"]):
            subprocess.run([options.bin, "-c", repo, *command], check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        probe = next(bodies(10, 1, options.entities))[1]
        ports = {"thali": servers.free_port(), "feast": servers.free_port()}
        commands = {
            "thali": [options.bin, "-c", repo, "serve", "--role", "online", "--online-port", ports["thali"], "--metrics-port", 0],
            "feast": [FEAST, "-c", repo, "serve", "-p", ports["feast"], "-w", 2, "--no-access-log", "--max-requests", 10**9, "--registry_ttl_sec", 100000],
        }
        pids = {who: stack.enter_context(server(commands[who], ports[who], probe, folder / f"{name}-{who}.log")) for who in commands}
        for features, entities in options.shapes:
            requests = list(bodies(features, entities, options.entities))
            answers = {who: [comparable(post(port, body)) for _, body in requests[:5]] for who, port in ports.items()}
            if answers["thali"] != answers["feast"]:
                raise SystemExit(f"{name} {features}x{entities}: the answers differ")
            file = requests_file(folder / "http.requests", [(http_request(body), 0) for _, body in requests])
            figures = {who: saturate(options, ports[who], file, pids[who], store.process) for who in ports}
            half = min(rate for rate, *_ in figures.values()) / 2
            slow = {who: load(options, "http", f"127.0.0.1:{ports[who]}", file, connections=16, seconds=options.seconds, rate=half) for who in ports}
            static = folder / "static.answer"
            static.write_bytes(post(ports["thali"], requests[0][1]))
            port = servers.free_port()
            with server([options.load, "static", f"127.0.0.1:{port}", static], port, probe, folder / "static.log"):
                fixed = load(options, "http", f"127.0.0.1:{port}", file, connections=16, seconds=options.seconds)["rate"]
            rows.append(row := {"store": name, "shape": f"{features}x{entities}", "static": fixed, "limit": store.limit(features, requests, options, folder)})
            for who, (rate, own, others) in figures.items():
                row[who] = {"rate": rate, "cpu": own * 1e6, "store_cpu": others * 1e6, "p50": slow[who]["p50"], "p99": slow[who]["p99"]}
            show(row)
            if name == "redis" and features == VIEWS * FEATURES:
                packed(options, ports["thali"], pids["thali"], store, requests, row, folder)
        for who, pid in pids.items():
            print(f"{name}: memory of {who} afterwards: {memory(pid):.0f} MiB", flush=True)
    return rows


def packed(options, port, pid, store, requests, row, folder):
    """The same values from vectors that were precomputed, one field for each entity."""
    service = [json.dumps({"feature_service": "packed", "entities": {"id": ids}}).encode() for ids, _ in requests]
    for (_, loose), whole in zip(requests[:5], service):
        if comparable(post(port, loose)) != comparable(post(port, whole)):
            raise SystemExit(f"{row['shape']}: vectors answer something else")
    file = requests_file(folder / "http.requests", [(http_request(body), 0) for body in service])
    rate, own, others = saturate(options, port, file, pid, store.process)
    row["packed"] = {"rate": rate, "cpu": own * 1e6, "store_cpu": others * 1e6}
    print(f"{'':>9} precomputed vectors: {rate:.0f} req/s, {rate / row['thali']['rate']:.1f}x; CPU {own * 1e6:.0f} us, of Redis {others * 1e6:.0f} us", flush=True)


HEAD = f"{'':>9} {'shape':>8} {'req/s':>9} {'feast':>8} {'ratio':>7} {'limit':>18} {'of it':>6} {'static':>8} {'cpu µs':>8} {'feast':>8} {'ratio':>6} {'store':>8} {'p50 ms':>14} {'p99 ms':>14} {'ratio':>6}"


def show(row):
    thali, feast = row["thali"], row["feast"]
    command, (limit, _) = row["limit"] or ("", (0, 0))
    share = f"{thali['rate'] / limit:.0%}" if limit else ""
    bound = f"{command} {limit:.0f}" if limit else ""
    print(
        f"{row['store']:>9} {row['shape']:>8} {thali['rate']:9.0f} {feast['rate']:8.1f} {thali['rate'] / feast['rate']:6.1f}x {bound:>18} {share:>6} {row['static']:8.0f}"
        f" {thali['cpu']:8.0f} {feast['cpu']:8.0f} {feast['cpu'] / max(thali['cpu'], 1e-9):5.0f}x {thali['store_cpu']:8.0f}"
        f" {thali['p50']:6.2f} {feast['p50']:7.1f} {thali['p99']:6.2f} {feast['p99']:7.1f} {feast['p99'] / thali['p99']:5.0f}x",
        flush=True,
    )


def build_load():
    """The load generator, built anew when its source is newer."""
    source, built = ROOT / "benches/load.rs", ROOT / "target/load"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["rustc", "--edition", "2024", "-O", source, "-o", built], check=True)
    return built


def shape(text):
    features, _, entities = text.partition("x")
    return int(features), int(entities)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target/release/thali"))
    parser.add_argument("--load", default=None, help="the load generator")
    parser.add_argument("--stores", default="redis,postgres,sqlite")
    parser.add_argument("--shapes", default=",".join(f"{features}x{entities}" for features, entities in SHAPES))
    parser.add_argument("--entities", type=int, default=10_000, help="how many the store holds")
    parser.add_argument("--seconds", type=float, default=3, help="of each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    options.shapes = [shape(text) for text in options.shapes.split(",")]
    options.load = options.load or build_load()
    print(HEAD)
    rows = []
    with tempfile.TemporaryDirectory(prefix="thali-bench-") as folder:
        for name in options.stores.split(","):
            rows += measure(name, options, pathlib.Path(folder))
    ratios = [row["thali"]["rate"] / row["feast"]["rate"] for row in rows]
    print(f"median ratio of throughput: {statistics.median(ratios):.0f}x")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
