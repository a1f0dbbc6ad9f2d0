"""What no registry should be sent, and what should not happen to its storage: a clear error, nothing changed, nothing lost."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy
from feast.errors import FeastError
from feast.protos.feast.core.Entity_pb2 import Entity
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.protos.feast.registry import RegistryServer_pb2 as rpc
from google.protobuf.empty_pb2 import Empty

import harness
import registries
import registry_load as load
import servers
from harness import Node, eventually, http
from registries import Backend, call

APPLIES = [method.name for method in rpc.DESCRIPTOR.services_by_name["RegistryServer"].methods if method.name.startswith("Apply")]
DATABASES = ("postgres", "mariadb")
SMALL = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL


def everything(channel: grpc.Channel) -> Registry:
    return call(channel, "Proto", Empty(), Registry)


def refused(channel: grpc.Channel, method: str, request: Any, *codes: grpc.StatusCode) -> str:
    """The RPC fails with one of these codes; what its error says, as a client of Feast's would see it."""
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, request)
    error = caught.value
    assert error.code() in codes, (error.code(), error.details())
    known = FeastError.from_error_detail(error.details())
    message = str(known) if known else error.details()
    assert message and "\n" not in message and "panicked" not in message, message
    assert servers.PASSWORD not in message, message
    return message


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, grpc.Channel]]:
    folder = tmp_path_factory.mktemp("served")
    with Backend("file", folder, str(folder / "registry.db")).serve() as node, grpc.insecure_channel(registries.address(node), OPTIONS) as channel:
        load.prepare(channel, "bad")
        call(channel, *load.apply(load.view("stats"), "bad"))
        yield node, channel


#: The client itself sends what is too large.
OPTIONS = [("grpc.max_send_message_length", -1)]

# --- requests -------------------------------------------------------------------------------------------------------

VALID = rpc.ApplyFeatureViewRequest(feature_view=load.view("other"), project="bad").SerializeToString()
MALFORMED = {
    "no protobuf": b"\xff\xff\xff\xff",
    "cut": VALID[:-3],
    "another type": b"\x08\x01",  # field 1 as a number
    "an object that is none": b"\x0a\x05\xff\xff\xff\xff\xff\x12\x03bad",
    "a text that is not UTF-8": b"\x0a\x04\x0a\x02\x0a\x00\x12\x03\xff\xfe\xfd",
}


@pytest.mark.parametrize("method", APPLIES)
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_protobuf(case: str, method: str, served: tuple[Node, grpc.Channel]) -> None:
    _, channel = served
    before = everything(channel)
    refused(channel, method, MALFORMED[case], *SMALL)
    assert everything(channel) == before


@pytest.mark.parametrize("method", APPLIES)
def test_nothing_to_apply(method: str, served: tuple[Node, grpc.Channel]) -> None:
    """A message without its object, and one whose object has no name."""
    _, channel = served
    before = everything(channel)
    for body in (b"", b"\x0a\x00"):
        refused(channel, method, body, *SMALL, grpc.StatusCode.NOT_FOUND)
    assert everything(channel) == before


def memory(node: Node) -> int:
    """The most memory that the process ever had, in MiB."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def huge() -> bytes:
    """A request of 100 MiB that is right but for its size."""
    entity = Entity()
    entity.spec.name, entity.spec.description = "huge", "x" * (100 << 20)
    return rpc.ApplyEntityRequest(entity=entity, project="bad", commit=True).SerializeToString()


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip], ids=["plain", "gzip"])
def test_a_request_of_100_megabytes(compression: grpc.Compression, served: tuple[Node, grpc.Channel]) -> None:
    node, channel = served
    before, had = everything(channel), memory(node)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(registries.SERVICE + "ApplyEntity")(huge(), timeout=harness.DEADLINE, compression=compression)
    assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE), caught.value
    assert re.search(r"large|limit|size|bytes", caught.value.details()), caught.value.details()
    assert everything(channel) == before
    # What is compressed has to be unpacked as far as the limit, to know that it is beyond it.
    assert memory(node) - had < (64 if compression == grpc.Compression.NoCompression else 256), "it kept what it refused"


def test_a_rest_request_of_100_megabytes(served: tuple[Node, grpc.Channel]) -> None:
    node, channel = served
    before, had = everything(channel), memory(node)
    body = b'{"name": "huge", "project": "bad", "description": "' + b"x" * (100 << 20) + b'"}'
    try:
        status, answer = http("POST", f"{node.addresses['registry-rest']}/entities", raw=body)
        assert status == 413, answer
    except OSError:
        pass  # it may also stop reading
    assert everything(channel) == before
    assert memory(node) - had < 64, "it kept what it refused"


def test_an_unknown_project(served: tuple[Node, grpc.Channel]) -> None:
    _, channel = served
    before = everything(channel)
    assert load.views(channel, "nowhere") == {}
    assert "stats" in refused(channel, "GetFeatureView", rpc.GetFeatureViewRequest(name="stats", project="nowhere"), grpc.StatusCode.NOT_FOUND)
    assert "stats" in refused(channel, "DeleteFeatureView", rpc.DeleteFeatureViewRequest(name="stats", project="nowhere"), grpc.StatusCode.NOT_FOUND)
    assert "nowhere" in refused(channel, "GetProject", rpc.GetProjectRequest(name="nowhere"), grpc.StatusCode.NOT_FOUND)
    assert "nowhere" in refused(channel, "DeleteProject", rpc.DeleteProjectRequest(name="nowhere"), grpc.StatusCode.NOT_FOUND)
    materialization = rpc.ApplyMaterializationRequest(feature_view=load.view("stats"), project="nowhere")
    refused(channel, "ApplyMaterialization", materialization, grpc.StatusCode.NOT_FOUND, *SMALL)
    assert everything(channel) == before, "a question about a project must not make it"


# --- names ----------------------------------------------------------------------------------------------------------

NAMES = [
    "'; DROP TABLE entities; --",
    '" OR ""="',
    "x') ; DELETE FROM projects WHERE ('1'='1",
    "back\\slash\\'",
    "100%_of ?them? :name $1 {x}",
    "`quoted`",
    "ünï😀",
    "a" * 255,
]
#: Pairs that a database may take for one name: another letter case, accents, spaces at the end.
ALIKE = [("Driver", "driver"), ("café", "cafe"), ("rider", "rider "), ("straße", "strasse")]


def entity(name: str, description: str = "") -> rpc.ApplyEntityRequest:
    entity = Entity()
    entity.spec.name, entity.spec.join_key, entity.spec.description = name, "key", description
    return rpc.ApplyEntityRequest(entity=entity, project="names", commit=True)


def entities(channel: grpc.Channel) -> dict[str, str]:
    """Name → description, as the storage has it."""
    request = rpc.ListEntitiesRequest(project="names", allow_cache=False)
    answer = call(channel, "ListEntities", request, rpc.ListEntitiesResponse)
    return {entity.spec.name: entity.spec.description for entity in answer.entities}


@pytest.mark.parametrize("backend", ["file", "sqlite", *DATABASES], indirect=True)
def test_names_are_only_names(backend: Backend) -> None:
    """Each is either stored and found as it is, or refused; never is another one touched."""
    expected: dict[str, str] = {}

    def put(channel: grpc.Channel, name: str, description: str) -> None:
        try:
            call(channel, "ApplyEntity", entity(name, description))
            expected[name] = description
        except grpc.RpcError as error:
            assert error.code() in (*SMALL, grpc.StatusCode.ALREADY_EXISTS), (name, error)
        assert entities(channel) == expected, name

    with backend.serve() as node, grpc.insecure_channel(registries.address(node)) as channel:
        for number, name in enumerate(NAMES):
            put(channel, name, f"made {number}")
            put(channel, name, f"changed {number}")
        assert set(NAMES) == set(expected), "a name that Feast takes is refused"
        put(channel, "b" * 300, "longer than Feast's columns")
        for pair in ALIKE:
            for name in pair:
                put(channel, name, f"for {name!r}")
                call(channel, "GetEntity", rpc.GetEntityRequest(name=pair[0], project="names", allow_cache=False), Entity)
    with backend.serve() as node, grpc.insecure_channel(registries.address(node)) as channel:
        assert entities(channel) == expected, "another one after a restart"
        for name in list(expected):
            call(channel, "DeleteEntity", rpc.DeleteEntityRequest(name=name, project="names", commit=True))
            del expected[name]
            assert entities(channel) == expected, f"deleting {name!r}"


# --- storage --------------------------------------------------------------------------------------------------------


def ready(node: Node) -> tuple[int, Any]:
    return http("GET", f"{node.addresses['registry-rest']}/ready")


@pytest.mark.parametrize("backend", [*DATABASES, "remote"], indirect=True)
@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_database_that_disappears(ending: str, backend: Backend) -> None:
    """Or the server that is the remote registry."""
    assert backend.server
    with backend.serve() as node, grpc.insecure_channel(registries.address(node)) as channel:
        load.prepare(channel, "bad")
        call(channel, *load.apply(load.view("stats", number="1"), "bad"))
        before = load.views(channel, "bad")
        assert ready(node)[0] == 200
        getattr(backend.server, ending)()
        status, answer = eventually(lambda: (found := ready(node))[0] == 503 and found, "/ready says that the database is gone")
        assert answer["ready"] is False and "registry" in str(answer["checks"]), answer
        assert servers.PASSWORD not in str(answer) and servers.quote(servers.PASSWORD, safe="") not in str(answer)
        # What is known is still served.
        assert load.views(channel, "bad") == before
        message = refused(channel, *load.apply(load.view("stats", number="2"), "bad"), grpc.StatusCode.UNAVAILABLE)
        assert "127.0.0.1" in message, message
        assert load.views(channel, "bad") == before
        # And it comes back by itself.
        backend.server.start()
        eventually(lambda: ready(node)[0] == 200, "it is ready again when the database is back")
        eventually(lambda: call(channel, *load.apply(load.view("stats", number="3"), "bad")) == b"", "it writes again")
        assert load.views(channel, "bad")["stats"].spec.tags["number"] == "3"
        assert servers.PASSWORD not in node.log_text()
    with backend.serve() as node, grpc.insecure_channel(registries.address(node)) as channel:
        assert load.views(channel, "bad")["stats"].spec.tags["number"] == "3"


@pytest.mark.parametrize("backend", [*DATABASES, "remote"], indirect=True)
def test_a_database_that_is_not_there(backend: Backend) -> None:
    assert backend.server
    backend.server.stop()
    done = harness.run(backend.repo(), "registry-dump")
    assert done.returncode in (1, 2), done.stdout
    assert f"127.0.0.1:{backend.server.port}" in done.stderr, done.stderr
    assert servers.PASSWORD not in done.stderr and servers.quote(servers.PASSWORD, safe="") not in done.stderr, done.stderr


@pytest.mark.parametrize("backend", ["file", "s3", "sqlite", *DATABASES], indirect=True)
def test_a_schema_from_the_future(backend: Backend) -> None:
    """A newer thali, or a newer Feast, was here: this one neither reads nor writes, and says why."""
    with backend.serve() as node, grpc.insecure_channel(registries.address(node)) as channel:
        load.prepare(channel, "sdk")
        before = everything(channel)
    undo = from_the_future(backend)
    for command in (["plan"], ["serve", "--role", "registry", "--registry-port", 0, "--registry-rest-port", 0, "--metrics-port", 0]):
        done = harness.run(backend.repo(), *command, env=harness.environment(**backend.env))
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert re.search(r"newer|version", done.stderr) and "panicked" not in done.stderr, done.stderr
    undo()
    with backend.serve() as node, grpc.insecure_channel(registries.address(node)) as channel:
        assert everything(channel).entities == before.entities


def from_the_future(backend: Backend) -> Any:
    """Makes the storage one that only a later program understands; what takes that back."""
    if backend.url is None:
        old = backend.content()
        registry = Registry.FromString(old)
        registry.registry_schema_version = "2"
        backend.replace_content(registry.SerializeToString())
        return lambda: backend.replace_content(old)
    engine = sqlalchemy.create_engine(backend.url, poolclass=sqlalchemy.NullPool)
    inspector = sqlalchemy.inspect(engine)
    # The tables that keep which migrations were run.
    ledgers = [table for table in inspector.get_table_names() if {column["name"] for column in inspector.get_columns(table)} == {"version", "name", "applied_at"}]
    assert ledgers, "no table says which migrations of the registry were run"
    with engine.begin() as connection:
        for table in ledgers:
            connection.execute(sqlalchemy.text(f"INSERT INTO {table} (version, name, applied_at) VALUES (9999, 'future', 0)"))

    def undo() -> None:
        with engine.begin() as connection:
            for table in ledgers:
                connection.execute(sqlalchemy.text(f"DELETE FROM {table} WHERE version = 9999"))

    return undo
