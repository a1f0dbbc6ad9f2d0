"""Writes whose answer is late, whose caller hangs up or whose server is told to end while the store makes them wait: they
are done whole, and whoever gets an answer is told so."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from harness import Node, eventually, feast_error, http, succeed
import small_project

ROWS = 200
LIMIT = "thali: {online: {request_timeout_seconds: 1}}\n"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = small_project.create(tmp_path)
    with open(repo / "feature_store.yaml", "a") as yaml:
        yaml.write(LIMIT)
    succeed(repo, "apply")
    return repo


@contextmanager
def blocked(repo: Path) -> Iterator[None]:
    """The online store has a writer who does not end."""
    rival = sqlite3.connect(repo / "data/online.db", isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        rival.execute("ROLLBACK")
        rival.close()


def stored(repo: Path) -> int:
    """How many rows are there; each has both features."""
    with sqlite3.connect(repo / "data/online.db") as reader:
        counts = [count for (count,) in reader.execute("SELECT count(*) FROM small_stats GROUP BY entity_key")]
    assert set(counts) <= {2}, counts
    return len(counts)


def appended(repo: Path) -> int:
    drivers = pq.read_table(repo / "data/stats.parquet")["driver_id"].to_pylist()
    return sum(driver >= 1_000_000 for driver in drivers)


def body(to: str = "online") -> dict[str, Any]:
    drivers = list(range(1_000_000, 1_000_000 + ROWS))
    times = ["2026-03-01T11:30:00Z"] * ROWS
    frame = {"driver_id": drivers, "event_timestamp": times, "rate": [0.5] * ROWS, "trips": [7] * ROWS}
    return {"push_source_name": "stats_push", "df": frame, "to": to}


def test_a_late_answer_says_that_the_write_goes_on(repo: Path) -> None:
    node = Node.start(repo)
    with blocked(repo):
        status, answer = http("POST", f"{node.addresses['online']}/push", body("online_and_offline"))
        assert status == 504 and "the rows are still being written" in feast_error(answer)["message"], answer
        assert stored(repo) == 0 and appended(repo) == 0
    eventually(lambda: stored(repo) == ROWS and appended(repo) == ROWS, "all of it is written")
    node.stop()


def send_and_hang_up(node: Node, path: str, content: dict[str, Any], part: float = 1.0) -> None:
    url = urlsplit(node.addresses["online"])
    data = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(head.encode() + data[: int(len(data) * part)])
        if part == 1.0:
            # The one that asks is the other.
            eventually(lambda: in_flight(node) >= 2, "the server works on it")


def in_flight(node: Node) -> float:
    text = http("GET", f"{node.addresses['metrics']}/metrics")[1]
    (line,) = (line for line in text.splitlines() if line.startswith("thali_requests_in_flight "))
    return float(line.split()[1])


def test_a_caller_who_hangs_up_leaves_nothing_half_done(repo: Path) -> None:
    node = Node.start(repo)
    with blocked(repo):
        send_and_hang_up(node, "/push", body("online_and_offline"))
        assert stored(repo) == 0
    eventually(lambda: stored(repo) == ROWS and appended(repo) == ROWS, "all of it is written")
    node.stop()


def test_a_body_that_ends_early_begins_nothing(repo: Path) -> None:
    node = Node.start(repo)
    send_and_hang_up(node, "/push", body("online_and_offline"), part=0.9)
    node.stop()
    assert stored(repo) == 0 and appended(repo) == 0


def test_a_server_that_is_told_to_end_writes_what_it_began(repo: Path) -> None:
    node = Node.start(repo)
    with blocked(repo):
        status, _ = http("POST", f"{node.addresses['online']}/push", body("online_and_offline"))
        assert status == 504
        node.signal()
        eventually(lambda: not accepts(node), "it takes no more connections")
        assert node.process.poll() is None and stored(repo) == 0
    node.wait_clean()
    assert stored(repo) == ROWS and appended(repo) == ROWS


def accepts(node: Node) -> bool:
    url = urlsplit(node.addresses["online"])
    try:
        socket.create_connection((url.hostname, url.port), timeout=1).close()
    except OSError:
        return False
    return True
