"""Materialization: thali beside Feast and beside the store alone, in one run on one machine.

    cargo build --release && make venv servers
    target/venv/bin/python benches/materialize.py [--stores redis,postgres,sqlite] [--rows 100000,1000000] [--feast 100000]

A Parquet file of one view: 10 features of the common types, some nulls, a row for each entity, in no order. Both run their
command line, start-up included, into an empty store; Feast only up to `--feast` rows. Wall is the command's, CPU user and
system time of its processes, RSS its peak. Where both ran, every key, field, value and event time in the store is compared.

The raw limit is the store alone, fed with what thali left in it: Redis by `redis-cli --pipe` of one HSET for each entity,
PostgreSQL by COPY in binary into the same table with its indexes, and by upserts of 1,000 cells; SQLite by `executemany`
in one transaction into the same table. Time to make the input is not counted.

Nothing here is a test: figures depend on the machine, so quote ratios, with it.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import numpy
import pyarrow
import pyarrow.parquet

import servers

PROJECT, VIEW = "bench", "facts"
FEAST = pathlib.Path(sys.executable).with_name("feast")
TYPES = ["Float64", "Int64", "Float32", "String", "Bool", "Int32", "Float64", "UnixTimestamp", "Int64", "Float32"]
END = datetime(2026, 3, 1, tzinfo=UTC)
START = END - timedelta(days=1)
BLOCK = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")


# --- the project ----------------------------------------------------------------------------------------------------


def column(kind, draw, rows):
    match kind:
        case "Float64":
            return pyarrow.array(draw.random(rows), mask=draw.random(rows) < 0.05)
        case "Float32":
            return pyarrow.array(draw.random(rows).astype(numpy.float32))
        case "Int64":
            return pyarrow.array(draw.integers(0, 10**9, rows))
        case "Int32":
            return pyarrow.array(draw.integers(0, 10**6, rows).astype(numpy.int32))
        case "String":
            return pyarrow.array([f"value-{number}" for number in draw.integers(0, 10**6, rows)])
        case "Bool":
            return pyarrow.array(draw.random(rows) < 0.5)
        case "UnixTimestamp":
            seconds = int(START.timestamp()) - draw.integers(0, 10**7, rows)
            return pyarrow.array(seconds * 1_000_000, pyarrow.timestamp("us", "UTC"))


def write_source(path, rows):
    """Rows of as many entities: blocks of consecutive ids, shuffled inside."""
    stamp = pyarrow.timestamp("us", "UTC")
    writer = None
    for first in range(0, rows, BLOCK):
        count = min(BLOCK, rows - first)
        draw = numpy.random.default_rng(first)
        times = int(START.timestamp()) * 1_000_000 + draw.integers(0, 86_400, count) * 1_000_000
        arrays = [pyarrow.array(draw.permutation(numpy.arange(first, first + count))), pyarrow.array(times, stamp)]
        arrays += [column(kind, draw, count) for kind in TYPES]
        table = pyarrow.table(arrays, names=["id", "event_timestamp", *(f"f{number}" for number in range(len(TYPES)))])
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=100_000)
    writer.close()


def write_project(folder, section, source):
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nprovider: local\nregistry: registry.db\nonline_store: {json.dumps(section)}\n"
        "offline_store: {type: dask}\nentity_key_serialization_version: 3\n"
    )
    schema = ", ".join(f"{{name: f{number}, type: {kind}}}" for number, kind in enumerate(TYPES))
    (folder / "features.yaml").write_text(
        "entities: [{name: id, join_key: id, value_type: Int64}]\n"
        f"data_sources: [{{name: s, type: file, path: {source}, timestamp_field: event_timestamp}}]\n"
        f"feature_views: [{{name: {VIEW}, entities: [id], source: s, online: true, schema: [{schema}]}}]\n"
    )


# --- the stores -----------------------------------------------------------------------------------------------------


def resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Redis:
    def __init__(self, stack):
        import redis

        self.server = stack.enter_context(servers.Redis.running())
        self.process = self.server.process.pid
        self.client = redis.Redis(port=self.server.port)
        # Its log would measure the disk.
        self.client.config_set("appendonly", "no")
        self.section = {"type": "redis", "connection_string": self.server.address}

    def empty(self, folder):
        self.client.flushall()

    def entities(self):
        keys = []
        for key in self.client.scan_iter(count=10_000):
            keys.append(key)
            if len(keys) == 10_000:
                yield from self.read(keys)
                keys = []
        yield from self.read(keys)

    def read(self, keys):
        pipeline = self.client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        return zip(keys, pipeline.execute())

    def digest(self, folder):
        return summed(repr((key, sorted(fields.items()))).encode() for key, fields in self.entities())

    def limit(self, folder, rows):
        file = folder / "commands"
        commands = [resp(b"HSET", key, *(word for field in fields.items() for word in field)) for key, fields in self.entities()]
        # They come in the order of the server's own table, in which it would find its memory faster than in that of a file.
        random.Random(0).shuffle(commands)
        file.write_bytes(b"".join(commands))
        self.client.flushall()
        began = time.monotonic()
        with file.open("rb") as commands:
            subprocess.run([servers.program("redis-cli", "redis-tools"), "-p", str(self.server.port), "--pipe"], stdin=commands, stdout=subprocess.DEVNULL, check=True)
        return {"redis-cli --pipe": time.monotonic() - began}


class Postgres:
    COLUMNS = "entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts"

    def __init__(self, stack):
        self.server = stack.enter_context(servers.Postgres.running())
        self.process = self.server.process.pid
        self.server.execute("CREATE DATABASE online")
        login = {"host": "127.0.0.1", "port": self.server.port, "user": "thali", "password": servers.PASSWORD}
        self.section = {"type": "postgres", **login, "database": "online", "sslmode": "disable"}
        self.login = {**login, "dbname": "online", "autocommit": True}
        self.table = f"{PROJECT}_{VIEW}"

    def execute(self, statement):
        import psycopg

        with psycopg.connect(**self.login) as connection:
            connection.execute(statement)

    def empty(self, folder):
        # An own table of its time: no dead rows, no half-filled pages.
        self.execute(f"TRUNCATE {self.table}")
        self.execute("CHECKPOINT")

    def digest(self, folder):
        import psycopg

        with psycopg.connect(**{**self.login, "autocommit": False}) as connection, connection.cursor("all") as cursor:
            cursor.itersize = 50_000
            cursor.execute(f"SELECT entity_key, feature_name, value, value_text, event_ts FROM {self.table}")
            return summed(repr(row).encode() for row in cursor)

    def limit(self, folder, rows):
        import psycopg

        file, found = folder / "cells", {}
        with psycopg.connect(**self.login) as connection:
            with file.open("wb") as out, connection.cursor().copy(f"COPY (SELECT {self.COLUMNS} FROM {self.table}) TO STDOUT (FORMAT binary)") as copy:
                for block in copy:
                    out.write(block)
            self.empty(folder)
            began = time.monotonic()
            with file.open("rb") as cells, connection.cursor().copy(f"COPY {self.table} ({self.COLUMNS}) FROM STDIN (FORMAT binary)") as copy:
                while block := cells.read(1 << 20):
                    copy.write(block)
            found["COPY"] = time.monotonic() - began
            cells = connection.execute(f"SELECT {self.COLUMNS} FROM {self.table} LIMIT {10 * min(rows, 100_000)}").fetchall()
            self.empty(folder)
            values = ", ".join(["(%s, %s, %s, %s, %s, %s, %s)"] * 1000)
            statement = f"INSERT INTO {self.table} ({self.COLUMNS}) VALUES {values} ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value"
            began = time.monotonic()
            with connection.transaction():
                for first in range(0, len(cells) - 999, 1000):
                    connection.execute(statement, [part for cell in cells[first : first + 1000] for part in cell])
            found["upserts"] = (time.monotonic() - began) * rows * 10 / max(len(cells) // 1000 * 1000, 1)
        return found


class Sqlite:
    process = None
    section = {"type": "sqlite", "path": "online.db"}
    table = f"{PROJECT}_{VIEW}"

    def __init__(self, stack):
        pass

    def empty(self, folder):
        with contextlib.closing(sqlite3.connect(folder / "online.db")) as connection:
            connection.execute(f"DELETE FROM {self.table}")
            connection.commit()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def digest(self, folder):
        with contextlib.closing(sqlite3.connect(folder / "online.db")) as connection:
            rows = connection.execute(f"SELECT entity_key, feature_name, value, value_text, event_ts FROM {self.table}")
            return summed(repr(row).encode() for row in rows)

    def limit(self, folder, rows):
        with contextlib.closing(sqlite3.connect(folder / "online.db")) as connection:
            cells = connection.execute(f"SELECT * FROM {self.table} LIMIT {10 * min(rows, 100_000)}").fetchall()
            self.empty(folder)
            marks = ", ".join("?" * len(cells[0]))
            began = time.monotonic()
            connection.executemany(f"INSERT INTO {self.table} VALUES ({marks}) ON CONFLICT DO UPDATE SET value = excluded.value", cells)
            connection.commit()
        return {"executemany": (time.monotonic() - began) * rows * 10 / len(cells)}


STORES = {"redis": Redis, "postgres": Postgres, "sqlite": Sqlite}


def summed(parts):
    """How many parts there are, and a sum of their hashes, whatever their order."""
    count = total = 0
    for part in parts:
        count += 1
        total = (total + struct.unpack("<Q", hashlib.blake2b(part, digest_size=8).digest())[0]) % 2**64
    return count, total


# --- measuring ------------------------------------------------------------------------------------------------------


def store_cpu(pid):
    """Seconds of processor time of a store's processes, ended ones too."""
    total, parents = 0.0, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    for member, fields in parents.items():
        if pid and pid in (member, int(fields[1])):
            total += sum(map(int, fields[11 : 15 if member == pid else 13]))
    return total / TICKS


def watched(pid, peak, over):
    """Puts the most memory a process has had into `peak`, in MiB. (What `wait4` says of it counts what this process had, too.)"""
    while not over.wait(0.02):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        peak[0] = max(peak[0], *(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def measured(command, store):
    """Wall and CPU seconds of a command and its children, its peak memory in MiB, CPU seconds of the store."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FEAST_", "THALI_"))} | {"FEAST_USAGE": "False"}
    before, began = store_cpu(store.process), time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    peak, over = [0.0], threading.Event()
    watch = threading.Thread(target=watched, args=(process.pid, peak, over))
    watch.start()
    said = process.stdout.read().decode(errors="replace")
    over.set()
    watch.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    wall = time.monotonic() - began
    return wall, usage.ru_utime + usage.ru_stime, peak[0], store_cpu(store.process) - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="redis,postgres,sqlite")
    parser.add_argument("--rows", default="100000,1000000")
    parser.add_argument("--feast", type=int, default=100_000, help="the most rows that Feast is given")
    parser.add_argument("--thali", default=str(ROOT / "target/release/thali"))
    parser.add_argument("--no-limit", action="store_true", help="leave the raw limit out")
    options = parser.parse_args()
    window = [START.strftime("%Y-%m-%dT%H:%M:%S"), END.strftime("%Y-%m-%dT%H:%M:%S")]
    print(f"{'store':9} {'rows':>9} {'engine':17} {'rows/s':>9} {'wall s':>8} {'CPU s':>8} {'store s':>8} {'peak MiB':>9}", flush=True)
    for rows in map(int, options.rows.split(",")):
        for name in options.stores.split(","):
            with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as temporary:
                place = pathlib.Path(temporary)
                write_source(place / "source.parquet", rows)
                store = STORES[name](stack)
                folder = place / "project"
                write_project(folder, store.section, place / "source.parquet")
                thali = [options.thali, "-c", folder]
                subprocess.run([str(word) for word in [*thali, "apply"]], check=True, stdout=subprocess.DEVNULL)

                def show(engine, wall, cpu=None, used=None, peak=None):
                    cells = [f"{value:{width}.{digits}f}" if value is not None else " " * width for value, width, digits in ((wall, 8, 2), (cpu, 8, 2), (used, 8, 2), (peak, 9, 0))]
                    print(f"{name:9} {rows:9} {engine:17} {rows / wall:9.0f} {' '.join(cells)}", flush=True)

                digests = {}
                if rows <= options.feast:
                    wall, cpu, peak, used = measured([FEAST, "-c", folder, "materialize", *window], store)
                    show("Feast", wall, cpu, used, peak)
                    digests["Feast"] = store.digest(folder)
                    store.empty(folder)
                wall, cpu, peak, used = measured([*thali, "materialize", *window], store)
                show("thali", wall, cpu, used, peak)
                if digests:
                    digests["thali"] = store.digest(folder)
                    same = len(set(digests.values())) == 1
                    print(f"{name:9} {rows:9} contents {'are equal' if same else f'differ: {digests}'}", flush=True)
                if not options.no_limit:
                    for engine, wall in store.limit(folder, rows).items():
                        show(engine, wall)


if __name__ == "__main__":
    main()
