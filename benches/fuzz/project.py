"""What the fuzzed server serves: views that nothing writes, whose values follow from the number of an entity, one that is written
to, with a feature of each type, documents to search, and expressions over what callers send."""

import contextlib
import datetime
import json
import subprocess
import sys

import online
import servers

import pyarrow
import pyarrow.parquet

KNOWN, DOCS = 1000, 40
WHEN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
SEEN = 1_700_000_000

#: By view: its keys, and its features as functions of the number of an entity.
CHECKED = {
    "checked": (
        ["thing"],
        {
            "whole": lambda n: n * 7 + 1,
            "share": lambda n: None if n % 10 == 3 else n / 8,
            "text": lambda n: f"t{n}-é漢\"\\",
            "good": lambda n: n % 2 == 0,
            "seats": lambda n: n % 100,
            "small": lambda n: n / 4,
            "seen": lambda n: SEEN + n,
            "marks": lambda n: [n, n + 1],
            "words": lambda n: [f"w{n}", ""],
        },
    ),
    "named": (["name"], {"label": lambda n: f"L{n}", "size": lambda n: n * 11}),
    "pairs": (["thing", "name"], {"both": lambda n: n * 3}),
}
TYPES = {
    "whole": ("Int64", pyarrow.int64()),
    "share": ("Float64", pyarrow.float64()),
    "text": ("String", pyarrow.string()),
    "good": ("Bool", pyarrow.bool_()),
    "seats": ("Int32", pyarrow.int32()),
    "small": ("Float32", pyarrow.float32()),
    "seen": ("UnixTimestamp", pyarrow.timestamp("us", "UTC")),
    "marks": ("Array(Int64)", pyarrow.list_(pyarrow.int64())),
    "words": ("Array(String)", pyarrow.list_(pyarrow.string())),
    "label": ("String", pyarrow.string()),
    "size": ("Int64", pyarrow.int64()),
    "both": ("Int64", pyarrow.int64()),
}
#: What is written: a value of each type, as JSON has it.
WRITTEN = {
    "w_int": ("Int64", 5),
    "w_int32": ("Int32", 6),
    "w_float": ("Float64", 0.25),
    "w_float32": ("Float32", 0.5),
    "w_text": ("String", "x"),
    "w_bytes": ("Bytes", "YWJj"),
    "w_bool": ("Bool", True),
    "w_time": ("UnixTimestamp", "2026-03-01T12:00:00"),
    "w_ints": ("Array(Int64)", [1, 2]),
    "w_texts": ("Array(String)", ["a"]),
    "w_floats": ("Array(Float32)", [1.5]),
    "w_set": ("Set(String)", ["a", "b"]),
    "w_map": ("Map", {"a": "b"}),
    "w_json": ("Json", '{"a": [1]}'),
    "w_uuid": ("Uuid", "123e4567-e89b-12d3-a456-426614174000"),
    "w_decimal": ("Decimal", "1.25"),
    "w_struct": ("Struct({a: Int64})", {"a": 1}),
}
#: Those whose values come back as they were written.
READ_BACK = ["w_int", "w_int32", "w_float", "w_text", "w_bool", "w_ints", "w_texts"]


def yaml(keys):
    return "\n".join(f"  {key}: {json.dumps(value)}" for key, value in keys.items())


def write_project(folder, store):
    folder.mkdir()
    head = "project: fuzz\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\nentity_key_serialization_version: 3\n"
    (folder / "feature_store.yaml").write_text(f"{head}online_store:\n{yaml(store)}\n")
    sources, views = [], []

    def view(name, entities, columns, schema, source=None, more=""):
        times = {"event_timestamp": pyarrow.array([WHEN] * len(next(iter(columns.values()))), pyarrow.timestamp("us", "UTC"))}
        pyarrow.parquet.write_table(pyarrow.table(columns | times), folder / f"{name}.parquet")
        sources.append(f"  - {{name: {name}_file, type: file, path: {folder}/{name}.parquet, timestamp_field: event_timestamp}}")
        fields = ", ".join(f"{{name: {field}, type: '{kind}'{more if 'Float32' in kind else ''}}}" for field, kind in schema.items())
        views.append(f"  - {{name: {name}, entities: [{', '.join(entities)}], source: {source or f'{name}_file'}, schema: [{fields}]}}")

    keys = {"thing": pyarrow.array(range(KNOWN), pyarrow.int64()), "name": pyarrow.array([f"n{n}" for n in range(KNOWN)])}
    for name, (entities, features) in CHECKED.items():
        columns = {f"{key}_key": keys[key] for key in entities}
        for feature, value in features.items():
            values = [value(n) for n in range(KNOWN)]
            if feature == "seen":
                values = [value * 1_000_000 for value in values]
            columns[feature] = pyarrow.array(values, TYPES[feature][1])
        view(name, entities, columns, {feature: TYPES[feature][0] for feature in features})
    docs = {
        "doc_key": pyarrow.array(range(DOCS), pyarrow.int64()),
        "place": pyarrow.array([[float(n), 1.0, 0.5] for n in range(DOCS)], pyarrow.list_(pyarrow.float32())),
        "title": pyarrow.array([f"title {n}" for n in range(DOCS)]),
    }
    vector = ", vector_index: true, vector_length: 3, vector_search_metric: L2"
    view("docs", ["doc"], docs, {"place": "Array(Float32)", "title": "String"}, more=vector)
    nothing = {name: pyarrow.array([value])[:0] for name, value in {"thing_key": 1, **{name: value for name, (_, value) in WRITTEN.items()}}.items()}
    view("written", ["thing"], nothing, {name: kind for name, (kind, _) in WRITTEN.items()}, "written_push")
    sources.append("  - {name: written_push, type: push, batch_source: written_file}")
    sources.append("  - {name: asked, type: request, schema: [{name: bonus, type: Float64}]}")
    sources.append("  - {name: risked, type: request, schema: [{name: n, type: Int64}, {name: word, type: String}]}")
    (folder / "definitions.yaml").write_text(
        "entities:\n"
        "  - {name: thing, join_key: thing_key, value_type: Int64}\n"
        "  - {name: name, join_key: name_key, value_type: String}\n"
        "  - {name: doc, join_key: doc_key, value_type: Int64}\n"
        "data_sources:\n" + "\n".join(sources) + "\nfeature_views:\n" + "\n".join(views) + "\non_demand_feature_views:\n"
        '  - {name: better, sources: [checked, asked], schema: [{name: sum, type: Float64}], expressions: {sum: "share + bonus"}}\n'
        "  - name: risky\n    sources: [checked, risked]\n"
        "    schema: [{name: ratio, type: Int64}, {name: rest, type: Int64}, {name: part, type: String}, {name: number, type: Int64}, {name: narrow, type: Int32}]\n"
        '    expressions: {ratio: "whole / n", rest: "whole % n", part: "substr(text, n)", number: "CAST(word AS BIGINT)", narrow: "CAST(n * whole AS INT)"}\n'
        "feature_services:\n  - {name: all_of_it, features: [checked, named, better]}\n"
    )


@contextlib.contextmanager
def served(name, options, folder):
    """thali on a store that holds what is known: process, port and log."""
    with contextlib.ExitStack() as stack:
        if name == "redis":
            store = {"type": "redis", "connection_string": stack.enter_context(servers.Redis.running()).address}
        elif name == "postgres":
            server = stack.enter_context(servers.Pgvector.running())
            server.execute("CREATE EXTENSION vector")
            place = {"host": "127.0.0.1", "port": server.port, "database": "postgres", "user": "thali", "password": servers.PASSWORD}
            store = {"type": "postgres", "sslmode": "disable", "vector_enabled": True} | place
        else:
            store = {"type": "sqlite", "path": "online.db", "vector_enabled": True, "text_search_enabled": True}
        repo = folder / f"fuzz-{name}"
        write_project(repo, store)
        for command in (["apply"], ["materialize", "2026-01-01T00:00:00", "2026-06-01T00:00:00"]):
            subprocess.run([options.bin, "-c", repo, *command], check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        port, log = servers.free_port(), folder / f"fuzz-{name}.log"
        command = [options.bin, "-c", repo, "serve", "--role", "online", "--online-port", port, "--metrics-port", 0]
        probe = json.dumps({"features": ["checked:whole"], "entities": {"thing_key": [1]}}).encode()
        yield stack.enter_context(online.server(command, port, probe, log)), port, log
