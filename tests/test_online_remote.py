"""`online_store: {type: remote}`: a thali whose rows are another thali's, behind a gate that wants a token."""

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import harness
import small_project
from harness import Thali, run, succeed

TOKEN = "s3cret-token"
READ = ("get-online-features", "-e", "driver_id=2", "-e", "driver_id=9", "-f", "stats:rate", "-f", "stats:trips", "-f", "better:better_rate", "-e", "bonus=1", "-e", "bonus=1")


@dataclass
class Gate:
    """Passes on what has the token, and remembers what passed."""

    upstream: str
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def serve(self) -> http.server.ThreadingHTTPServer:
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.pass_on()

            def do_POST(self) -> None:
                self.pass_on()

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self.answer(401, "application/json", json.dumps("no token, no features").encode())
                    return
                to = urlsplit(gate.upstream)
                connection = http.client.HTTPConnection(to.hostname, to.port)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                kind = answer.headers.get("Content-Type", "")
                gate.seen.append((self.path, self.headers.get("Accept", ""), kind))
                self.answer(answer.status, kind, answer.read())
                connection.close()

            def answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thali]:
    with Thali.serve(small_project.create_served(tmp_path_factory.mktemp("upstream"))) as thali:
        yield thali


@pytest.fixture
def gate(upstream: Thali) -> Iterator[Gate]:
    gate = Gate(upstream.url("online"))
    server = gate.serve()
    yield gate
    server.shutdown()
    server.server_close()


def client(folder: Path, upstream: Thali, path: str, token: str | None) -> Path:
    """A repository with the upstream's registry and the rows behind `path`."""
    folder.mkdir()
    registry = f"registry: {upstream.repo}/data/registry.db"
    online = f"online_store: {{type: remote, path: '{path}'}}"
    more = f"thali: {{online_token: {token}}}\n" if token else ""
    (folder / "feature_store.yaml").write_text(f"project: small\nprovider: local\n{registry}\n{online}\noffline_store: {{type: file}}\nentity_key_serialization_version: 3\n{more}")
    return folder


def test_rows_come_as_protobuf_with_the_token(upstream: Thali, gate: Gate, tmp_path: Path) -> None:
    repo = client(tmp_path / "client", upstream, gate.url, TOKEN)
    answer = json.loads(succeed(repo, *READ))
    assert answer == {"driver_id": [2, 9], "rate": [1.0, None], "trips": [20, None], "better_rate": [2.0, None]}
    reads = [seen for seen in gate.seen if seen[0] == "/get-online-features"]
    # All views of the request were asked for at once, and came in the form that needs no guessing of types.
    assert len(reads) == 1 and reads[0][1].startswith("application/x-protobuf") and reads[0][2] == "application/x-protobuf", gate.seen


def test_a_server_over_another_reads_and_writes_with_the_token(upstream: Thali, gate: Gate, tmp_path: Path) -> None:
    repo = client(tmp_path / "client", upstream, gate.url, TOKEN)
    with Thali.serve(repo) as thali:
        frame = {"driver_id": [70], "rate": [7.5], "trips": [2**53 + 1], "event_timestamp": ["2026-03-01T12:00:00"]}
        status, answer = harness.http("POST", f"{thali.url('online')}/write-to-online-store", {"feature_view_name": "stats", "df": frame})
        assert status == 200, answer
        found = thali.online_features(features=["stats:rate", "stats:trips"], entities={"driver_id": [70, 1]})
        assert (found["rate"], found["trips"]) == ([7.5, 0.5], [2**53 + 1, 10])
        assert harness.http("GET", f"{thali.url('online')}/ready")[0] == 200
    assert upstream.online_features(features=["stats:trips"], entities={"driver_id": [70]})["trips"] == [2**53 + 1]
    assert {"/write-to-online-store", "/get-online-features", "/health"} <= {seen[0] for seen in gate.seen}


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_the_token_the_key_is_named_and_never_shown(upstream: Thali, gate: Gate, tmp_path: Path, token: str | None) -> None:
    repo = client(tmp_path / "client", upstream, gate.url, token)
    done = run(repo, *READ)
    assert done.returncode == 2 and "401" in done.stderr and "`thali.online_token`" in done.stderr, done.stderr
    assert "wrong" not in done.stderr and gate.seen == []
