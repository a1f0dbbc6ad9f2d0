"""Training sets: thali beside Feast, DuckDB's ASOF JOIN and Polars' join_asof, over the same files in one run.

    cargo build --release && make venv && target/venv/bin/pip install -r benches/requirements.txt
    target/venv/bin/python benches/offline.py [--sizes 1e6x1e5,1e7x1e6] [--views 1,3,10] [--engines thali,duckdb,polars]

A size is feature rows of each view x entity rows; each view has a Parquet file of its own (zstd, row groups of 2^17 rows, in
order of time, corrections at the end) with about 100 rows an id over 60 days, five features (double, integer, float, text,
boolean) with 5 % nulls, 2 % corrections (the same event time, created later), some exact copies. ttl is 1 day, 7 days, none, in
turn. 1 % of the entity rows are of unknown ids, 2 % of their times are exactly those of a feature row.

Two tasks, since a command cannot answer an Arrow table:

* table: the answer is an Arrow table in the caller's process. `flight` is thali asked by pyarrow, `sdk` thali asked by Feast's
  SDK (offline store `remote`); `feast-duckdb` and `feast-dask` are Feast's own stores.
* file: the answer is a Parquet file, uncompressed. `thali` is the command, from its start to its end.

DuckDB and Polars do both. What is measured is the query in a process that has loaded its libraries and the entity rows (the
command has not: it counts whole); every query has a process of its own, and a server of its own. CPU is of client and server
together. Memory is the most both had at a time, libraries included. DuckDB and Polars may answer in any order of rows.

Answers are compared cell by cell with the first that is there (`right`), or with what is wrong of them. A median of
--rounds is shown. `--limit 1GiB` sets thali's `memory_limit`; `--shame` rebuilds, instead of all this, what was reported to Feast
as too slow or too big, and fails when one of them takes 5 seconds or 1 GB.

Nothing here is a test: figures depend on the machine, so quote ratios, with it.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
DAY = 86_400_000_000
START = 1_767_225_600_000_000  # 2026-01-01
DAYS = 60
TTLS = [1, 7, 0]  # days
FEATURES = {"f": "Float64", "n": "Int64", "g": "Float32", "s": "String", "b": "Bool"}
ROW_GROUP = 1 << 17


# --- the data -------------------------------------------------------------------------------------------------------


def times(values):
    import pyarrow

    return pyarrow.array(values, pyarrow.int64()).cast(pyarrow.timestamp("us", "UTC"))


def feature_table(rows, view):
    import numpy
    import pyarrow

    draw = numpy.random.default_rng(view)
    late = rows // 50
    copies = rows // 200
    first = rows - late - copies
    ids = draw.integers(0, max(1, rows // 100), first)
    events = numpy.sort(START + draw.integers(0, DAYS * 86_400, first) * 1_000_000)
    created = events + draw.integers(1, 3_600, first) * 1_000_000
    again = draw.integers(0, first, late)
    ids, events = numpy.append(ids, ids[again]), numpy.append(events, events[again])
    created = numpy.append(created, created[again] + draw.integers(1, 86_400, late) * 1_000_000)
    columns = {
        f"v{view}_f": (draw.random(first + late), pyarrow.float64()),
        f"v{view}_n": (draw.integers(0, 10**9, first + late), pyarrow.int64()),
        f"v{view}_g": (draw.random(first + late, numpy.float32), pyarrow.float32()),
        f"v{view}_s": (draw.integers(0, 1_000, first + late), None),
        f"v{view}_b": (draw.random(first + late) < 0.5, pyarrow.bool_()),
    }
    words = pyarrow.array([f"category-{number}" for number in range(1_000)])
    arrays = [pyarrow.array(ids), times(events), times(created)]
    for values, kind in columns.values():
        missing = draw.random(first + late) < 0.05
        arrays.append(pyarrow.array(values, kind, mask=missing) if kind else words.take(pyarrow.array(values, mask=missing)))
    table = pyarrow.table(arrays, names=["id", "event_timestamp", "created", *columns])
    return pyarrow.concat_tables([table, table.take(draw.integers(0, first + late, copies))])


def entity_table(rows, feature_rows, some):
    import numpy
    import pyarrow

    draw = numpy.random.default_rng(1_000)
    known = max(1, feature_rows // 100)
    ids = draw.integers(0, known, rows)
    ids = numpy.where(draw.random(rows) < 0.01, ids + known, ids)
    moments = START + draw.integers(0, DAYS * 86_400, rows) * 1_000_000
    exact = numpy.flatnonzero(draw.random(rows) < 0.02)
    like = draw.integers(0, some.num_rows, exact.size)
    ids[exact] = some["id"].to_numpy()[like]
    moments[exact] = some["event_timestamp"].cast(pyarrow.int64()).to_numpy()[like]
    return pyarrow.table([pyarrow.array(numpy.arange(rows)), pyarrow.array(ids), times(moments)], names=["row", "id", "event_timestamp"])


def write(table, path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def project(folder, feature_rows, entity_rows, views):
    """The files of one size and the definitions over them, made unless they are there."""
    import pyarrow.parquet

    for view in range(views):
        path = folder / f"{feature_rows}-{view}.parquet"
        if not path.exists():
            write(feature_table(feature_rows, view), path)
    entities = folder / f"{feature_rows}-{entity_rows}.entities.parquet"
    if not entities.exists():
        write(entity_table(entity_rows, feature_rows, pyarrow.parquet.read_table(folder / f"{feature_rows}-0.parquet")), entities)
    repo = folder / f"{feature_rows}x{views}"
    repo.mkdir(exist_ok=True)
    lines = ["entities:", "  - {name: id, join_key: id, value_type: Int64}", "data_sources:"]
    for view in range(views):
        path = folder / f"{feature_rows}-{view}.parquet"
        lines.append(f"  - {{name: s{view}, type: file, path: {path}, timestamp_field: event_timestamp, created_timestamp_column: created}}")
    lines.append("feature_views:")
    for view in range(views):
        schema = ", ".join(f"{{name: v{view}_{name}, type: {kind}}}" for name, kind in FEATURES.items())
        lines.append(f"  - {{name: v{view}, entities: [id], source: s{view}, ttl: {ttl(view)}d, schema: [{schema}]}}")
    (repo / "features.yaml").write_text("\n".join(lines) + "\n")
    return repo, entities


def ttl(view):
    return TTLS[view % len(TTLS)]


def references(views):
    return [f"v{view}:v{view}_{name}" for view in range(views) for name in FEATURES]


def settings(repo, offline_store, limit=None):
    text = f"project: bench\nprovider: local\nregistry: {repo}/registry.db\nonline_store: {{type: sqlite, path: {repo}/online.db}}\nentity_key_serialization_version: 3\noffline_store: {offline_store}\n"
    return text + (f"thali: {{memory_limit: {limit}}}\n" if limit else "")


# --- the engines, each in a process of its own ------------------------------------------------------------------------


def duckdb_query(case):
    views = range(case["views"])
    columns = ["e.*"]
    joins = []
    for view in views:
        names = [f"v{view}_{name}" for name in FEATURES]
        fresh = f"v{view}.event_timestamp >= e.event_timestamp - INTERVAL {ttl(view)} DAY"
        columns += [f"CASE WHEN {fresh} THEN v{view}.w.{name} END AS {name}" if ttl(view) else f"v{view}.w.{name} AS {name}" for name in names]
        packed = ", ".join(f"{name} := {name}" for name in names)
        once = f"SELECT id, event_timestamp, arg_max(struct_pack({packed}), created) AS w FROM '{case['features'][view]}' GROUP BY ALL"
        joins.append(f"ASOF LEFT JOIN ({once}) v{view} ON e.id = v{view}.id AND e.event_timestamp >= v{view}.event_timestamp")
    return f"SELECT {', '.join(columns)} FROM '{case['entities']}' e {' '.join(joins)}"


def with_duckdb(case):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    # Without it the answer's order costs memory, which nobody asked for.
    connection.execute("SET preserve_insertion_order = false")
    query = duckdb_query(case)
    if case["task"] == "file":
        return lambda: connection.execute(f"COPY ({query}) TO '{case['answer']}' (FORMAT parquet, COMPRESSION uncompressed)")
    return lambda: connection.execute(query).to_arrow_table()


def with_polars(case):
    import datetime

    import polars

    def joined():
        rows = polars.scan_parquet(case["entities"]).sort("event_timestamp")
        for view, path in enumerate(case["features"]):
            names = [f"v{view}_{name}" for name in FEATURES]
            facts = polars.scan_parquet(path).sort("event_timestamp", "created").select("id", "event_timestamp", *names)
            tolerance = datetime.timedelta(days=ttl(view)) if ttl(view) else None
            rows = rows.join_asof(facts, on="event_timestamp", by="id", strategy="backward", tolerance=tolerance, check_sortedness=False)
        return rows

    if case["task"] == "file":
        return lambda: joined().collect().write_parquet(case["answer"], compression="uncompressed")
    return lambda: joined().collect().to_arrow()


def with_feast(case):
    import feast
    import pyarrow.parquet

    store = feast.FeatureStore(fs_yaml_file=pathlib.Path(case["yaml"]))
    rows = pyarrow.parquet.read_table(case["entities"]).to_pandas()
    store.list_feature_views()  # loads the registry
    return lambda: store.get_historical_features(entity_df=rows, features=case["references"]).to_arrow()


def with_flight(case):
    import uuid

    import pyarrow.flight
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(case["entities"])
    client = pyarrow.flight.connect(f"grpc+tcp://127.0.0.1:{case['port']}")
    views = [f"v{view}" for view in range(case["views"])]
    command = {
        "command_id": str(uuid.uuid4()),
        "api": "get_historical_features",
        "project": "bench",
        "feature_view_names": views,
        "name_aliases": [None] * len(views),
        "feature_refs": case["references"],
        "full_feature_names": False,
    }

    def ask():
        descriptor = pyarrow.flight.FlightDescriptor.for_command(json.dumps(command))
        writer, reader = client.do_exchange(descriptor)
        with writer:
            writer.begin(rows.schema)
            writer.write_table(rows)
            writer.done_writing()
            return reader.read_all()

    return ask


ENGINES = {
    # name: what asks, and the offline store of a Feast project or a server that it asks
    "thali": (None, None),
    "flight": (with_flight, "server"),
    "sdk": (with_feast, "server"),
    "feast-duckdb": (with_feast, "{type: duckdb}"),
    "feast-dask": (with_feast, "{type: file}"),
    "duckdb": (with_duckdb, None),
    "polars": (with_polars, None),
}


def worker(case):
    """Asks once, tells what it cost, and leaves the answer."""
    import pyarrow
    import pyarrow.parquet

    ask = ENGINES[case["engine"]][0](case)
    server = case.get("server")
    before = os.times(), cpu(server), time.perf_counter()
    answer = ask()
    wall = time.perf_counter() - before[2]
    after = os.times()
    figures = {
        "wall": wall,
        "cpu": after.user + after.system - before[0].user - before[0].system + cpu(server) - before[1],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + peak(server),
    }
    if isinstance(answer, pyarrow.Table):
        pyarrow.parquet.write_table(answer, case["answer"])
    print(json.dumps(figures))


def cpu(pid):
    if not pid:
        return 0
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak(pid):
    if not pid:
        return 0
    line = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- one measurement --------------------------------------------------------------------------------------------------


def command(arguments, deadline):
    """Runs a command; what it cost, or why it failed."""
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, error = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"not within {deadline} s"
    wall = time.perf_counter() - started
    if process.returncode:
        return None, (error.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:200]
    return wall, out


def timed_command(arguments, deadline):
    """The same with CPU and memory, told by a small process that waits for it alone."""
    code = "import json,os,resource,subprocess,sys,time; s=time.perf_counter(); d=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL); w=time.perf_counter()-s; u=resource.getrusage(resource.RUSAGE_CHILDREN); print(json.dumps({'wall':w,'cpu':u.ru_utime+u.ru_stime,'memory':u.ru_maxrss/1024})); sys.exit(d.returncode)"
    done, out = command([sys.executable, "-c", code, *arguments], deadline)
    return (json.loads(out), None) if done else (None, out)


@contextlib.contextmanager
def served(options, repo):
    arguments = [options.bin, "-f", repo / "thali.yaml", "-c", repo, "serve", "--role", "offline", "--offline-port", 0, "--metrics-port", 0]
    with open(repo / "server.log", "w") as log:
        process = subprocess.Popen([str(part) for part in arguments], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        port = None
        for line in process.stdout:
            if line.startswith("listening offline "):
                port = int(line.rsplit(":", 1)[1])
            if line.strip() == "ready":
                break
        else:
            raise SystemExit(f"the server did not start: {(repo / 'server.log').read_text()[-2000:]}")
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(60)


def measure(options, repo, case):
    engine = case["engine"]
    answer = pathlib.Path(case["answer"])
    answer.unlink(missing_ok=True)
    if engine == "thali":
        refs = [part for reference in case["references"] for part in ("-f", reference)]
        return timed_command([options.bin, "-f", repo / "thali.yaml", "-c", repo, "get-historical-features", "--entity-file", case["entities"], *refs, "-o", answer], options.deadline)
    with contextlib.ExitStack() as stack:
        store = ENGINES[engine][1]
        if store == "server":
            pid, port = stack.enter_context(served(options, repo))
            case |= {"server": pid, "port": port}
            store = f"{{type: remote, host: 127.0.0.1, port: {port}}}"
        if store:
            case["yaml"] = str(repo / f"{engine}.settings")
            pathlib.Path(case["yaml"]).write_text(settings(repo, store))
        done, out = command([sys.executable, __file__, "--worker", json.dumps(case)], options.deadline)
    return (json.loads(out.strip().splitlines()[-1]), None) if done else (None, out)


def differences(answer, reference):
    """How an answer differs from another, cell by cell."""
    import pyarrow.compute
    import pyarrow.parquet

    got, want = (pyarrow.parquet.read_table(path) for path in (answer, reference))
    if got.num_rows != want.num_rows:
        return f"{want.num_rows - got.num_rows} rows missing"
    if set(got.column_names) != set(want.column_names):
        return f"columns {set(got.column_names) ^ set(want.column_names)}"
    got, want = (table.sort_by("row") for table in (got, want))
    wrong = 0
    for name in want.column_names:
        a, b = got[name], want[name]
        a = a.cast(b.type)
        same = pyarrow.compute.fill_null(pyarrow.compute.equal(a, b), False)
        same = pyarrow.compute.or_(same, pyarrow.compute.and_(pyarrow.compute.is_null(a), pyarrow.compute.is_null(b)))
        wrong += want.num_rows - pyarrow.compute.sum(same).as_py()
    return f"{wrong} cells differ" if wrong else None


HEAD = f"{'size':>16} {'views':>5} {'task':>5} {'engine':>13} {'wall s':>8} {'cpu s':>8} {'MiB':>7}  answer"


def show(row):
    head = f"{row['size']:>16} {row['views']:>5} {row['task']:>5} {row['engine']:>13}"
    if row.get("failed"):
        print(f"{head}  {row['failed']}", flush=True)
    else:
        print(f"{head} {row['wall']:8.2f} {row['cpu']:8.2f} {row['memory']:7.0f}  {row['answer']}", flush=True)


def case_of(options, folder, size, views):
    feature_rows, entity_rows = size
    repo, entities = project(folder, feature_rows, entity_rows, views)
    (repo / "thali.yaml").write_text(settings(repo, "{type: duckdb}", options.limit))
    subprocess.run([options.bin, "-f", repo / "thali.yaml", "-c", repo, "apply"], check=True, stdout=subprocess.DEVNULL)
    files = [str(folder / f"{feature_rows}-{view}.parquet") for view in range(views)]
    reference = None
    for engine in options.engines:
        tasks = ["file"] if engine == "thali" else ["table", "file"] if engine in ("duckdb", "polars") else ["table"]
        for task in tasks:
            row = {"size": f"{feature_rows:.0e}x{entity_rows:.0e}".replace("+0", ""), "views": views, "task": task, "engine": engine}
            rounds, failed = [], None
            answer = repo / f"{engine}.answer.parquet"
            for _ in range(options.rounds):
                case = {"engine": engine, "task": task, "views": views, "features": files, "entities": str(entities), "references": references(views), "answer": str(answer)}
                figures, failed = measure(options, repo, case)
                if failed:
                    break
                rounds.append(figures)
            if failed:
                row["failed"] = failed
            else:
                row |= {name: statistics.median(figures[name] for figures in rounds) for name in ("wall", "cpu", "memory")}
                if reference is None:
                    reference, row["answer"] = answer, "reference"
                else:
                    row["answer"] = differences(answer, reference) or "right"
            show(row)
            yield row


# --- what was reported to Feast ---------------------------------------------------------------------------------------


def small_project(folder, views):
    """A project of views: table, join key or none, ttl in days."""
    import pyarrow

    kinds = {pyarrow.float64(): "Float64", pyarrow.int64(): "Int64", pyarrow.string(): "String", pyarrow.float32(): "Float32"}
    folder.mkdir()
    keys = {key: table.schema.field(key).type for table, key, _ in views.values() if key}
    lines = ["entities:", *(f"  - {{name: {key}, join_key: {key}, value_type: {kinds[kind]}}}" for key, kind in keys.items())] if keys else []
    lines.append("data_sources:")
    lines += [f"  - {{name: {name}_rows, type: file, path: {name}.parquet, timestamp_field: event_timestamp}}" for name in views]
    lines.append("feature_views:")
    for name, (table, key, days) in views.items():
        write(table, folder / f"{name}.parquet")
        schema = ", ".join(f"{{name: {field.name}, type: {kinds[field.type]}}}" for field in table.schema if field.name not in (key, "event_timestamp"))
        lines.append(f"  - {{name: {name}, entities: [{key or ''}], source: {name}_rows, ttl: {days}d, online: true, schema: [{schema}]}}")
    (folder / "features.yaml").write_text("\n".join(lines) + "\n")
    (folder / "feature_store.yaml").write_text(settings(folder, "{type: file}"))


def every(seconds, count):
    return times([START + row * seconds * 1_000_000 for row in range(count)])


def a_thousand_features(folder):
    """3003: 1000 features of 10 views for 17 000 rows, the key a text."""
    import numpy
    import pyarrow

    rows, keys = 17_000, pyarrow.array([f"customer-{row:05}" for row in range(17_000)])
    values = numpy.arange(rows, dtype=float)
    views = {}
    for view in range(10):
        columns = {f"f{view}_{feature}": values + feature for feature in range(100)}
        views[f"v{view}"] = (pyarrow.table({"customer": keys, "event_timestamp": times([START] * rows), **columns}), "customer", 0)
    small_project(folder, views)
    entities = pyarrow.table({"customer": keys, "event_timestamp": times([START + DAY] * rows), "label": pyarrow.array([True] * rows)})
    expected = {f"f{view}_{feature}": values + feature for view in (0, 9) for feature in (0, 99)}
    return entities, [f"v{view}:f{view}_{feature}" for view in range(10) for feature in range(100)], expected


def one_key_for_all(folder):
    """3468: 66 columns x 10 000 rows, which became 100 000 000: all rows have the same key."""
    import numpy
    import pyarrow

    rows, values = 10_000, numpy.arange(10_000, dtype=float)
    columns = {f"f{feature}": values * (feature + 1) for feature in range(63)}
    keys = pyarrow.array([1] * rows)
    small_project(folder, {"v": (pyarrow.table({"id": keys, "event_timestamp": every(60, rows), **columns}), "id", 0)})
    return pyarrow.table({"id": keys, "event_timestamp": every(60, rows)}), [f"v:{name}" for name in columns], {"f0": values, "f62": values * 63}


def no_entity(folder):
    """3863: a view without entities, hourly for 23 years, and the last 1000 hours."""
    import numpy
    import pyarrow

    rows, values = 201_600, numpy.arange(201_600, dtype=numpy.float32)
    moments = every(3_600, rows)
    small_project(folder, {"v": (pyarrow.table({"event_timestamp": moments, "feature": values}), None, 0)})
    return pyarrow.table({"event_timestamp": moments[-1000:]}), ["v:feature"], {"feature": values[-1000:]}


def all_rows(folder):
    """4589: every one of 600 000 rows of a file."""
    import numpy
    import pyarrow

    rows, values = 600_000, numpy.arange(600_000, dtype=float)
    names = ["distance_from_home", "distance_from_last_transaction", "ratio_to_median_purchase_price", "repeat_retailer", "used_chip", "used_pin_number", "online_order"]
    keys, moments = pyarrow.array(range(rows)), every(60, rows)
    small_project(folder, {"v": (pyarrow.table({"id": keys, "event_timestamp": moments, **{name: values + place for place, name in enumerate(names)}}), "id", 0)})
    return pyarrow.table({"id": keys, "event_timestamp": moments}), [f"v:{name}" for name in names], {names[0]: values, names[6]: values + 6}


def sixty_days(folder):
    """6307: materialize 60 days of rows every 10 minutes, of 116 entities: 1 002 240 rows."""
    import numpy
    import pyarrow

    entities, steps = 116, 8_640
    keys = pyarrow.array(numpy.tile(numpy.arange(entities), steps))
    moments = times(START + numpy.repeat(numpy.arange(steps), entities) * 600_000_000)
    columns = {f"f{feature}": numpy.arange(entities * steps, dtype=float) for feature in range(10)}
    small_project(folder, {"v": (pyarrow.table({"id": keys, "event_timestamp": moments, **columns}), "id", 0)})
    return None


SHAME = {3003: a_thousand_features, 3468: one_key_for_all, 3863: no_entity, 4589: all_rows, 6307: sixty_days}
SHAME_SECONDS, SHAME_MIB = 5, 954


def shame(options, folder):
    import pyarrow.parquet

    folder.mkdir()
    bad = []
    for thread, build in SHAME.items():
        repo = folder / str(thread)
        asked = build(repo)
        subprocess.run([options.bin, "-c", repo, "apply"], check=True, stdout=subprocess.DEVNULL)
        arguments = ["materialize", "2026-01-01T00:00:00", "2026-03-02T00:00:00"]
        if asked:
            entities, refs, expected = asked
            write(entities, repo / "entities.parquet")
            arguments = ["get-historical-features", "--entity-file", repo / "entities.parquet", "-o", repo / "answer.parquet"]
            arguments += [part for reference in refs for part in ("-f", reference)]
        figures, failed = timed_command([options.bin, "-c", repo, *arguments], options.deadline)
        problem = failed
        if asked and not failed:
            answer = pyarrow.parquet.read_table(repo / "answer.parquet")
            wrong = [name for name, values in expected.items() if answer[name].to_pylist() != list(values)]
            problem = f"wrong: {', '.join(wrong)}" if wrong else None
        if asked is None and not failed:
            online = subprocess.run([options.bin, "-c", repo, "get-online-features", "-e", "id=115", "-f", "v:f0"], capture_output=True, text=True, check=True).stdout
            problem = None if "1002239" in online else f"not the newest value: {online}"
        if not problem and (figures["wall"] >= SHAME_SECONDS or figures["memory"] >= SHAME_MIB):
            problem = "too much"
        told = "" if failed else f"{figures['wall']:6.2f} s {figures['memory']:6.0f} MiB  "
        print(f"{thread}  {told}{problem or 'right'}  {build.__doc__[6:]}", flush=True)
        bad += [thread] if problem else []
    return 1 if bad else 0


# --- the run ----------------------------------------------------------------------------------------------------------


def size(text):
    feature_rows, _, entity_rows = text.partition("x")
    return int(float(feature_rows)), int(float(entity_rows))


def main():
    if sys.argv[1:2] == ["--worker"]:
        return worker(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target/release/thali"))
    parser.add_argument("--sizes", default="1e6x1e5,1e7x1e6")
    parser.add_argument("--views", default="1,3,10")
    parser.add_argument("--engines", default="duckdb,polars,thali,flight,sdk", help=f"of {', '.join(ENGINES)}; the first is what others are compared with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", help="thali's memory_limit")
    parser.add_argument("--deadline", type=float, default=900, help="seconds one query may take")
    parser.add_argument("--data", help="a folder for the files, to be used again")
    parser.add_argument("--shame", action="store_true", help="what was reported to Feast, instead")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    options.engines = options.engines.split(",")
    rows = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(options.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="thali-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        if options.shame:
            return shame(options, folder / "shame")
        print(HEAD)
        for each in map(size, options.sizes.split(",")):
            for views in map(int, options.views.split(",")):
                rows += case_of(options, folder, each, views)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.exit(main())
