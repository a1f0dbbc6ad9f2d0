"""`registry_type: remote`: over TLS, and from a registry server that is Feast's own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import harness
import servers
import small_project
from harness import Node
from registries import SERVICE

FEAST = Path(sys.executable).with_name("feast")


def with_registry(repo: Path, registry: str) -> None:
    """Points the repository at another registry."""
    path = repo / "feature_store.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("registry:")]
    path.write_text("\n".join([*lines, f"registry: {registry}"]) + "\n")


def certificate(folder: Path) -> tuple[Path, Path]:
    folder.mkdir()
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_over_tls(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path / "tls")
    _, other = certificate(tmp_path / "other")
    upstream = small_project.create(tmp_path / "upstream")
    server = Node.start(upstream, "registry", "--tls-key", key, "--tls-cert", cert)
    repo = small_project.create(tmp_path / "client")
    address = server.addresses["registry"].split("//")[1]
    try:
        with_registry(repo, f"{{registry_type: remote, path: '{address}', cert: {cert}}}")
        harness.succeed(repo, "apply")
        assert "stats" in harness.succeed(repo, "feature-views", "list")
        assert "stats" in harness.succeed(upstream, "feature-views", "list"), "what was applied is in the server's registry"
        for registry, told in (
            (f"{{registry_type: remote, path: '{address}', cert: {other}}}", "certificate"),
            (f"{{registry_type: remote, path: '{address}'}}", address),
        ):
            with_registry(repo, registry)
            done = harness.run(repo, "feature-views", "list")
            assert done.returncode == 2, done.stdout
            assert address in done.stderr and told in done.stderr and len(done.stderr.strip().splitlines()) <= 2, done.stderr
        server.stop()
    finally:
        server.kill()


@pytest.fixture
def feasts_server(tmp_path: Path) -> Iterator[str]:
    """Feast's registry server on a SQLite database."""
    folder = tmp_path / "feast"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: small\nprovider: local\nregistry: {{registry_type: sql, path: 'sqlite:///{folder}/registry.sqlite', cache_ttl_seconds: 1}}\n"
        f"online_store: {{type: sqlite, path: {folder}/online.db}}\nentity_key_serialization_version: 3\n"
    )
    port = servers.free_port()
    log = tmp_path / "feast.log"
    with open(log, "w") as out:
        command = [FEAST, "-c", folder, "serve_registry", "-p", port]
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, env=harness.environment())
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

            def serves() -> bool:
                assert process.poll() is None, log.read_text()
                grpc.channel_ready_future(channel).result(5)
                return True

            harness.eventually(serves, "Feast's registry server serves")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_from_feasts_own_server(tmp_path: Path, feasts_server: str) -> None:
    from feast.protos.feast.core import FeatureView_pb2
    from feast.protos.feast.registry import RegistryServer_pb2 as rpc

    repo = small_project.create(tmp_path / "client")
    with_registry(repo, f"{{registry_type: remote, path: '{feasts_server}'}}")
    harness.succeed(repo, "apply")
    harness.succeed(repo, "materialize", small_project.START, small_project.END)

    with grpc.insecure_channel(feasts_server) as channel:

        def call(method: str, request: object, answer: type | None = None) -> object:
            reply = channel.unary_unary(SERVICE + method)(request.SerializeToString(), timeout=harness.DEADLINE)
            return answer.FromString(reply) if answer else reply

        wanted = rpc.GetFeatureViewRequest(name="stats", project="small", allow_cache=False)
        view = call("GetFeatureView", wanted, FeatureView_pb2.FeatureView)
        assert [feature.name for feature in view.spec.features] == ["rate", "trips"]
        assert len(view.meta.materialization_intervals) == 1, "the interval was recorded there"

        with harness.Thali.serve(repo, "all-in-one") as thali:
            assert thali.online_features(features=["stats:rate"], entities={"driver_id": [1, 2]})["rate"] == [0.5, 1.0]
            # Another client of Feast's server changes something; thali finds it by itself.
            view.spec.features.pop()
            call("ApplyFeatureView", rpc.ApplyFeatureViewRequest(feature_view=view, project="small", commit=True))

            def changed() -> bool:
                body = {"features": ["stats:trips"], "entities": {"driver_id": [1]}}
                return harness.http("POST", f"{thali.url('online')}/get-online-features", body)[0] != 200

            harness.eventually(changed, "the dropped feature is no longer served")
            assert thali.online_features(features=["stats:rate"], entities={"driver_id": [2]})["rate"] == [1.0]
