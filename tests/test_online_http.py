"""The online server as its clients meet it: forms of answers, limits, gRPC, traces, and requests that nobody should send."""

import concurrent.futures
import gzip
import json
import random
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

import harness
import small_project
from harness import Thali, feast_error, http

SETTINGS = """feature_server:
  audit_logging: {enabled: true, sink: file, file_path: %s}
thali:
  otlp_endpoint: http://127.0.0.1:%d
  online: {max_rows: 1000, max_body: 1MiB, slow_request_ms: 0.001}
"""
READ = {"features": ["stats:rate", "stats:trips"], "entities": {"driver_id": [1, 2, 9]}}


class Collector(grpc.GenericRpcHandler):
    """An OTLP collector that keeps what it is sent, as bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.lock = threading.Lock()

    def service(self, details: Any) -> Any:
        if not details.method.endswith("TraceService/Export"):
            return None
        return grpc.unary_unary_rpc_method_handler(self.keep)

    def keep(self, request: bytes, context: Any) -> bytes:
        with self.lock:
            self.received += request
        return b""


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, int]]:
    server, collector = grpc.server(concurrent.futures.ThreadPoolExecutor(2)), Collector()
    server.add_generic_rpc_handlers((collector,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, port
    server.stop(0)


@pytest.fixture(scope="module")
def thali(tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, int]) -> Iterator[Thali]:
    repo = small_project.create_served(tmp_path_factory.mktemp("http"))
    yaml = repo / "feature_store.yaml"
    yaml.write_text(yaml.read_text() + SETTINGS % (repo / "audit.log", collector[1]))
    with Thali.serve(repo) as thali:
        yield thali


def exchange(thali: Thali, body: bytes, **headers: str) -> tuple[int, Any, bytes]:
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{thali.url('online')}/get-online-features", body, headers)
    with urllib.request.urlopen(request) as response:
        return response.status, response.headers, response.read()


def test_an_answer_comes_as_json_protobuf_or_arrow(thali: Thali) -> None:
    from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

    body = json.dumps(READ).encode()
    answer = json.loads(exchange(thali, body)[2])
    assert [column["values"] for column in answer["results"]] == [[1, 2, 9], [0.5, 1.0, None], [10, 20, None]]
    _, headers, content = exchange(thali, body, Accept="application/x-protobuf")
    assert headers["content-type"] == "application/x-protobuf"
    message = GetOnlineFeaturesResponse.FromString(content)
    assert [value.int64_val for value in message.results[2].values][:2] == [10, 20]
    _, headers, content = exchange(thali, body, Accept="application/vnd.apache.arrow.stream")
    table = pa.ipc.open_stream(content).read_all()
    assert table.column("rate").to_pylist() == [0.5, 1.0, None]
    assert table.column("rate__status").to_pylist() == ["PRESENT", "PRESENT", "NOT_FOUND"]
    assert table.column("rate__event_timestamp").null_count == 1
    assert table.schema.field("trips").type == pa.int64()


def test_bodies_are_packed_both_ways(thali: Thali) -> None:
    many = json.dumps(READ | {"entities": {"driver_id": list(range(500))}}).encode()
    plain = exchange(thali, many)
    packed = exchange(thali, gzip.compress(many), Accept_Encoding="gzip", Content_Encoding="gzip")
    assert "content-encoding" not in plain[1] and packed[1]["content-encoding"] == "gzip"
    assert gzip.decompress(packed[2]) == plain[2]


def test_http_2_needs_no_upgrade(thali: Thali) -> None:
    url = f"{thali.url('online')}/get-online-features"
    command = ["curl", "-sS", "--http2-prior-knowledge", "-w", "\n%{http_version}", "-d", json.dumps(READ), url]
    answer, version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rsplit("\n", 1)
    assert version == "2" and json.loads(answer)["results"][1]["values"] == [0.5, 1.0, None]


def test_what_is_over_a_limit_is_refused(thali: Thali) -> None:
    url = f"{thali.url('online')}/get-online-features"
    status, answer = http("POST", url, READ | {"entities": {"driver_id": list(range(1001))}})
    assert status == 400 and "1001 rows" in feast_error(answer)["message"]
    status, answer = http("POST", url, READ | {"entities": {"driver_id": [1] * 400_000}})
    assert status == 413 and feast_error(answer)["class"] == "FeastError"


def test_feasts_stubs_for_grpc(thali: Thali) -> None:
    from feast.protos.feast.serving import GrpcServer_pb2, GrpcServer_pb2_grpc, ServingService_pb2, ServingService_pb2_grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(f"127.0.0.1:{thali.port('online')}") as channel:
        serving = ServingService_pb2_grpc.ServingServiceStub(channel)
        assert serving.GetFeastServingInfo(ServingService_pb2.GetFeastServingInfoRequest()).version
        request = ServingService_pb2.GetOnlineFeaturesRequest(features=ServingService_pb2.FeatureList(val=["stats:trips"]))
        for driver in (1, 9):
            request.entities["driver_id"].val.add(int64_val=driver)
        for read in (serving, GrpcServer_pb2_grpc.GrpcFeatureServerStub(channel)):
            answer = read.GetOnlineFeatures(request)
            assert list(answer.metadata.feature_names.val) == ["driver_id", "trips"]
            assert list(answer.results[1].statuses) == [1, 3] and answer.results[1].values[0].int64_val == 10
        row = {"driver_id": "77", "rate": "0.25", "trips": "7", "event_timestamp": "2026-03-01T12:00:00"}
        writes = GrpcServer_pb2_grpc.GrpcFeatureServerStub(channel)
        assert writes.Push(GrpcServer_pb2.PushRequest(features=row, stream_feature_view="stats_push", to="online")).status
        row |= {"driver_id": "78"}
        assert writes.WriteToOnlineStore(GrpcServer_pb2.WriteToOnlineStoreRequest(features=row, feature_view_name="stats")).status
        with pytest.raises(grpc.RpcError) as refused:
            writes.Push(GrpcServer_pb2.PushRequest(features=row, stream_feature_view="nope", to="online"))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert {"GrpcFeatureServer", "feast.serving.ServingService"} <= set(services)
    assert thali.online_features(features=["stats:trips"], entities={"driver_id": [77, 78]})["trips"] == [7, 7]


def test_feasts_remote_online_store(thali: Thali, tmp_path: Path) -> None:
    store = harness.sdk(thali, "small", tmp_path / "client")
    found = store.get_online_features(features=["stats:rate", "stats:trips"], entity_rows=[{"driver_id": 1}, {"driver_id": 2}]).to_dict()
    assert found == {"driver_id": [1, 2], "rate": [0.5, 1.0], "trips": [10, 20]}


def test_requests_leave_traces_lines_and_numbers(thali: Thali, collector: tuple[Collector, int]) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    exchange(thali, json.dumps(READ).encode(), traceparent=f"00-{trace}-b7ad6b7169203331-01", x_request_id="seen")
    received = collector[0]
    harness.eventually(lambda: bytes.fromhex(trace) in received.received, "the caller's trace is followed")
    for span in (b"request", b"retrieval", b"store read"):
        assert span in received.received
    lines = harness.eventually(lambda: [line for line in (thali.repo / "audit.log").read_text().splitlines() if "seen" in line], "the audit log has it")
    event = json.loads(lines[0])
    assert (event["event_type"], event["outcome"], event["trace_id"]) == ("http.request", "success", trace)
    assert "slow request" in harness.eventually(lambda: "slow request" in thali.node("online").log_text() and thali.node("online").log_text(), "slow")
    _, text = http("GET", f"{thali.url('metrics')}/metrics")
    for name in (
        'feast_feature_server_request_latency_seconds_bucket{le="0.005",endpoint="/get-online-features",feature_count="1-10",feature_view_count="1"}',
        'feast_feature_server_request_total{endpoint="/get-online-features",status="success"}',
        "feast_feature_server_memory_usage{pid=",
        'thali_online_store_read_seconds_count{store="sqlite"}',
        "thali_requests_shed_total 0",
        "thali_plan_hits_total",
    ):
        assert name in text, f"{name}\n{text}"


def test_requests_that_nobody_should_send(thali: Thali) -> None:
    """Seeded, so that a failure comes again."""
    dice = random.Random(4)
    url = thali.url("online")
    leaves = [None, True, 0, -1, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "1", "\ud800", "\x00", "stats:rate", "é🦀", [], {}]

    def junk(depth: int = 0) -> Any:
        if depth > 4 or dice.random() < 0.5:
            return dice.choice(leaves)
        if dice.random() < 0.5:
            return [junk(depth + 1) for _ in range(dice.randrange(5))]
        return {dice.choice(["features", "entities", "driver_id", "df", "x", "stats"]): junk(depth + 1) for _ in range(dice.randrange(5))}

    bodies = {
        "/get-online-features": READ,
        "/push": {"push_source_name": "stats_push", "df": {"driver_id": [5], "rate": [1.0], "trips": [1], "event_timestamp": ["2026-03-01T12:00:00"]}},
        "/write-to-online-store": {"feature_view_name": "stats", "df": {"driver_id": [5], "rate": [1.0], "trips": [1], "event_timestamp": ["2026-03-01T12:00:00"]}},
        "/search": {"features": ["stats:rate"], "query": [0.5], "top_k": 1, "api_version": 2},
        "/retrieve-online-documents": {"features": ["stats:rate"], "query": [0.5], "top_k": 1},
        "/v1/vector_stores/vs_x/search": {"query": "x"},
        "/chat": {"messages": []},
        "/materialize": {"start_ts": "2026-02-01", "end_ts": "2026-02-01"},
    }
    for number in range(600):
        path = dice.choice(list(bodies))
        body = dict(bodies[path])
        field = dice.choice(list(body))
        body[field] = {name: dice.choice([junk(), [junk()]]) for name in body[field]} if isinstance(body[field], dict) and dice.random() < 0.7 else junk()
        raw = json.dumps(body).encode()
        if dice.random() < 0.2:
            cut = dice.randrange(len(raw))
            raw = raw[:cut] + bytes([dice.randrange(256)]) + raw[cut + 1 :]
        status, answer = http("POST", url + path, raw=raw)
        assert status < 500, f"{number}: {status} of {path} {raw!r}: {answer}"
    for raw in (b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"\x00" * 1000):
        assert http("POST", f"{url}/get-online-features", raw=raw)[0] == 422
    assert http("GET", f"{url}/health")[0] == 200
    assert "panicked" not in thali.node("online").log_text()
