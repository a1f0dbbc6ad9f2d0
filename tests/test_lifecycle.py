"""From start to stop: ports, readiness, health, metrics, TLS, and what a signal does to requests in flight."""

import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import harness
import small_project
from harness import ROLES, Node, Thali, eventually, http

#: Name of a listener → the role it belongs to.
HTTP = {"registry-rest": "registry", "online": "online", "ui": "ui", "metrics": "all"}
GRPC = {"registry": "registry", "offline": "offline"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project.create_served(tmp_path_factory.mktemp("template"))


@pytest.fixture
def repo(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "small"))


@pytest.fixture
def node(repo: Path) -> Iterator[Node]:
    node = Node.start(repo)
    yield node
    node.kill()


def health(address: str, service: str = "", credentials: grpc.ChannelCredentials | None = None) -> int:
    target = address.split("://")[1]
    channel = grpc.secure_channel(target, credentials) if credentials else grpc.insecure_channel(target)
    with channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=harness.DEADLINE).status


# --- start ----------------------------------------------------------------------------------------------------------


def test_every_role_says_where_it_listens(repo: Path, layout: str) -> None:
    with Thali.serve(repo, layout) as thali:
        for name in (*HTTP, *GRPC):
            assert thali.port(name) > 0
        if layout == "split":
            for role, node in zip(ROLES, thali.nodes):
                expected = {name for name, owner in (HTTP | GRPC).items() if owner in (role, "all")}
                assert set(node.addresses) == expected, role


def test_a_subset_of_roles_in_one_process(repo: Path) -> None:
    node = Node.start(repo, "registry,online")
    try:
        assert set(node.addresses) == {"registry", "registry-rest", "online", "metrics"}
        node.stop()
    finally:
        node.kill()


def test_health_readiness_and_metrics_on_every_http_listener(repo: Path, layout: str) -> None:
    with Thali.serve(repo, layout) as thali:
        for name in HTTP:
            url = thali.url(name)
            assert http("GET", f"{url}/health")[0] == 200, name
            assert http("GET", f"{url}/live")[0] == 200, name
            status, answer = http("GET", f"{url}/ready")
            assert status == 200 and answer["ready"] is True and answer["checks"], name
            assert set(answer["checks"].values()) == {"ok"}, name
            status, answer = http("GET", f"{url}/metrics")
            assert status == 200 and "# TYPE " in answer and answer.rstrip().endswith("# EOF"), name
        assert http("GET", f"{thali.url('online')}/health") == (200, "")


def test_requests_are_counted(repo: Path, layout: str) -> None:
    with Thali.serve(repo, layout) as thali:
        node = thali.node("online")

        def count() -> float:
            text = http("GET", f"{node.addresses['metrics']}/metrics")[1]
            name = "feast_online_features_request_total"
            return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

        before = count()
        thali.online_features(features=["stats:rate"], entities={"driver_id": [1]})
        assert count() == before + 1


def test_grpc_health(repo: Path, layout: str) -> None:
    with Thali.serve(repo, layout) as thali:
        for name in GRPC:
            assert health(thali.url(name)) == health_pb2.HealthCheckResponse.SERVING, name


def test_the_health_command(node: Node) -> None:
    url = f"{node.addresses['metrics']}/ready"
    done = subprocess.run([harness.binary(), "health", "--url", url], capture_output=True, text=True, env=harness.environment())
    assert done.returncode == 0, done.stderr
    node.stop()
    done = subprocess.run([harness.binary(), "health", "--url", url], capture_output=True, text=True, env=harness.environment())
    assert done.returncode == 1 and url in done.stderr


def test_a_change_is_served_at_once_in_one_process_and_soon_in_several(repo: Path, layout: str) -> None:
    with Thali.serve(repo, layout) as thali:
        from feast import Entity, FeatureView, Field, FileSource, ValueType
        from feast.types import Float64

        store = harness.sdk(thali, "small", repo.parent / "client")
        driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
        source = FileSource(name="stats_file", path="data/stats.parquet", timestamp_field="event_timestamp")
        store.apply([FeatureView(name="fresh", entities=[driver], source=source, schema=[Field(name="rate", dtype=Float64)])])

        def served() -> bool:
            body = {"features": ["fresh:rate"], "entities": {"driver_id": [1]}}
            status, answer = http("POST", f"{thali.url('online')}/get-online-features", body)
            return status == 200 and answer["results"][1]["values"] == [None]

        assert served() if layout == "all-in-one" else eventually(served, "the new view is served", 10)


# --- stop -----------------------------------------------------------------------------------------------------------


def half_a_request(node: Node) -> socket.socket:
    """A request whose body has not arrived completely: in flight until the rest is sent."""
    host, port = node.addresses["online"].split("://")[1].split(":")
    connection = socket.create_connection((host, int(port)), timeout=harness.DEADLINE)
    connection.sendall(b"POST /get-online-features HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n")
    connection.sendall(f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY[:10])
    # It has been accepted when a request on a later connection is answered.
    assert http("GET", f"{node.addresses['online']}/live")[0] == 200
    return connection


BODY = json.dumps({"features": ["stats:rate"], "entities": {"driver_id": [1]}}).encode()


def ready(node: Node) -> int:
    try:
        return http("GET", f"{node.addresses['metrics']}/ready", timeout=5)[0]
    except (urllib.error.URLError, OSError):
        return 0


def test_a_signal_lets_requests_in_flight_finish(node: Node) -> None:
    connection = half_a_request(node)
    node.signal()
    eventually(lambda: ready(node) != 200, "readiness turns false")
    assert node.process.poll() is None, "ended with a request in flight"
    connection.sendall(BODY[10:])
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 200") and b"[0.5]" in answer
    assert node.wait() == 0


def test_readiness_turns_false_before_anything_is_refused(repo: Path) -> None:
    yaml = repo / "feature_store.yaml"
    yaml.write_text(yaml.read_text() + "thali: {shutdown_delay_seconds: 2}\n")
    node = Node.start(repo)
    try:
        node.signal()
        eventually(lambda: ready(node) == 503, "readiness turns false")
        status, answer = http("POST", f"{node.addresses['online']}/get-online-features", json.loads(BODY))
        assert status == 200, "a request during the delay is still served"
        assert answer["results"][1]["values"] == [0.5]
        eventually(lambda: health(node.addresses["registry"]) == health_pb2.HealthCheckResponse.NOT_SERVING, "so does gRPC health")
        assert node.wait() == 0
    finally:
        node.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_both_signals_end_an_idle_process(number: signal.Signals, node: Node) -> None:
    node.signal(number)
    assert node.wait(10) == 0


def test_a_second_signal_ends_the_process_at_once(node: Node) -> None:
    connection = half_a_request(node)
    node.signal()
    eventually(lambda: ready(node) != 200, "readiness turns false")
    node.signal()
    assert node.wait(5) != 0, "it claims to have ended well, with a request in flight"
    connection.close()


def test_a_request_that_never_ends_does_not_keep_the_process(repo: Path) -> None:
    yaml = repo / "feature_store.yaml"
    yaml.write_text(yaml.read_text() + "thali: {shutdown_grace_seconds: 1}\n")
    node = Node.start(repo)
    try:
        connection = half_a_request(node)
        node.signal()
        assert node.wait(15) in (0, 1, 2)
        connection.close()
    finally:
        node.kill()


def test_killed_while_it_writes_it_starts_again(tmp_path: Path) -> None:
    repo = small_project.create(tmp_path, rows=20_000)
    harness.succeed(repo, "apply")
    node = Node.start(repo)
    body = {"start_ts": small_project.START, "end_ts": small_project.END}

    def ask() -> None:
        try:
            http("POST", f"{node.addresses['online']}/materialize", body)
        except OSError:
            pass  # the process is killed while it answers

    request = threading.Thread(target=ask)
    request.start()
    # The database and its write-ahead log.
    written = lambda: sum(file.stat().st_size for file in (repo / "data").glob("online.db*"))
    eventually(lambda: written() > 100_000, "rows are being written")
    node.kill()
    request.join()
    with Thali.serve(repo) as thali:
        assert http("POST", f"{thali.url('online')}/materialize", body)[0] == 200
        drivers = [1, 10_000, 20_000]
        assert thali.online_features(features=["stats:trips"], entities={"driver_id": drivers})["trips"] == [10, 100_000, 200_000]


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_tls_on_every_port(repo: Path, layout: str, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    with Thali.serve(repo, layout, "--tls-key", key, "--tls-cert", cert) as thali:
        context = ssl.create_default_context(cafile=str(cert))
        for name in ("registry-rest", "online", "ui"):
            url = thali.url(name)
            assert url.startswith("https://"), url
            with urllib.request.urlopen(f"{url}/ready", context=context, timeout=harness.DEADLINE) as response:
                assert response.status == 200
            # Who can speak HTTP/2 is offered it while TLS is agreed on, and who cannot is understood all the same.
            for ask, version in (("--http2", "2"), ("--http1.1", "1.1")):
                command = ["curl", "-sS", ask, "--cacert", cert, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{url}/ready"]
                said = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
                assert said == f"{version} 200", (name, said)
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        for name in GRPC:
            assert health(thali.url(name), credentials=credentials) == health_pb2.HealthCheckResponse.SERVING, name

        # The stock SDK, by its own configuration of TLS.
        from feast import FeatureStore

        client = repo.parent / "client"
        client.mkdir()
        text = harness.client_yaml(thali, "small")
        text = text.replace("registry_type: remote\n", f"registry_type: remote\n  cert: {cert}\n")
        text = text.replace("online_store:\n  type: remote\n", f"online_store:\n  type: remote\n  cert: {cert}\n")
        text = text.replace("offline_store:\n  type: remote\n", f"offline_store:\n  type: remote\n  scheme: https\n  cert: {cert}\n")
        (client / "feature_store.yaml").write_text(text)
        store = FeatureStore(repo_path=str(client))
        assert store.get_online_features(["stats:rate"], [{"driver_id": 2}]).to_dict() == {"driver_id": [2], "rate": [1.0]}
        import pandas as pd

        rows = pd.DataFrame({"driver_id": [3], "event_timestamp": [small_project.NOW]})
        assert store.get_historical_features(rows, ["stats:trips"]).to_df()["trips"].tolist() == [30]


def test_a_key_without_its_certificate_is_refused(repo: Path, certificate: tuple[Path, Path]) -> None:
    done = harness.run(repo, "serve", "--tls-key", str(certificate[0]))
    assert done.returncode == 1
    assert "tls-cert" in done.stderr
