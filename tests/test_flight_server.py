"""The offline server under clients that send too much, read too slowly, go away, or send nonsense."""

import json
import random
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import harness
import small_project

ROWS = 200_000
LIMITS = "thali:\n  offline: {max_upload: 64MiB, max_upload_rows: 300000, max_queries: 1}\n"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = small_project.create(tmp_path)
    harness.succeed(repo, "apply")
    return repo


def configure(repo: Path, text: str) -> None:
    with (repo / "feature_store.yaml").open("a") as yaml:
        yaml.write(text)


def entities(rows: int, width: int = 0) -> pa.Table:
    """Entity rows, each with a text of its own of so many letters."""
    return pa.table(
        {
            "driver_id": pa.array((row % 5 for row in range(rows)), pa.int64()),
            "event_timestamp": pa.array([small_project.NOW] * rows, pa.timestamp("us", tz="UTC")),
            "label": [f"{row:0{width}}" for row in range(rows)],
        }
    )


def historical(**more: Any) -> bytes:
    command = {
        "command_id": str(uuid.uuid4()),
        "api": "get_historical_features",
        "feature_view_names": ["stats"],
        "feature_refs": ["stats:rate"],
        "project": "small",
        "name_aliases": [None],
        "full_feature_names": False,
    }
    return json.dumps(command | more).encode()


def connect(thali: harness.Thali) -> Any:
    return flight.connect(f"grpc+tcp://127.0.0.1:{thali.port('offline')}")


@contextmanager
def reading(thali: harness.Thali, rows: pa.Table, command: bytes | None = None) -> Iterator[Any]:
    """The reader of an answer, of which nothing has been read."""
    client = connect(thali)
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command or historical()))
    writer.begin(rows.schema)
    writer.write_table(rows, max_chunksize=20_000)
    writer.done_writing()
    try:
        yield reader
    finally:
        reader.cancel()
        # Closing says again that the call was cancelled, if it was.
        with suppress(pa.ArrowException, OSError):
            writer.close()
        client.close()


def metric(thali: harness.Thali, name: str, **labels: str) -> float:
    _, text = harness.http("GET", f"{thali.url('online')}/metrics")
    found = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            found += float(match[2])
    return found


def ended(thali: harness.Thali, outcome: str) -> Callable[[], bool]:
    def check() -> bool:
        return metric(thali, "thali_flight_commands_total", outcome=outcome) == 1 and metric(thali, "thali_flight_in_flight") == 0

    return check


def test_a_client_that_goes_away_ends_its_query(repo: Path) -> None:
    with harness.Thali.serve(repo) as thali:
        rows = entities(ROWS, width=100)
        with reading(thali, rows) as reader:
            reader.read_chunk()
            assert metric(thali, "thali_flight_in_flight", command="get_historical_features") == 1
        harness.eventually(ended(thali, "cancelled"), "the query has ended")
        # It was held back while nobody read: what was not sent was not computed for it either.
        assert metric(thali, "thali_flight_rows_total", direction="out") < ROWS
        assert metric(thali, "thali_flight_upload_bytes") == 0
        with reading(thali, rows) as reader:
            answer = reader.read_all()
        assert answer.column("label") == rows.column("label"), "every row, once, in order"
        assert metric(thali, "thali_flight_rows_total", direction="in") == 2 * ROWS


def test_one_query_too_many_is_told_so_and_can_come_later(repo: Path, tmp_path: Path) -> None:
    configure(repo, LIMITS)
    with harness.Thali.serve(repo) as thali:
        store = harness.sdk(thali, "small", tmp_path / "client")
        frame = entities(3).to_pandas()
        with reading(thali, entities(ROWS, width=100)) as reader:
            reader.read_chunk()
            with pytest.raises(Exception, match="commands are being worked on, which is the limit.*max_queries"):
                store.get_historical_features(frame, ["stats:rate"]).to_df()
        harness.eventually(ended(thali, "cancelled"), "the place is free")
        assert len(store.get_historical_features(frame, ["stats:rate"]).to_df()) == 3


def test_an_upload_over_the_limits_is_told_so(repo: Path, tmp_path: Path) -> None:
    configure(repo, LIMITS)
    with harness.Thali.serve(repo) as thali:
        store = harness.sdk(thali, "small", tmp_path / "client")
        with pytest.raises(Exception, match="more than 300000 rows.*max_upload_rows"):
            store.get_historical_features(entities(300_001).to_pandas(), ["stats:rate"]).to_df()
        with pytest.raises(Exception, match="more than 67108864 bytes.*max_upload"):
            store.get_historical_features(entities(100_000, width=1_000).to_pandas(), ["stats:rate"]).to_df()
        assert len(store.get_historical_features(entities(3).to_pandas(), ["stats:rate"]).to_df()) == 3
        assert metric(thali, "thali_flight_upload_bytes") == 0


def test_a_query_ends_when_its_time_is_over_though_nobody_reads(repo: Path) -> None:
    configure(repo, "thali:\n  offline: {query_timeout_seconds: 20}\n")
    with harness.Thali.serve(repo) as thali:
        with reading(thali, entities(ROWS, width=100)) as reader:
            harness.eventually(ended(thali, "timeout"), "the query has ended")
            with pytest.raises(flight.FlightTimedOutError, match="not done within 20 s.*query_timeout_seconds"):
                reader.read_all()


def test_a_ticket_is_good_anywhere_after_a_restart_and_twice(repo: Path) -> None:
    """The three steps of older SDKs, each with another process."""
    rows = entities(5)
    command = flight.FlightDescriptor.for_command(historical())
    with harness.Thali.serve(repo) as thali, connect(thali) as client:
        writer, _ = client.do_put(command, rows.schema)
        writer.write_table(rows)
        writer.close()
        assert [info.descriptor.command for info in client.list_flights()] == [command.command]
    with harness.Thali.serve(repo) as one, harness.Thali.serve(repo) as other:
        with connect(one) as client:
            ticket = client.get_flight_info(command).endpoints[0].ticket
        for thali in (other, one, other):
            with connect(thali) as client:
                answer = client.do_get(ticket).read_all()
                assert answer.column("label") == rows.column("label") and answer.column("rate").to_pylist()[1] == 0.5
        with connect(one) as client:
            with pytest.raises(KeyError, match="not found"):
                client.get_flight_info(flight.FlightDescriptor.for_command(historical()))
            with pytest.raises(KeyError, match="uploaded rows of this ticket are not here"):
                client.do_get(flight.Ticket(historical())).read_all()


ODD: list[Any] = [None, True, 7, -1.5, "", "stats", [], [None], ["stats", "stats"], {}, {"a": [1]}, "2026-13-45", [["x"]], "\ud83d\ude00" * 50]


def odd_tables() -> list[pa.Table]:
    times = pa.array([small_project.NOW], pa.timestamp("us", tz="UTC"))
    return [
        pa.table({"key": list("mock_key")}),
        pa.table({}),
        pa.table({"driver_id": pa.array([], pa.int64()), "event_timestamp": times.slice(1)}),
        pa.table({"driver_id": ["x"], "event_timestamp": times}),
        pa.table({"driver_id": [1], "event_timestamp": ["yesterday"]}),
        pa.table({"driver_id": pa.nulls(1), "event_timestamp": pa.nulls(1)}),
        pa.table({"driver_id": [{"a": 1}], "event_timestamp": times}),
        pa.table({"driver_id": [[1, 2]], "event_timestamp": times}),
        pa.table([[1], [2], times], names=["driver_id", "driver_id", "event_timestamp"]),
        pa.table({"driver_id": pa.array([1.5]), "event_timestamp": pa.array([2**62], pa.timestamp("s"))}),
        pa.table({"driver_id": pa.array(["1"]).dictionary_encode(), "event_timestamp": times, "rate": [1]}),
        pa.table({"": [1], "event_timestamp": times}),
    ]


def test_nonsense_is_the_callers_mistake_and_never_the_servers(repo: Path) -> None:
    """Every command with odd parameters and odd tables: an answer or a refusal, no internal error, no panic."""
    recorded = json.loads((harness.ROOT / "tests/wire/flight.json").read_text())["commands"]
    commands = [entry["command"] if isinstance(entry["command"], dict) else json.loads(entry["command"]) for entry in recorded]
    dice = random.Random(11)
    tables = odd_tables()
    with harness.Thali.serve(repo) as thali, connect(thali) as client:
        internal: list[str] = []
        for _ in range(400):
            command = dict(dice.choice(commands)) | {"project": dice.choice(["small", "other"])}
            names = {"feature_view_names": ["stats"], "feature_refs": ["stats:rate"], "name_aliases": [None], "data_source_name": "stats_file"}
            command |= {key: value for key, value in names.items() if key in command}
            for key in dice.sample(sorted(command), min(len(command), dice.randint(0, 2))):
                if key != "api" or dice.random() < 0.2:
                    command[key] = dice.choice(ODD)
            text = json.dumps(command).encode()
            if dice.random() < 0.1:
                text = text[: dice.randrange(len(text) + 1)]
            rows, descriptor = dice.choice(tables), flight.FlightDescriptor.for_command(text)
            try:
                if dice.random() < 0.5:
                    writer, reader = client.do_exchange(descriptor)
                    with writer:
                        writer.begin(rows.schema)
                        writer.write_table(rows)
                        writer.done_writing()
                        reader.read_all()
                else:
                    writer, _ = client.do_put(descriptor, rows.schema)
                    writer.write_table(rows)
                    writer.close()
            except (pa.ArrowException, KeyError, OSError, NotImplementedError, ValueError) as error:
                if isinstance(error, flight.FlightInternalError) or "query failed" in str(error):
                    internal.append(f"{error}\n  {text!r}\n  {rows.schema}")
        assert not internal, "\n".join(internal[:5])
        with pytest.raises(pa.ArrowInvalid, match="carries no command"):
            client.get_flight_info(flight.FlightDescriptor.for_path("a", "b"))
        assert metric(thali, "thali_flight_in_flight") == 0
        assert "panicked" not in thali.node("offline").log_text()
