"""Requests that nobody should send."""

import copy
import json
import struct
import urllib.parse

from fuzz.project import KNOWN, WRITTEN
from fuzz.right import known_request, protobuf
from fuzz.wire import chunked, http


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
        found = places(body, []) or [(body, "x")]
        if len(found) > 10_000:  # lists of lists that were made longer
            break
        node, key = dice.choice(found)
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


def in_json(dice):
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


def in_bytes(dice):
    path, body = dice.choice(BODIES)
    text = damaged(dice, json.dumps(body).encode())
    # A name that became another that is real is no accident to provoke.
    return (path, text, {}) if not path.startswith(WRITES) or b"written" in text else (path, b"{", {})


def in_protobuf(dice):
    body = copy.deepcopy(BODIES[dice.randrange(2)][1])
    raw = protobuf(body) if dice.random() < 0.9 else bytes(dice.randrange(256) for _ in range(dice.randrange(200)))
    return "/get-online-features", damaged(dice, raw), {"content_type": "application/x-protobuf"}


def in_path(dice):
    segment = dice.choice(["", "vs_x", "%00", "..", "%2e%2e%2f", "é".encode().decode("latin-1"), "a" * 9000, "x/search", "search/x", urllib.parse.quote(str(dice.choice(LEAVES)), safe="", errors="replace")])
    path = dice.choice(["/v1/vector_stores/", "/", "/health", "/get-online-features/", "/v1/vector_stores", "/docs", "/openapi.json", "/ready", "/live", "/metrics"]) + segment
    return dice.choice(["GET", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]), path


def in_http(dice):
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


def in_http2(dice):
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
