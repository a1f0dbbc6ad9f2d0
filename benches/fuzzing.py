"""What `soak.py fuzz` sends: right requests, whose answers are known, and between them requests that nobody should send.

A case is made from the seed, the number of its worker and its own number, so the same seed sends the same cases. Workers are
processes with a connection each. Right requests read values that nothing else writes, in several forms (JSON, protobuf, Arrow,
gzip, chunked, many in one packet), or rows that the worker wrote itself a moment before. The others are JSON that is wrong in
one place or in many, bytes that are no JSON, huge bodies, broken HTTP/1.1, HTTP/2 and gRPC, for every route of the feature
server. No answer to them may blame the server, and whatever they do, the right requests are answered right. What fails is kept
as the bytes that were sent, with a text beside it that says what was wrong.
"""

import collections
import contextlib
import copy
import dataclasses
import datetime
import gzip
import json
import multiprocessing
import random
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.parse

import online
import servers

import pyarrow
import pyarrow.parquet

KNOWN, DOCS = 1000, 40
WHEN = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
SEEN = 1_700_000_000
#: How long an answer may take, with all that others do meanwhile.
PATIENCE = 60

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


# --- the project ----------------------------------------------------------------------------------------------------


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


# --- a connection ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def show(self):
        return f"{self.status} {self.headers} {self.body[:2000]!r}"


class Wire:
    """A connection of HTTP/1.1 that is made when it is needed."""

    def __init__(self, port):
        self.port, self.socket, self.reader = port, None, None

    def close(self):
        if self.socket:
            self.reader.close()
            self.socket.close()
        self.socket = None

    def open(self):
        if not self.socket:
            self.socket = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.reader = self.socket.makefile("rb")

    def ask(self, raw, count=1):
        """The answers to requests that are as they should be."""
        self.open()
        try:
            self.socket.sendall(raw)
            answers = [self.answer() for _ in range(count)]
        except BaseException:
            self.close()
            raise
        if answers[-1].headers.get("connection") == "close":
            self.close()
        return answers

    def throw(self, raw):
        """What is answered, as bytes, to anything, until the server closes the connection, as no more is to come."""
        self.close()
        self.open()
        try:
            with contextlib.suppress(OSError):  # it may have closed the connection by now
                self.socket.sendall(raw)
                self.socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                return self.reader.read()
            return b""
        finally:
            self.close()

    def answer(self):
        while True:
            line = self.reader.readline()
            if not line:
                raise ConnectionError("closed without an answer")
            status, headers = int(line.split()[1]), {}
            while (line := self.reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if status < 200:
                continue
            if headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(self.reader.readline(), 16):
                    body += self.reader.read(size)
                    self.reader.readline()
                self.reader.readline()
            else:
                body = self.reader.read(int(headers.get("content-length", 0)))
            return Answer(status, headers, body)


def http(path, body, method="POST", **headers):
    lines = {"host": "fuzz", "content-type": "application/json", "content-length": len(body)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def chunked(dice, path, body, **headers):
    parts = b""
    while body:
        size = min(len(body), dice.choice([1, 2, 7, 100, 5000]))
        extension = dice.choice([b"", b"", b";a=b"])
        parts += b"%x%s\r\n%s\r\n" % (size, extension, body[:size])
        body = body[size:]
    return http(path, parts + b"0\r\n\r\n", content_length=None, transfer_encoding="chunked", **headers)


# --- what is right about answers ------------------------------------------------------------------------------------


def refusal_problem(answer):
    """What is wrong with a refusal while the store is away; nothing when it is as it should be."""
    head, _, body = answer.rpartition("\n")
    if not head.startswith("HTTP/1.1 503 "):
        return "not 503"
    if "retry-after: " not in head.lower():
        return "no Retry-After"
    try:
        told = json.loads(json.loads(body))
    except (ValueError, TypeError):
        return "no envelope"
    return None if told.get("class") == "FeastError" and "online store" in told.get("message", "") else "an unclear refusal"


def blames_caller(answer, may_lack=False):
    """What is wrong with the answer to a request that may be wrong."""
    if answer.status >= 500 and not (answer.status == 501 and may_lack):
        return "the server takes the blame"
    if answer.status < 400:
        return None
    try:
        body = json.loads(answer.body)
        told = json.loads(body)["class"] if isinstance(body, str) else body.get("detail") or body["error"]
        return None if told else "a refusal that says nothing"
    except (ValueError, KeyError, AttributeError, TypeError):
        return "a refusal of no known form"


def columns_of(answer, form):
    if form == "protobuf":
        from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

        message = GetOnlineFeaturesResponse.FromString(answer.body)
        return {name: [plain(value) for value in column.values] for name, column in zip(message.metadata.feature_names.val, message.results, strict=True)}
    if form == "arrow":
        table = pyarrow.ipc.open_stream(answer.body).read_all()
        shown = lambda value: int(value.timestamp()) if hasattr(value, "timestamp") else value
        return {name: [shown(value) for value in table.column(name).to_pylist()] for name in table.column_names if "__" not in name or name.count("__") == 1 and not name.endswith(("__status", "__event_timestamp"))}
    document = json.loads(answer.body)
    return {name: column["values"] for name, column in zip(document["metadata"]["feature_names"], document["results"], strict=True)}


def plain(value):
    which = value.WhichOneof("val")
    if which is None or which == "null_val":
        return None
    found = getattr(value, which)
    return list(found.val) if hasattr(found, "val") else found


# --- requests that are right ----------------------------------------------------------------------------------------


def known_request(dice, rows=None):
    """The body of a request, and the columns that are right."""
    views = dice.sample(list(CHECKED), dice.randrange(1, len(CHECKED) + 1))
    chosen = [(view, feature) for view in views for feature in dice.sample(list(CHECKED[view][1]), dice.randrange(1, len(CHECKED[view][1]) + 1))]
    dice.shuffle(chosen)
    numbers = [dice.randrange(KNOWN) if dice.random() < 0.9 else dice.choice([-1, KNOWN, 2**40]) for _ in range(rows or dice.choice([1, 1, 2, 5, 30, 200]))]
    full = dice.random() < 0.3
    entities, wanted = {}, {}
    for key in {key for view, _ in chosen for key in CHECKED[view][0]}:
        entities[f"{key}_key"] = [f"n{n}" for n in numbers] if key == "name" else numbers
    for view, feature in chosen:
        value = CHECKED[view][1][feature]
        wanted[f"{view}__{feature}" if full else feature] = [value(n) if 0 <= n < KNOWN else None for n in numbers]
    body = {"features": [f"{view}:{feature}" for view, feature in chosen], "entities": entities}
    return body | ({"full_feature_names": True} if full else {}), wanted | entities


def styled(dice, node):
    """JSON that says the same in another way: blanks, escapes, fields in any order, some of them twice, of which the last counts."""
    blank = lambda: dice.choice(["", "", " ", "\n", "\t \r\n"])
    if isinstance(node, dict):
        fields = [(name, styled(dice, value)) for name, value in node.items()]
        dice.shuffle(fields)
        if dice.random() < 0.2:
            fields.insert(0, (dice.choice(list(node)), dice.choice(["null", "[]", "{}", '"x"', "[0]"])))
        if dice.random() < 0.2 and "entities" in node:
            fields.insert(dice.randrange(len(fields)), ("unknown", dice.choice(["null", '{"a": [1, {"b": "]}"}]}', '"\\\\"', "1e5"])))
        parts = [f"{blank()}{styled(dice, name)}{blank()}:{blank()}{text}{blank()}" for name, text in fields]
        return "{" + ",".join(parts) + "}"
    if isinstance(node, list):
        return "[" + ",".join(f"{blank()}{styled(dice, item)}{blank()}" for item in node) + "]"
    if isinstance(node, str):
        whole = json.dumps(node, ensure_ascii=dice.random() < 0.5)
        return whole if dice.random() < 0.8 else '"' + "".join(f"\\u{ord(letter):04x}" if ord(letter) < 65536 else json.dumps(letter)[1:-1] for letter in node) + '"'
    if isinstance(node, int) and not isinstance(node, bool) and dice.random() < 0.05:
        return dice.choice([f"{node}.0", f'"{node}"'])
    return json.dumps(node)


def protobuf(body):
    from feast.protos.feast.serving.ServingService_pb2 import FeatureList, GetOnlineFeaturesRequest

    message = GetOnlineFeaturesRequest(features=FeatureList(val=body["features"]), full_feature_names=body.get("full_feature_names", False))
    for key, values in body["entities"].items():
        for value in values:
            message.entities[key].val.add(**({"string_val": value} if isinstance(value, str) else {"int64_val": value}))
    return message.SerializeToString()


def known_case(dice):
    """Bytes to send, how many answers come, and what is to be in each."""
    if dice.random() < 0.15:
        pairs = [known_request(dice) for _ in range(dice.randrange(2, 12))]
        return b"".join(http("/get-online-features", json.dumps(body).encode()) for body, _ in pairs), [(wanted, "json") for _, wanted in pairs]
    if dice.random() < 0.1:
        numbers = [dice.randrange(KNOWN) for _ in range(dice.choice([1, 7, 300]))]
        bonus = [dice.randrange(1000) / 4 for _ in numbers]
        body = {"features": ["better:sum", "checked:whole"], "entities": {"thing_key": numbers, "bonus": bonus}}
        share, whole = CHECKED["checked"][1]["share"], CHECKED["checked"][1]["whole"]
        wanted = {"whole": [whole(n) for n in numbers], "sum": [None if share(n) is None else share(n) + more for n, more in zip(numbers, bonus)]}
        return http("/get-online-features", json.dumps(body).encode()), [(wanted | {"thing_key": numbers}, "json")]
    body, wanted = known_request(dice)
    form, headers = "json", {}
    text = (styled(dice, body) if dice.random() < 0.5 else json.dumps(body, ensure_ascii=dice.random() < 0.5)).encode()
    if dice.random() < 0.2:
        text, headers["content_type"] = protobuf(body), "application/x-protobuf"
    if dice.random() < 0.3:
        form = dice.choice(["protobuf", "arrow"])
        headers["accept"] = {"protobuf": "application/x-protobuf", "arrow": "application/vnd.apache.arrow.stream"}[form]
    if dice.random() < 0.1:
        text, headers["content_encoding"] = gzip.compress(text), "gzip"
    make = (lambda path, body, **more: chunked(dice, path, body, **more)) if dice.random() < 0.2 else http
    return make("/get-online-features", text, **headers), [(wanted, form)]


# --- requests that nobody should send -------------------------------------------------------------------------------


class Raw(str):
    """Put into JSON as it is."""


LEAVES = [
    *[None, True, False, 0, -1, 1, 7, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400, 0.1, -0.0, 1e308, 5e-324, float("nan"), float("inf")],
    *["", "1", "-1", "1.5", "NaN", "null", "true", "\ud800", "\x00", "é🦀\u202e", "x" * 300, "2026-03-01T12:00:00Z", "2026-13-99", "9999999-01-01", "0001-01-01T00:00:00+23:59"],
    *["checked:whole", "checked", "checked:", ":whole", "checked:nope", "checked@v1:whole", "named:label", "better:sum", "risky:ratio", "a:b:c", "all_of_it", "YWJj", "{}", "[1", "%00", "../..", "'; DROP TABLE x; --"],
    *[[], {}, [[]], [None], [[1]], {"a": None}, {"": ""}, [1, "a", None, 1.5], Raw("1e999"), Raw("-1e999"), Raw("01"), Raw("NaN"), Raw("-Infinity"), Raw("1E400"), Raw("99999999999999999999999999"), Raw("0.1e-400"), Raw('"\\ud800"'), Raw('"\\udc00\\ud800"'), Raw("1."), Raw("+1"), Raw("'a'"), Raw("tru")],
]
#: Names of views that may be written to, and names that are none.
NAMES = ["written", "written_push", "nothing", "risky", "better", "", "\ud800", "all_of_it"]
ROW = {"thing_key": [5, 6], "event_timestamp": ["2026-03-01T12:00:00", "2026-03-01T12:00:01"]} | {name: [value, value] for name, (_, value) in WRITTEN.items()}
FILTERS = {"type": "and", "filters": [{"type": "eq", "key": "title", "value": "title 3"}, {"type": "in", "key": "title", "value": ["title 4"]}]}
BODIES = [
    ("/get-online-features", {"features": ["checked:whole", "named:label"], "entities": {"thing_key": [1, 2], "name_key": ["n1", "n2"]}, "full_feature_names": True}),
    ("/get-online-features", {"features": ["checked:whole", "pairs:both"], "entities": {"thing_key": [1], "name_key": ["n1"]}, "include_feature_view_version_metadata": True}),
    ("/get-online-features", {"feature_service": "all_of_it", "entities": {"thing_key": [1], "name_key": ["n1"], "bonus": [0.5]}}),
    ("/get-online-features", {"features": ["risky:ratio", "risky:rest", "risky:part", "risky:number", "risky:narrow"], "entities": {"thing_key": [1, 2], "n": [1, 2], "word": ["3", "4"]}}),
    ("/get-online-features", {"features": [f"written:{name}" for name in WRITTEN], "entities": {"thing_key": [5, 6, 7]}}),
    ("/push", {"push_source_name": "written_push", "df": ROW, "to": "online"}),
    ("/push", {"push_source_name": "written_push", "df": ROW, "to": "online_and_offline", "allow_registry_cache": True, "transform_on_write": False}),
    ("/write-to-online-store", {"feature_view_name": "written", "df": ROW, "allow_registry_cache": True}),
    ("/search", {"features": ["docs:title", "docs:place"], "query": [1.0, 1.0, 0.5], "top_k": 3, "api_version": 2, "distance_metric": "L2", "filters": FILTERS}),
    ("/search", {"features": ["docs:title"], "query_string": "title", "top_k": 3, "api_version": 2, "full_feature_names": True}),
    ("/retrieve-online-documents", {"features": ["docs:place"], "query": [1.0, 1.0, 0.5], "top_k": 3}),
    ("/v1/vector_stores/{id}/search", {"query": [1.0, 1.0, 0.5], "max_num_results": 2, "filters": FILTERS, "metadata": {"features_to_retrieve": ["title"]}, "ranking_options": {"ranker": "auto"}}),
    ("/materialize", {"start_ts": "2026-01-01T00:00:00", "end_ts": "2026-01-02T00:00:00", "feature_views": ["named"], "disable_event_timestamp": False}),
    ("/materialize-incremental", {"end_ts": "2026-01-02T00:00:00", "feature_views": ["named"]}),
    ("/chat", {"messages": [{"role": "user", "content": "x"}]}),
]
SEARCHES = ("/search", "/retrieve", "/v1/")
WRITES = ("/push", "/write")


def junk(dice, depth=0):
    if depth > 4 or dice.random() < 0.6:
        # A copy, since what it becomes part of is changed.
        return copy.deepcopy(dice.choice(LEAVES))
    if dice.random() < 0.5:
        return [junk(dice, depth + 1) for _ in range(dice.choice([0, 1, 2, 5]))]
    return {str(dice.choice(["features", "thing_key", "df", "x", "", "type", "value"])): junk(dice, depth + 1) for _ in range(dice.randrange(5))}


def places(node, found):
    """Every container of a document, with its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        found.append((node, key))
        if isinstance(node[key], (dict, list)):
            places(node[key], found)
    return found


def disturb(dice, path, body):
    body = copy.deepcopy(body)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        node, key = dice.choice(places(body, []) or [(body, "x")])
        match dice.randrange(8):
            case 0 if isinstance(node, dict):
                node.pop(key, None)
            case 1 if isinstance(node, dict):
                node[str(junk(dice, 5))] = junk(dice)
            case 2 if isinstance(node, list):
                node += [junk(dice) for _ in range(dice.choice([1, 3, 50]))]
            case 3 if isinstance(node, list):
                node *= dice.choice([0, 2, 100])
            case 4 if isinstance(node, list):
                node[:] = [junk(dice, 4) for _ in range(len(node))]
            case _:
                node[key] = junk(dice)
    # Nothing but what is there to be written may be written.
    for name in ("push_source_name", "feature_view_name"):
        if path.startswith(WRITES) and isinstance(body.get(name), str) and body[name] not in NAMES:
            body[name] = dice.choice(NAMES)
    return body


def text_of(value):
    """JSON, with what JSON does not allow where it is wanted."""
    raws = []

    def mark(node):
        if isinstance(node, Raw):
            raws.append(node)
            return f"\x01raw{len(raws) - 1}\x01"
        if isinstance(node, dict):
            return {key: mark(item) for key, item in node.items()}
        return [mark(item) for item in node] if isinstance(node, list) else node

    text = json.dumps(mark(value))
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\u0001raw{number}\\u0001"', raw)
    return text.encode()


def damaged(dice, raw):
    """Some bytes changed, cut out, doubled or cut off."""
    raw = bytearray(raw)
    for _ in range(dice.choice([1, 1, 2, 8])):
        at = dice.randrange(len(raw) + 1)
        match dice.randrange(6):
            case 0:
                del raw[at:]
            case 1:
                del raw[at : at + dice.randrange(1, 9)]
            case 2:
                raw[at:at] = bytes(dice.randrange(256) for _ in range(dice.randrange(1, 5)))
            case 3:
                raw[at:at] = raw[at : at + dice.randrange(1, 60)]
            case 4:
                raw[at : at + 1] = dice.choice([b'"', b"{", b"]", b"\\", b"\xff", b"\x00", b",", b":", b"9", b"-"])
            case _ if at < len(raw):
                raw[at] ^= 1 << dice.randrange(8)
    return bytes(raw)


def wrong_json(dice):
    path, body = dice.choice(BODIES)
    text = text_of(disturb(dice, path, body) if dice.random() < 0.97 else junk(dice))
    headers = {}
    if dice.random() < 0.1:
        headers["content_type"] = dice.choice(["text/plain", "application/x-protobuf", "application/xml", "", "multipart/form-data; boundary=x", "application/json; charset=utf-16", None])
    if dice.random() < 0.1:
        headers["accept"] = dice.choice(["application/x-protobuf", "application/vnd.apache.arrow.stream", "text/html", ",,;q=x", "\xff"])
    if dice.random() < 0.05:
        headers["content_encoding"] = dice.choice(["gzip", "br", "identity", "gzip, gzip", ""])
    if dice.random() < 0.05:
        path += dice.choice(["?async=maybe", "?async=true", "?x=%ff%00", "/", "?" + "a=b&" * 500])
    return path, text, headers


def wrong_bytes(dice):
    path, body = dice.choice(BODIES)
    text = damaged(dice, json.dumps(body).encode())
    # A name that became another that is real is no accident to provoke.
    return (path, text, {}) if not path.startswith(WRITES) or b"written" in text else (path, b"{", {})


def wrong_protobuf(dice):
    body = copy.deepcopy(BODIES[dice.randrange(2)][1])
    raw = protobuf(body) if dice.random() < 0.9 else bytes(dice.randrange(256) for _ in range(dice.randrange(200)))
    return "/get-online-features", damaged(dice, raw), {"content_type": "application/x-protobuf"}


def wrong_path(dice):
    segment = dice.choice(["", "vs_x", "%00", "..", "%2e%2e%2f", "é".encode().decode("latin-1"), "a" * 9000, "x/search", "search/x", urllib.parse.quote(str(dice.choice(LEAVES)), safe="", errors="replace")])
    path = dice.choice(["/v1/vector_stores/", "/", "/health", "/get-online-features/", "/v1/vector_stores", "/docs", "/openapi.json", "/ready", "/live", "/metrics"]) + segment
    return dice.choice(["GET", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]), path


def wrong_http(dice):
    body = json.dumps(known_request(dice, 2)[0]).encode()
    good = http("/get-online-features", body)
    match dice.randrange(12):
        case 0:
            return damaged(dice, good)
        case 1:
            return damaged(dice, chunked(dice, "/get-online-features", body))
        case 2:
            length = dice.choice([0, -1, len(body) - 1, len(body) + 1, 10**9, 10**18, 2**64, "x", "", f"{len(body)}, {len(body)}", "+5", "0x10"])
            return http("/get-online-features", body, content_length=length)
        case 3:
            return http("/get-online-features", b"ffffffffffffffff\r\n" + body, content_length=None, transfer_encoding="chunked")
        case 4:
            return http("/get-online-features", body, transfer_encoding=dice.choice(["chunked", "gzip", "identity", "chunked, chunked", "xchunked"]))
        case 5:
            return http("/get-online-features", body, x="y" * dice.choice([10_000, 500_000]))
        case 6:
            return http("/get-online-features", body, **{f"x{n}": "y" for n in range(dice.choice([90, 101, 5000]))})
        case 7:
            return dice.choice([b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 50, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET http:// HTTP/1.1\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", b"POST * HTTP/1.1\r\nhost: a\r\n\r\n"])
        case 8:
            return http("/get-online-features", body, expect=dice.choice(["100-continue", "x"]))
        case 9:
            return http("/" + "a" * dice.choice([8000, 70_000]), body)
        case 10:
            return good[: dice.randrange(len(good))]
        case _:
            return good + damaged(dice, good) + good


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def wrong_http2(dice):
    """HTTP/2 from the preface on, for gRPC and for JSON, damaged behind the preface."""
    literal = lambda name, value: b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    grpc = dice.random() < 0.6
    path = dice.choice([b"/feast.serving.ServingService/GetOnlineFeatures", b"/GrpcFeatureServer/Push", b"/grpc.health.v1.Health/Check"]) if grpc else b"/get-online-features"
    head = literal(b":method", b"POST") + literal(b":scheme", b"http") + literal(b":path", path) + literal(b":authority", b"fuzz")
    head += literal(b"content-type", b"application/grpc" if grpc else b"application/json") + literal(b"te", b"trailers")
    body = known_request(dice, 1)[0]
    message = protobuf(body)
    data = struct.pack(">BI", dice.choice([0, 0, 1, 7]), dice.choice([len(message), 2**32 - 1, 0])) + message if grpc else json.dumps(body).encode()
    frames = [frame(4, 0, 0, b""), frame(1, 4, 1, head), frame(0, 1, 1, data)]
    frames.insert(dice.randrange(1, 4), dice.choice([b"", frame(8, 0, 0, b"\x7f\xff\xff\xff"), frame(3, 0, 1, b"\x00" * 4), frame(6, 0, 0, b"12345678"), frame(9, 4, 1, head), frame(1, 4, 1, head), frame(2, 0, 1, b"\x00" * 5), frame(0, 1, 3, data), frame(5, 4, 1, b"\x00" * 8), frame(99, 255, 9, b"x")]))
    raw = b"".join(frames)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + (damaged(dice, raw) if dice.random() < 0.7 else raw)


GRPC = {
    "/feast.serving.ServingService/GetFeastServingInfo": lambda dice: b"",
    "/feast.serving.ServingService/GetOnlineFeatures": lambda dice: protobuf(known_request(dice, 3)[0]),
    "/GrpcFeatureServer/GetOnlineFeatures": lambda dice: protobuf(copy.deepcopy(BODIES[1][1])),
    "/GrpcFeatureServer/Push": lambda dice: pushed(dice, "stream_feature_view"),
    "/GrpcFeatureServer/WriteToOnlineStore": lambda dice: pushed(dice, "feature_view_name"),
    "/GrpcFeatureServer/Nothing": lambda dice: b"x",
    "/grpc.health.v1.Health/Check": lambda dice: b"\x0a\x01x",
}


def pushed(dice, field):
    from feast.protos.feast.serving.GrpcServer_pb2 import PushRequest, WriteToOnlineStoreRequest

    row = {name: str(values[0]) for name, values in ROW.items()}
    row[dice.choice(list(row))] = str(junk(dice, 5)).encode(errors="replace").decode()
    if field == "feature_view_name":
        return WriteToOnlineStoreRequest(features=row, feature_view_name="written").SerializeToString()
    return PushRequest(features=row, stream_feature_view="written_push", to=dice.choice(["online", "offline", "", "x"])).SerializeToString()


def huge(dice):
    """A body that is too much of something: its path and itself."""
    read = "/get-online-features"
    ids = lambda count: b'{"features":["checked:whole"],"entities":{"thing_key":[%s]}}' % b",".join(b"%d" % (n % KNOWN) for n in range(count))
    match dice.randrange(16):
        case 0:
            return read, dice.choice([b"[", b'{"a":', b'{"entities":{"thing_key":[[']) * dice.choice([100, 1000, 1_000_000])
        case 1:
            return read, ids(1_000_000)
        case 2:
            return read, ids(100_000)
        case 3:
            return read, b'{"features":["checked:whole"],"entities":{"thing_key":[%s]}}' % (b"9" * 1_000_000)
        case 4:
            return read, b'{"entities":{"thing_key":[1]},"features":[%s]}' % b",".join([dice.choice([b"0", b"[]", b'""', b"{}"])] * 5_000_000)
        case 5:
            return read, json.dumps({"features": ["checked:whole"] * dice.choice([20_000, 1_000_000]), "entities": {"thing_key": [1]}}).encode()
        case 6:
            return read, json.dumps({"features": ["checked:whole"] * 5_000, "entities": {"thing_key": list(range(20_000))}}).encode()
        case 7:
            return read, json.dumps({"features": ["checked:whole"], "entities": {f"k{n}": [n] for n in range(300_000)}}).encode()
        case 8:
            return read, json.dumps({"features": ["named:label"], "entities": {"name_key": ["x" * 30_000_000]}}).encode()
        case 9:
            return read, b" " * (65 << 20)
        case 10:
            return "/push", json.dumps({"push_source_name": "written_push", "df": {"thing_key": [1] * 1_000_000}}).encode()
        case 11:
            row = ROW | {"w_map": [{str(n): str(n) for n in range(200_000)}] * 2, "w_json": [json.dumps("x" * 2_000_000)] * 2}
            return "/push", json.dumps({"push_source_name": "written_push", "df": row}).encode()
        case 12:
            return dice.choice(["/search", "/retrieve-online-documents"]), json.dumps({"features": ["docs:place"], "query": [0.5] * 1_000_000, "top_k": dice.choice([1, 10**9, 2**63 - 1]), "api_version": 2}).encode()
        case 13:
            nested = {"type": "eq", "key": "title", "value": "x"}
            for _ in range(dice.choice([50, 60, 70])):
                nested = {"type": dice.choice(["and", "or"]), "filters": [nested]}
            wide = {"type": "or", "filters": [{"type": "in", "key": "title", "value": ["x"] * dice.choice([1, 10, 1000])}] * dice.choice([200, 500, 2000])}
            filters = dice.choice([nested, wide])
            return "/search", json.dumps({"features": ["docs:title"], "query": [1, 1, 0.5], "top_k": 2, "api_version": 2, "filters": filters}).encode()
        case 14:
            words = dice.choice(["title ", '"', "NEAR(", "a AND ", "* ", "title:x ", "漢", "(((", "^a "]) * dice.choice([1, 1000, 300_000])
            return "/search", json.dumps({"features": ["docs:title"], "query_string": words, "top_k": 2, "api_version": 2}).encode()
        case _:
            return read, json.dumps({"features": [f"checked:f{n}" for n in range(300_000)], "entities": {"thing_key": [1]}}).encode()


# --- a worker -------------------------------------------------------------------------------------------------------

#: How often each kind of case comes.
KINDS = {"known": 30, "written": 6, "json": 30, "bytes": 8, "protobuf": 4, "path": 3, "http": 8, "http2": 3, "grpc": 4, "search": 3, "huge": 0.4}


class Worker:
    def __init__(self, port, number):
        self.port, self.number, self.wire = port, number, Wire(port)
        self.sent, self.statuses = b"", collections.Counter()
        self.calls = {}
        self.rows = 0
        found = self.wire.ask(http("/v1/vector_stores", b"", "GET", content_length=None))[0]
        self.store_id = json.loads(found.body)["data"][0]["id"]

    def ask(self, raw, count=1):
        self.sent = raw
        answers = self.wire.ask(raw, count)
        self.statuses.update(answer.status for answer in answers)
        return answers

    def known(self, dice):
        raw, expected = known_case(dice)
        for answer, (wanted, form) in zip(self.ask(raw, len(expected)), expected, strict=True):
            if answer.status != 200:
                return f"a right request is refused: {answer.show()}"
            if (got := columns_of(answer, form)) != wanted:
                return f"wrong values: {got} instead of {wanted}"
        return None

    def written(self, dice):
        self.rows += 1
        first = 7_000_000_000 * (self.number + 1) + self.rows % 50 * 3
        ids = [first, first + 1, first + 2]
        draw = {
            "w_int": lambda: dice.randrange(-(2**62), 2**62),
            "w_int32": lambda: dice.randrange(-(2**31), 2**31),
            "w_float": dice.random,
            "w_text": lambda: "".join(dice.choice("aé漢🦀\"\\\n\x00 ") for _ in range(dice.randrange(9))),
            "w_bool": lambda: dice.random() < 0.5,
            "w_ints": lambda: [dice.randrange(100) for _ in range(dice.randrange(1, 4))],
            "w_texts": lambda: [str(dice.random()) for _ in range(dice.randrange(1, 4))],
        }
        values = {name: [make() for _ in ids] for name, make in draw.items()}
        rest = {name: [value] * 3 for name, (_, value) in WRITTEN.items() if name not in draw}
        when = (WHEN + datetime.timedelta(seconds=self.rows)).isoformat()
        frame = {"thing_key": ids, "event_timestamp": [when] * 3} | values | rest
        path, name = dice.choice([("/push", "push_source_name"), ("/write-to-online-store", "feature_view_name")])
        body = {name: "written_push" if path == "/push" else "written", "df": frame}
        answer = self.ask(http(path, json.dumps(body).encode()))[0]
        if answer.status != 200:
            return f"a right row is refused: {answer.show()}"
        body = {"features": [f"written:{name}" for name in READ_BACK], "entities": {"thing_key": ids}}
        answer = self.ask(http("/get-online-features", json.dumps(body).encode()))[0]
        if answer.status != 200 or (got := columns_of(answer, "json")) != values | {"thing_key": ids}:
            return f"not what was written: {answer.show()} instead of {values}"
        return None

    def may_be_wrong(self, path, text, headers):
        path = path.replace("{id}", self.store_id)
        answer = self.ask(http(path, text, **headers))[0]
        problem = blames_caller(answer, path.startswith(SEARCHES))
        return problem and f"{problem}: {answer.show()}"

    def json(self, dice):
        return self.may_be_wrong(*wrong_json(dice))

    def bytes(self, dice):
        return self.may_be_wrong(*wrong_bytes(dice))

    def protobuf(self, dice):
        return self.may_be_wrong(*wrong_protobuf(dice))

    def huge(self, dice):
        path, text = huge(dice)
        headers = {}
        if dice.random() < 0.3:
            text, headers["content_encoding"] = gzip.compress(text, 1), "gzip"
        return self.may_be_wrong(path, text, headers)

    def path(self, dice):
        method, path = wrong_path(dice)
        answer = self.ask(http(path, b"", method, content_length=None))[0]
        return None if answer.status < 500 else f"the server takes the blame: {answer.show()}"

    def search(self, dice):
        number, count = dice.randrange(2, DOCS - 2), dice.randrange(1, 4)
        body = {"features": ["docs:title"], "query": [number + 0.1, 1.0, 0.5], "top_k": count, "api_version": 2, "distance_metric": "L2"}
        answer = self.ask(http(dice.choice(["/search", "/retrieve-online-documents"]), json.dumps(body).encode()))[0]
        if answer.status in (400, 501) and b"redis" in answer.body.lower():
            return None
        wanted = [f"title {n}" for n in [number, number + 1, number - 1][:count]]
        if answer.status != 200 or columns_of(answer, "json")["title"] != wanted:
            return f"a wrong search: {answer.show()} instead of {wanted}"
        return None

    def http(self, dice):
        self.sent = wrong_http(dice)
        said = self.wire.throw(self.sent)
        for line in said.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                status = int(line.split()[1])
                self.statuses[status] += 1
                if status >= 500:
                    return f"the server takes the blame: {said[:2000]!r}"
        return None

    def http2(self, dice):
        self.sent = wrong_http2(dice)
        self.wire.throw(self.sent)
        return None

    def grpc(self, dice):
        import grpc

        method = dice.choice(list(GRPC))
        good = GRPC[method](dice)
        self.sent = raw = damaged(dice, good) if dice.random() < 0.6 else good
        if not self.calls:
            self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        call = self.calls.setdefault(method, self.channel.unary_unary(method))
        try:
            call(raw, timeout=PATIENCE)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            fault = [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DATA_LOSS]
            self.statuses[code.name] += 1
            # What a message that cannot be decoded is answered with is gRPC's, not ours.
            if code in fault and "decode" not in details:
                return f"the server takes the blame of {method}: {code} {details}"
        else:
            self.statuses["OK"] += 1
        return None


def work(port, number, seconds, seed, keep, pipe):
    """Sends cases until the time is over; tells what it did and what failed."""
    worker, kinds, failures = Worker(port, number), collections.Counter(), collections.Counter()
    texts, slowest = {}, (0.0, "")
    protobuf(known_request(random.Random(0))[0])  # what is imported for it takes seconds
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        dice = random.Random(f"{seed}/{number}/{count}")
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        kinds[kind] += 1
        began = time.monotonic()
        try:
            problem = getattr(worker, kind)(dice)
        except (OSError, ValueError, EOFError) as error:
            worker.wire.close()
            problem = f"no answer: {error!r}"
        slowest = max(slowest, (time.monotonic() - began, f"{kind} {number}-{count}"))
        # Of those that say the same, the first is enough.
        alike = problem and re.sub(r"date: [^}]*|'date[^}]*|x-request-id[^,]*|[0-9]+", "", problem)[:300]
        if problem and not failures[alike]:
            name = f"{seed}-{number}-{count}-{kind}"
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}.request").write_bytes(worker.sent)
            (keep / f"{name}.txt").write_text(problem)
            texts[alike] = f"{kind}, kept as {keep}/{name}.request: {problem[:1000]}"
        failures[alike] += bool(problem)
        count += 1
    pipe.send((kinds, worker.statuses, slowest, [f"{failures[alike]} × {text}" for alike, text in texts.items()]))


@dataclasses.dataclass
class Found:
    kinds: collections.Counter
    statuses: collections.Counter
    failures: list[str]
    #: How long the slowest case took, and which it was.
    slowest: tuple[float, str] = (0.0, "")


def run(port, seconds, options, folder):
    context = multiprocessing.get_context("spawn")
    found, started = Found(collections.Counter(), collections.Counter(), []), []
    for number in range(options.workers):
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(port, number, seconds, options.seed, options.keep, sending))
        process.start()
        sending.close()
        started.append((process, receiving))
    for process, receiving in started:
        try:
            kinds, statuses, slowest, failures = receiving.recv()
            found.slowest = max(found.slowest, slowest)
            found.kinds += kinds
            found.statuses.update({str(status): count for status, count in statuses.items()})
            found.failures += failures
        except EOFError:
            found.failures.append("a worker died")
        process.join()
    return found
