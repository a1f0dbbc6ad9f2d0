"""Bad input: a clear error that names the thing, the exit status or code that says whose fault it is, and nothing changed."""

import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight
import pyarrow.parquet as pq
import pytest

import harness
import small_project
from harness import Thali, http, run
from small_project import DEFINITIONS, END, FEATURE_STORE, START


def state(repo: Path) -> dict[str, Any]:
    """Everything that must not change: the registry's bytes and the online store's rows."""
    registry = repo / "data/registry.db"
    found: dict[str, Any] = {"registry": registry.read_bytes() if registry.is_file() else None}
    online = repo / "data/online.db"
    if online.exists():
        with sqlite3.connect(f"file:{online}?mode=ro", uri=True) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
                found[table] = sorted(connection.execute(f'SELECT * FROM "{table}"'), key=repr)
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project.create_served(tmp_path_factory.mktemp("template"))


@pytest.fixture
def repo(template: Path, tmp_path: Path) -> Path:
    """A project that is applied and materialized."""
    return Path(shutil.copytree(template, tmp_path / "small"))


def refused(repo: Path, *arguments: str, says: list[str], code: int = 1, **options: Any) -> str:
    """The command fails with this exit status, its message has these words, and nothing changed."""
    before = state(repo)
    done = run(repo, *arguments, **options)
    assert done.returncode == code, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    for words in says:
        assert words in done.stderr, f"{words!r} is not in\n{done.stderr}"
    assert "panicked" not in done.stderr
    assert state(repo) == before
    return done.stderr


# --- definitions ----------------------------------------------------------------------------------------------------

BAD_DEFINITIONS = {
    "broken yaml": ("    ttl: 2d", "    ttl: [2d", ["definitions.yaml", "1"]),
    "unknown key": ("    ttl: 2d", "    tll: 2d", ["definitions.yaml:", "tll", "ttl"]),
    "unknown top-level key": ("feature_services:", "feature_servces:", ["definitions.yaml:", "feature_servces", "feature_services"]),
    "unknown type": ("{name: rate, type: Float64}", "{name: rate, type: Flaot64}", ["definitions.yaml:", "Flaot64"]),
    "bad duration": ("ttl: 2d", "ttl: 2 fortnights", ["definitions.yaml:", "2 fortnights"]),
    "view without its entity": ("entities: [driver]", "entities: [pilot]", ["pilot", "stats"]),
    "view without its source": ("source: stats_push", "source: nowhere", ["nowhere", "stats"]),
    "service without its view": ("features: [stats, better]", "features: [stats, worse]", ["worse", "all_of_it"]),
    "on-demand view without its input": ("sources: [stats, trip]", "sources: [stats, journey]", ["journey", "better"]),
    "expression over an unknown input": ('"rate + bonus"', '"rate + malus"', ["malus", "better"]),
    "a feature that the source lacks": ("{name: trips, type: Int64}", "{name: tripz, type: Int64}", ["tripz"]),
    "a timestamp column that the source lacks": ("timestamp_field: event_timestamp", "timestamp_field: happened", ["happened", "stats_file"]),
    "a file that is not there": ("path: data/stats.parquet", "path: data/nothing.parquet", ["nothing.parquet"]),
    "names that differ only in case": (
        "on_demand_feature_views:",
        "  - {name: Stats, entities: [driver], source: stats_push, schema: [{name: rate, type: Float64}]}\non_demand_feature_views:",
        ["Stats", "stats"],
    ),
    "the same name twice": (
        "data_sources:",
        "  - {name: driver, join_key: other_id, value_type: Int64}\ndata_sources:",
        ["driver"],
    ),
    "a reserved name": ("  - {name: all_of_it,", '  - {name: "",', ["name"]),
}


@pytest.mark.parametrize("case", BAD_DEFINITIONS)
@pytest.mark.parametrize("command", ["plan", "apply"])
def test_bad_definitions_are_refused_whole(case: str, command: str, repo: Path) -> None:
    old, new, says = BAD_DEFINITIONS[case]
    assert old in DEFINITIONS
    # Beside the mistake something that is right and new: it must not be applied either.
    (repo / "more.yaml").write_text("entities:\n  - {name: rider, join_key: rider_id, value_type: String}\n")
    (repo / "definitions.yaml").write_text(DEFINITIONS.replace(old, new, 1))
    refused(repo, command, says=says)


def test_every_mistake_is_reported_at_once(repo: Path) -> None:
    text = DEFINITIONS.replace("ttl: 2d", "tll: 2d").replace("features: [stats, better]", "featurez: [stats, better]")
    (repo / "definitions.yaml").write_text(text)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "tll" in line or "featurez" in line]
    refused(repo, "apply", says=["tll", "featurez", *(f"definitions.yaml:{line}" for line in lines)])


# --- configuration --------------------------------------------------------------------------------------------------

BAD_CONFIGURATION = {
    "broken yaml": ("provider: local", "provider: [local", ["feature_store.yaml"]),
    "unknown online store": ("type: sqlite", "type: squlite", ["feature_store.yaml:5", "squlite", "sqlite"]),
    "unknown key of ours": ("offline_store:", "thali: {memry_limit: 1GiB}\noffline_store:", ["memry_limit", "memory_limit"]),
    "missing variable": ("path: data/online.db", "path: ${NOT_SET_ANYWHERE}/online.db", ["NOT_SET_ANYWHERE"]),
    "no project": ("project: small\n", "", ["project"]),
    "bad project name": ("project: small", "project: -small", ["-small"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGURATION)
def test_bad_configuration_is_refused(case: str, repo: Path) -> None:
    old, new, says = BAD_CONFIGURATION[case]
    assert old in FEATURE_STORE
    (repo / "feature_store.yaml").write_text(FEATURE_STORE.replace(old, new, 1))
    for command in (["apply"], ["serve", "--online-port", "0"]):
        refused(repo, *command, says=says)


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    done = run(tmp_path, "apply")
    assert done.returncode == 1
    assert "feature_store.yaml" in done.stderr and "init" in done.stderr


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["materialize", END, START], ["2026-03-01", "2026-02-01"]),
        (["materialize", "yesterday", END], ["yesterday"]),
        (["materialize", START, END, "-v", "nothing"], ["nothing"]),
        (["materialize-incremental", END, "-v", "nothing"], ["nothing"]),
        (["get-online-features", "-e", "driver_id=1", "-f", "nothing:rate"], ["nothing"]),
        (["get-online-features", "-e", "driver_id=1", "-f", "stats:nothing"], ["nothing"]),
        (["get-online-features", "-e", "driver_id=one", "-f", "stats:rate"], ["one", "driver_id"]),
        (["get-online-features", "-e", "pilot_id=1", "-f", "stats:rate"], ["driver_id"]),
        (["get-online-features", "-e", "driver_id=1", "-f", "no reference"], ["no reference"]),
        (["serve", "--role", "cook"], ["cook"]),
    ],
    ids=lambda value: " ".join(value) if len(value) > 1 else None,
)
def test_bad_arguments(arguments: list[str], says: list[str], repo: Path) -> None:
    refused(repo, *arguments, says=says)


def test_a_source_that_lost_its_timestamp_column(repo: Path) -> None:
    path = repo / "data/stats.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["driver_id", "happened", "rate", "trips"]), path)
    refused(repo, "materialize", START, END, says=["event_timestamp", "stats"])


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of the kind PAR1"], ids=["empty", "garbage"])
def test_a_source_that_is_no_parquet_file(content: bytes, repo: Path) -> None:
    (repo / "data/stats.parquet").write_bytes(content)
    refused(repo, "materialize", START, END, says=["stats.parquet"])


# --- registry files -------------------------------------------------------------------------------------------------


def garbage(registry: Path) -> None:
    registry.write_bytes(b"\xff\xfe this is no registry \x00" * 10)


def directory(registry: Path) -> None:
    registry.unlink()
    registry.mkdir()


def cut(registry: Path) -> None:
    registry.write_bytes(registry.read_bytes()[:-7])


def newer(registry: Path) -> None:
    from feast.protos.feast.core.Registry_pb2 import Registry

    content = Registry.FromString(registry.read_bytes())
    content.registry_schema_version = "99"
    registry.write_bytes(content.SerializeToString())


@pytest.mark.parametrize("spoil", [garbage, directory, cut, newer], ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("command", [["apply"], ["serve", "--online-port", "0", "--role", "online", "--metrics-port", "0"]], ids=lambda c: c[0])
def test_an_unreadable_registry(spoil: Any, command: list[str], repo: Path) -> None:
    spoil(repo / "data/registry.db")
    before = state(repo)
    done = run(repo, *command)
    assert done.returncode in (1, 2), done.stderr
    assert "registry.db" in done.stderr and "panicked" not in done.stderr
    if spoil is newer:
        assert "99" in done.stderr
    assert state(repo) == before


# --- a full disk ----------------------------------------------------------------------------------------------------


def run_with_little_room(repo: Path, room: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command for which no file may grow beyond `room` bytes, as on a disk that is full."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    command = [str(harness.binary()), "-c", str(repo), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=harness.DEADLINE, env=harness.environment(), preexec_fn=limit, restore_signals=False
    )


def entries(repo: Path) -> set[Path]:
    """The files of the registry's history."""
    return {path for path in (repo / "data/registry.db.history").rglob("*") if path.is_file()}


def test_a_full_disk_during_apply(repo: Path) -> None:
    (repo / "more.yaml").write_text("entities:\n" + "".join(f"  - {{name: e{n}, value_type: String, description: {'x' * 200}}}\n" for n in range(2000)))
    before, told = state(repo), entries(repo)
    assert told
    done = run_with_little_room(repo, 200_000, "apply")
    assert done.returncode == 2, f"{done.returncode}\n{done.stderr}"
    assert "registry.db" in done.stderr and "panicked" not in done.stderr
    assert state(repo) == before
    assert {path.name for path in (repo / "data").glob("registry.db?*")} <= {"registry.db.lock", "registry.db.history"}
    assert entries(repo) == told, "an unfinished file was left behind"
    harness.succeed(repo, "apply")


def test_a_full_disk_during_materialization(tmp_path: Path) -> None:
    repo = small_project.create(tmp_path, rows=50_000)
    harness.succeed(repo, "apply")
    before = state(repo)["registry"]
    done = run_with_little_room(repo, 1_000_000, "materialize", START, END)
    assert done.returncode == 2, f"{done.returncode}\n{done.stderr}"
    assert "panicked" not in done.stderr
    assert "stats" in done.stderr
    assert state(repo)["registry"] == before, "an interval was recorded for data that is not there"
    harness.succeed(repo, "materialize", START, END)
    assert len(state(repo)["small_stats"]) == 100_000


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thali(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thali]:
    repo = Path(shutil.copytree(template, tmp_path_factory.mktemp("served") / "small"))
    with Thali.serve(repo) as thali:
        yield thali


ONE = {"driver_id": [1]}
FRAME = {"driver_id": [1], "event_timestamp": ["2026-03-01T11:30:00"], "rate": [9.0], "trips": [9]}
BAD_REQUESTS: dict[str, tuple[str, Any, set[int], list[str]]] = {
    "malformed JSON": ("/get-online-features", b'{"features": [', {422}, ["json"]),
    "not an object": ("/get-online-features", [1, 2], {422}, ["detail"]),
    "no entities": ("/get-online-features", {"features": ["stats:rate"]}, {422}, ["entities"]),
    "entities as rows": ("/get-online-features", {"features": ["stats:rate"], "entities": [{"driver_id": 1}]}, {422}, ["entities"]),
    "unknown view": ("/get-online-features", {"features": ["nothing:rate"], "entities": ONE}, {404}, ["FeatureViewNotFoundException", "nothing"]),
    "unknown feature": ("/get-online-features", {"features": ["stats:nothing"], "entities": ONE}, {400, 404, 422}, ["nothing", "stats"]),
    "malformed reference": ("/get-online-features", {"features": ["rate"], "entities": ONE}, {400, 422}, ["rate"]),
    "no features": ("/get-online-features", {"features": [], "entities": ONE}, {400, 422}, ["feature"]),
    "unknown service": ("/get-online-features", {"feature_service": "nothing", "entities": ONE}, {404}, ["FeatureServiceNotFoundException"]),
    "missing entity key": ("/get-online-features", {"features": ["stats:rate"], "entities": {"pilot": [1]}}, {400, 422}, ["driver_id"]),
    "wrong type": ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": ["one"]}}, {400, 422}, ["driver_id", "one"]),
    "null key": ("/get-online-features", {"features": ["stats:rate"], "entities": {"driver_id": [None]}}, {400, 422}, ["driver_id"]),
    "ragged columns": (
        "/get-online-features",
        {"features": ["stats:rate"], "entities": {"driver_id": [1, 2], "bonus": [1.0]}},
        {400, 422},
        ["same"],
    ),
    "missing request data": (
        "/get-online-features",
        {"features": ["better:better_rate"], "entities": ONE},
        {404},
        ["RequestDataNotFoundInEntityRowsException", "bonus"],
    ),
    "unknown push source": ("/push", {"push_source_name": "nothing", "df": FRAME}, {422}, ["PushSourceNotFoundException"]),
    "push to nowhere": ("/push", {"push_source_name": "stats_push", "df": FRAME, "to": "moon"}, {400, 422}, ["moon"]),
    "push without a feature": (
        "/push",
        {"push_source_name": "stats_push", "df": {k: v for k, v in FRAME.items() if k != "trips"}},
        {400, 422},
        ["trips"],
    ),
    "push without a key": (
        "/push",
        {"push_source_name": "stats_push", "df": {k: v for k, v in FRAME.items() if k != "driver_id"}},
        {400, 422},
        ["driver_id"],
    ),
    "push without a time": (
        "/push",
        {"push_source_name": "stats_push", "df": {k: v for k, v in FRAME.items() if k != "event_timestamp"}},
        {400, 422},
        ["event_timestamp"],
    ),
    "push of a wrong type, in the second row": (
        "/push",
        {"push_source_name": "stats_push", "df": {k: [*v, *v] for k, v in FRAME.items()} | {"trips": [9, "many"]}},
        {400, 422},
        ["trips", "many"],
    ),
    "push of ragged columns": ("/push", {"push_source_name": "stats_push", "df": FRAME | {"rate": [9.0, 8.0]}}, {400, 422}, ["rate"]),
    "write to an unknown view": ("/write-to-online-store", {"feature_view_name": "nothing", "df": FRAME}, {404}, ["nothing"]),
    "materialize backwards": ("/materialize", {"start_ts": END, "end_ts": START}, {400, 422}, ["2026-03-01"]),
    "materialize an unknown view": (
        "/materialize",
        {"start_ts": START, "end_ts": END, "feature_views": ["nothing"]},
        {404},
        ["nothing"],
    ),
    "materialize without an end": ("/materialize-incremental", {}, {422}, ["end_ts"]),
    "unknown route": ("/get-offline-features", {}, {404}, ["Not Found"]),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(case: str, thali: Thali) -> None:
    path, body, statuses, says = BAD_REQUESTS[case]
    before = state(thali.repo)
    content = {"raw": body} if isinstance(body, bytes) else {"body": body}
    status, answer = http("POST", f"{thali.url('online')}{path}", **content)
    assert status in statuses, f"{status}: {answer}"
    for words in says:
        assert words.lower() in str(answer).lower(), f"{words!r} is not in {answer}"
    assert state(thali.repo) == before
    assert thali.online_features(features=["stats:rate"], entities=ONE) == {"driver_id": [1], "rate": [0.5]}


def test_a_wrong_method(thali: Thali) -> None:
    assert http("GET", f"{thali.url('online')}/get-online-features") == (405, {"detail": "Method Not Allowed"})


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (b"no json", "command"),
        (b'{"api": "get_everything"}', "get_everything"),
        (b'{"api": "get_historical_features", "feature_view_names": ["nothing"], "feature_refs": ["nothing:rate"], "project": "small", "name_aliases": [null], "full_feature_names": false}', "nothing"),
    ],
    ids=["no json", "unknown api", "unknown view"],
)
def test_bad_flights(command: bytes, says: str, thali: Thali) -> None:
    rows = pa.table({"driver_id": [1], "event_timestamp": pa.array([small_project.NOW], pa.timestamp("us", tz="UTC"))})
    with pyarrow.flight.connect(f"grpc+tcp://127.0.0.1:{thali.port('offline')}") as client:
        with pytest.raises(pa.ArrowException) as refusal:
            writer, reader = client.do_exchange(pyarrow.flight.FlightDescriptor.for_command(command))
            with writer:
                writer.begin(rows.schema)
                writer.write_table(rows)
                writer.done_writing()
                reader.read_all()
    assert says in str(refusal.value)


def test_a_port_in_use(repo: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        free = [f"--{name}-port=0" for name in harness.PORTS if name != "online"]
        refused(repo, "serve", *free, f"--online-port={port}", says=[str(port), "online"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody without rights")
def test_a_folder_without_write_permission(repo: Path) -> None:
    """The same folder, seen by a user who may only read it."""
    before = state(repo)
    (repo / "more.yaml").write_text("entities:\n  - {name: rider, join_key: rider_id, value_type: String}\n")
    folder = repo
    while folder != Path("/tmp") and folder != folder.parent:
        folder.chmod(0o755)
        folder = folder.parent
    binary = shutil.copy(harness.binary(), repo / "thali")
    done = subprocess.run(
        [str(binary), "-c", str(repo), "apply"], capture_output=True, text=True, env=harness.environment(), timeout=harness.DEADLINE, user=65534, group=65534
    )
    assert done.returncode in (1, 2), done.stdout
    assert str(repo / "data") in done.stderr and "panicked" not in done.stderr
    assert state(repo) == before
