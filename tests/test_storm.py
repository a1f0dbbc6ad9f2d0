"""Many connections at once while the store dies and comes back: every answer is right or a clear refusal, and all are right again.

`benches/soak.py storm` is the same with a thousand connections, for long, and measured.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import harness
import servers
import small_project
from harness import Thali

CONNECTIONS = 200


@contextmanager
def redis_store(redis: servers.Redis) -> Iterator[str]:
    redis.say("FLUSHALL")
    yield f"type: redis\n  connection_string: {redis.address}"


@contextmanager
def postgres_store(postgres: servers.Postgres) -> Iterator[str]:
    with postgres.database() as url:
        place = urlsplit(url)
        lines = ["type: postgres", f"host: {place.hostname}", f"port: {place.port}", f"database: {place.path[1:]}", f"user: {place.username}"]
        yield "\n  ".join([*lines, f"password: '{servers.PASSWORD}'", "sslmode: disable"])


STORES: dict[str, Callable[..., object]] = {"redis": redis_store, "postgres": postgres_store}


class Client:
    """A connection that sends its one request again and again; the server may not close it."""

    def __init__(self, number: int) -> None:
        # Drivers of its own, in an order of its own, the last of them unknown.
        ids = [number + 1, (number * 7) % CONNECTIONS + 1, CONNECTIONS + 1 + number]
        known = [id <= CONNECTIONS for id in ids]
        self.expected = [ids, [id / 2 if there else None for id, there in zip(ids, known)], [id * 10 if there else None for id, there in zip(ids, known)]]
        body = json.dumps({"features": ["stats:rate", "stats:trips"], "entities": {"driver_id": ids}}).encode()
        self.request = b"POST /get-online-features HTTP/1.1\r\nhost: storm\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        self.statuses: Counter[int] = Counter()
        self.latest: deque[int] = deque(maxlen=3)

    async def run(self, port: int, over: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not over.is_set():
            writer.write(self.request)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            answer = json.loads(await reader.readexactly(int(headers["content-length"])))
            status = int(lines[0].split()[1])
            self.statuses[status] += 1
            self.latest.append(status)
            if status == 200:
                assert [column["values"] for column in answer["results"]] == self.expected
            else:
                assert status == 503 and "retry-after" in headers, (status, headers, answer)
                error = harness.feast_error(answer)
                assert error["class"] == "FeastError" and "online store" in error["message"], error
        writer.close()


async def storm(port: int, store: servers.Server) -> list[Client]:
    over, clients = asyncio.Event(), [Client(number) for number in range(CONNECTIONS)]
    tasks = [asyncio.create_task(client.run(port, over)) for client in clients]

    async def until(every: Callable[[Client], bool], what: str) -> None:
        end = time.monotonic() + harness.DEADLINE
        while not all(map(every, clients)):
            # A client ends only by what it saw being wrong.
            for task in tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < end, f"not in time: {what}"
            await asyncio.sleep(0.02)

    try:
        await until(lambda client: client.statuses[200] >= 2, "all have answers")
        await asyncio.to_thread(store.kill)
        await until(lambda client: client.statuses[503] >= 2, "all are refused")
        await asyncio.to_thread(store.start)
        await until(lambda client: set(client.latest) == {200} and len(client.latest) == 3, "all have answers again, and none is refused any more")
    finally:
        over.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        task.result()
    return clients


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_dies_under_many_connections(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = request.getfixturevalue(name)
    with STORES[name](store) as section:
        repo = small_project.create(tmp_path, rows=CONNECTIONS)
        yaml = repo / "feature_store.yaml"
        yaml.write_text(yaml.read_text().replace("type: sqlite\n  path: data/online.db", section))
        harness.succeed(repo, "apply")
        harness.succeed(repo, "materialize", small_project.START, small_project.END)
        with Thali.serve(repo) as thali:
            try:
                clients = asyncio.run(storm(thali.port("online"), store))
            finally:
                store.start()
            assert {status for client in clients for status in client.statuses} == {200, 503}
            assert "panicked" not in thali.node("online").log_text()
