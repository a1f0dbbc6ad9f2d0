"""Pushes whose offline part waits (Feast's `offline_push_batching_…`): what was acknowledged is in the offline file or table
exactly once, whenever the process is killed.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy

import harness
import small_project
from harness import Node
from test_offline_postgres import store_section

#: How often the server is killed with kill -9 while clients push.
KILLS = 20
CLIENTS = 4
ROWS = 3

BATCHING = """feature_server:
  offline_push_batching_enabled: true
  offline_push_batching_batch_size: 40
  offline_push_batching_batch_interval_seconds: 1
"""


def frame(drivers: list[int], hour: int = 11) -> dict[str, list[Any]]:
    return {
        "driver_id": drivers,
        "event_timestamp": [f"2026-03-01T{hour:02}:30:00Z"] * len(drivers),
        "rate": [driver / 4 for driver in drivers],
        "trips": [driver * 2 for driver in drivers],
    }


def push(node: Node, drivers: list[int], to: str, **fields: Any) -> tuple[int, Any]:
    body = {"push_source_name": "stats_push", "df": frame(drivers), "to": to} | fields
    return harness.http("POST", f"{node.addresses['online']}/push", body)


def repository(folder: Path, more: str = BATCHING, url: str | None = None) -> Path:
    repo = small_project.create(folder)
    if url:
        move_to_table(repo, url)
    with open(repo / "feature_store.yaml", "a") as yaml:
        yaml.write(more)
    harness.succeed(repo, "apply")
    return repo


def move_to_table(repo: Path, url: str) -> None:
    """The project's rows in a table of PostgreSQL instead of a file."""
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE SCHEMA features"))
    pq.read_table(repo / "data/stats.parquet").to_pandas().to_sql("stats", url, schema="features", index=False)
    file = repo / "feature_store.yaml"
    file.write_text(file.read_text().replace("offline_store:\n  type: file\n", store_section(url)))
    definitions = repo / "definitions.yaml"
    definitions.write_text(definitions.read_text().replace("type: file, path: data/stats.parquet", "type: postgres, table: stats"))


def offline(repo: Path, url: str | None = None) -> Counter[int]:
    """How often each driver is in the offline file or table."""
    if url:
        with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection:
            return Counter(connection.execute(sqlalchemy.text("SELECT driver_id FROM features.stats")).scalars())
    return Counter(pq.read_table(repo / "data/stats.parquet")["driver_id"].to_pylist())


@dataclass
class Client:
    """Pushes new drivers one after the other, and knows of which it was promised that they are kept."""

    first: int
    sent: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def run(self, node: Node, end: threading.Event) -> None:
        while not end.is_set():
            drivers = [self.first + len(self.sent) + number for number in range(ROWS)]
            self.sent += drivers
            try:
                status, _ = push(node, drivers, "online_and_offline")
            except OSError:
                return  # killed
            if status == 202:
                self.kept += drivers


@pytest.mark.parametrize("where", ["file", "postgres"])
def test_every_acknowledged_row_is_there_once_after_kills(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("postgres_url") if where == "postgres" else None
    repo = repository(tmp_path, url=url)
    clients = [Client(1_000_000 * (number + 1)) for number in range(CLIENTS)]
    moments = random.Random(7)
    for _ in range(KILLS):
        node = Node.start(repo, "online")
        try:
            end = threading.Event()
            threads = [threading.Thread(target=client.run, args=(node, end)) for client in clients]
            for thread in threads:
                thread.start()
            # Any moment of the interval, and of the appends that come with the batch size.
            time.sleep(moments.uniform(0.05, 1.2))
        finally:
            node.kill()
            end.set()
        for thread in threads:
            thread.join()
    kept = [driver for client in clients for driver in client.kept]
    sent = {driver for client in clients for driver in client.sent}
    assert len(kept) > KILLS * ROWS
    # A server that ends in order appends what is left first.
    node = Node.start(repo, "online")
    values = harness.http("POST", f"{node.addresses['online']}/get-online-features", {"features": ["stats:trips"], "entities": {"driver_id": kept}})[1]
    node.stop()
    assert values["results"][1]["values"] == [driver * 2 for driver in kept]
    found = offline(repo, url)
    lost = [driver for driver in kept if not found[driver]]
    assert not lost, f"{len(lost)} of {len(kept)} acknowledged rows are lost: {lost[:10]}"
    twice = [driver for driver, times in found.items() if times > 1]
    assert not twice, f"{len(twice)} of {len(kept)} rows are there more than once: {twice[:10]}"
    assert set(found) <= sent | {1, 2, 3}
    left = [path for path in (repo / "data").iterdir() if path.suffix == ".tmp"]
    assert len(left) <= KILLS
    segments = list((repo / "data/push_journal").glob("*/*.rows"))
    assert not segments, segments


def test_a_batch_is_appended_when_it_is_large_enough(tmp_path: Path) -> None:
    repo = repository(tmp_path, BATCHING.replace("interval_seconds: 1", "interval_seconds: 3600"))
    node = Node.start(repo, "online")
    try:
        assert push(node, [10, 11], "offline")[0] == 202
        assert push(node, [12], "online")[0] == 200
        assert sum(offline(repo).values()) == 3
        assert push(node, list(range(100, 140)), "online_and_offline")[0] == 202
        harness.eventually(lambda: offline(repo)[139] == 1, "the batch is appended")
        assert offline(repo)[10] == 1 and offline(repo)[12] == 0
        assert push(node, [13], "offline")[0] == 202
        node.stop()
    finally:
        node.kill()
    assert offline(repo)[13] == 1


def test_what_does_not_fit_is_turned_away_until_there_is_room(tmp_path: Path) -> None:
    more = BATCHING.replace("interval_seconds: 1", "interval_seconds: 3600").replace("batch_size: 40", "batch_size: 1000000")
    repo = repository(tmp_path, more + "thali:\n  push_journal: journal\n  push_journal_limit: 20KiB\n")
    node = Node.start(repo, "online")
    try:
        statuses = []
        while 503 not in statuses:
            statuses.append(push(node, [1000 + len(statuses)], "offline")[0])
            assert len(statuses) < 1000
        assert set(statuses[:-1]) == {202}
        node.stop()
        assert [offline(repo)[1000 + number] for number in range(len(statuses))] == [1] * (len(statuses) - 1) + [0]
        node = Node.start(repo, "online")
        assert push(node, [5000], "offline")[0] == 202
        node.stop()
    finally:
        node.kill()
    assert offline(repo)[5000] == 1


def test_rows_that_fit_no_source_are_refused_before_they_are_acknowledged(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    node = Node.start(repo, "online")
    try:
        wrong = frame([10]) | {"rate": ["fast"]}
        body = {"push_source_name": "stats_push", "df": wrong, "to": "offline"}
        status, answer = harness.http("POST", f"{node.addresses['online']}/push", body)
        assert status == 400 and "rate" in harness.feast_error(answer)["message"]
        node.stop()
    finally:
        node.kill()
    assert sum(offline(repo).values()) == 3


def test_rows_that_a_table_refuses_hold_up_no_others(postgres_url: str, tmp_path: Path) -> None:
    """They are set aside, counted, and appended when the table takes them."""
    repo = repository(tmp_path, url=postgres_url)
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)

    def alter(statement: str) -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"ALTER TABLE features.stats {statement}"))

    alter("ADD CONSTRAINT lucky CHECK (driver_id <> 13)")
    alter("ADD CONSTRAINT one UNIQUE (driver_id)")
    journal = repo / "data/push_journal"
    node = Node.start(repo, "online")
    try:
        # Driver 1 is in the table already.
        for drivers in ([10, 13, 11], [1], [12]):
            assert push(node, drivers, "offline")[0] == 202
        harness.eventually(lambda: offline(repo, postgres_url)[12] == 1, "the others are appended")
        harness.eventually(lambda: not list(journal.glob("*/*.rows")), "nothing is held up")
        assert push(node, [14], "offline")[0] == 202
        harness.eventually(lambda: offline(repo, postgres_url)[14] == 1, "later rows are appended")
        _, text = harness.http("GET", f"{node.addresses['online']}/metrics")
        counted = [line for line in text.splitlines() if line.startswith("thali_push_rows_refused_total")]
        assert [line.split()[-1] for line in counted] == ["2"], counted
        node.stop()
    finally:
        node.kill()
    assert offline(repo, postgres_url) == Counter([1, 2, 3, 10, 11, 12, 14])
    alter("DROP CONSTRAINT lucky")
    (journal / "again").mkdir()
    for file in journal.glob("refused-*.rows"):
        file.rename(journal / "again" / file.name)
    Node.start(repo, "online").stop()
    assert offline(repo, postgres_url) == Counter([1, 2, 3, 10, 11, 12, 13, 14])
    assert not list(journal.glob("*/*.rows")) and len(list(journal.glob("refused-*.rows"))) == 1


def test_older_rows_count_only_when_they_are_allowed_to(tmp_path: Path) -> None:
    repo = repository(tmp_path, "")
    node = Node.start(repo, "online")
    try:

        def trips() -> Any:
            body = {"features": ["stats:trips"], "entities": {"driver_id": [7]}}
            return harness.http("POST", f"{node.addresses['online']}/get-online-features", body)[1]["results"][1]["values"][0]

        assert push(node, [7], "online")[0] == 200
        older = frame([7], hour=10) | {"trips": [1]}
        for route, body in (
            ("push", {"push_source_name": "stats_push", "df": older, "to": "online"}),
            ("write-to-online-store", {"feature_view_name": "stats", "df": older}),
        ):
            url = f"{node.addresses['online']}/{route}"
            assert harness.http("POST", url, body)[0] == 200
            assert trips() == 14
            assert harness.http("POST", url, body | {"allow_older": True})[0] == 200
            assert trips() == 1
            assert push(node, [7], "online")[0] == 200
            assert trips() == 14
        node.stop()
    finally:
        node.kill()
