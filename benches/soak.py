"""Endurance: a storm of requests while the store dies and comes back, requests that nobody should send, and saturation for long.

    cargo build --release && make venv servers
    target/venv/bin/python benches/soak.py storm [--stores redis,postgres] [--seconds 60] [--connections 1000] [--rate 0]
    target/venv/bin/python benches/soak.py fuzz [--stores sqlite,redis,postgres] [--seconds 600] [--seed 7] [--workers 3]
    target/venv/bin/python benches/soak.py flat [--stores redis] [--seconds 600]

`storm`: 1,000 connections send requests at a fixed rate, half of what the server does when saturated, unless `--rate` says
another (0: each sends the next request when the answer is in). In the second third of the time the store is away: it is killed
and started again, with its data. Each answer of status 200 is compared, byte by byte, with the one that was given before, whose
values are those that were loaded. All others have to be 503 with Retry-After and Feast's envelope, begin after the store was
killed, and end two seconds after it is back.

`fuzz`: see `fuzz/worker.py`. Each store has its share of the time.

`flat`: 16 connections that each send the next request when the answer is in. The slope of the memory is that of the line through
the samples, one a second, of all but the first tenth of the time.

Exits with 1 when something is not as it should be. Figures depend on the machine and on what else runs there.
"""

import argparse
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

import online
import servers
from fuzz import project, wire, worker

ENTITIES = 10_000
STORM_SHAPES = [(10, 1), (10, 10), (50, 1)]
FLAT_SHAPES = [(10, 1), (50, 10), (10, 100), (250, 1)]
#: How long after its return every answer has to be right again, in seconds.
BACK = 2.0
#: What memory may have grown by after the storm, in MiB.
GROWTH = 32


class Memory:
    """Resident memory of a process, sampled each second in the background."""

    def __init__(self, pid):
        self.pid, self.began = pid, time.monotonic()
        self.samples = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def sample(self):
        while not self.over.wait(1.0):
            self.samples.append((time.monotonic() - self.began, online.memory(self.pid)))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def peak(self):
        return max((size for _, size in self.samples), default=0.0)

    def slope(self):
        """MiB for each minute."""
        kept = self.samples[len(self.samples) // 10 :]
        if len(kept) < 2:
            return 0.0
        middle = [sum(part) / len(kept) for part in zip(*kept)]
        moved = [(when - middle[0], size - middle[1]) for when, size in kept]
        return 60 * sum(when * size for when, size in moved) / sum(when * when for when, _ in moved)


@contextlib.contextmanager
def served(name, options, folder):
    """A store with data, and thali that serves it: both, the process and the port of thali, and its log."""
    with contextlib.ExitStack() as stack:
        store = online.STORES[name](stack)
        repo = folder / name
        online.write_project(repo, store.config, ENTITIES)
        for command in (["apply"], ["materialize", "2026-01-01T00:00:00", "2026-06-01T00:00:00"]):
            # On a machine that has no time for it the store may not answer in time; what is written stays.
            for last in (False, False, True):
                done = subprocess.run([options.bin, "-c", repo, *command], check=last, stdout=subprocess.DEVNULL, stderr=sys.stderr)
                if done.returncode == 0:
                    break
        port, log = servers.free_port(), folder / f"{name}.log"
        command = [options.bin, "-c", repo, "serve", "--role", "online", "--online-port", port, "--metrics-port", 0]
        probe = next(online.bodies(10, 1, ENTITIES))[1]
        yield store, stack.enter_context(online.server(command, port, probe, log)), port, log


def requests_with_answers(port, shapes):
    """Requests of several shapes with their answers, each of which says what was loaded."""
    columns = {}
    for view in range(online.VIEWS):
        for feature in range(online.FEATURES):
            kind = online.kind(feature)
            columns[f"f{view}_{feature}"] = [shown(value) for value in online.column(kind, view * online.FEATURES + feature, ENTITIES).to_pylist()]
    found = []
    for features, entities in shapes:
        for ids, body in list(online.bodies(features, entities, ENTITIES))[:50]:
            answer = online.post(port, body)
            document = json.loads(answer)
            got = {name: column["values"] for name, column in zip(document["metadata"]["feature_names"], document["results"], strict=True)}
            wanted = {name: [columns[name][id] if id < ENTITIES else None for id in ids] for names in online.asked(features).values() for name in names}
            if got != wanted | {"id": ids}:
                wrong = [name for name in wanted if got.get(name) != wanted[name]]
                raise SystemExit(f"{features}x{entities}: {wrong[:3]} are not what was loaded: {[(got.get(n), wanted[n]) for n in wrong[:3]]}")
            found.append((online.http_request(body), answer))
    random.Random(1).shuffle(found)
    return found


def shown(value):
    """A value as JSON has it."""
    return int(value.timestamp()) if hasattr(value, "timestamp") else value


def text(encoded):
    return bytes.fromhex(encoded).decode(errors="replace")


def storm(name, options, folder):
    """Complaints about one storm, after its figures were printed."""
    with served(name, options, folder) as (store, pid, port, log):
        pairs = requests_with_answers(port, STORM_SHAPES)
        plain = online.requests_file(folder / "plain.requests", [(request, 0) for request, _ in pairs])
        file = folder / "storm.requests"
        file.write_bytes(b"".join(len(r).to_bytes(4, "little") + len(a).to_bytes(4, "little") + r + a for r, a in pairs))
        full = online.load(options, "http", f"127.0.0.1:{port}", plain, connections=16, seconds=3)["rate"]
        rate = full / 2 if options.rate is None else options.rate
        command = [options.load, "storm", f"127.0.0.1:{port}", file, "--connections", options.connections]
        command += ["--rate", rate] if rate else []
        words = lambda seconds: [str(part) for part in [*command, "--seconds", seconds]]
        # The first storm fills what is kept for so many connections.
        subprocess.run(words(min(5, options.seconds)), check=True, stdout=subprocess.DEVNULL)
        before = settled(pid)
        with Memory(pid) as memory, subprocess.Popen(words(options.seconds), stdout=subprocess.PIPE, text=True) as process:
            time.sleep(options.seconds / 3)
            if name == "postgres":
                # Else what was loaded a moment ago is recovered again, which can take as long as the storm.
                store.server.execute("CHECKPOINT")
            down = time.time()
            store.server.kill()
            time.sleep(options.seconds / 3)
            store.server.start()
            back = time.time()
            report = json.loads(process.communicate()[0])
        after = settled(pid)
        complaints = judge(report, down, back)
        if after > before + GROWTH:
            complaints.append(f"memory grew from {before:.0f} to {after:.0f} MiB")
        if "panicked" in log.read_text(errors="replace"):
            complaints.append(f"a panic:\n{log.read_text(errors='replace')[-3000:]}")
    count = lambda column: sum(row[column] for row in report["tenths"])
    print(f"{name}: {options.connections} connections, {f'{rate:.0f} requests/s' if rate else 'saturated'} (16 connections: {full:.0f} requests/s)")
    print(f"  {count(1)} right answers, {report['wrong']} wrong, {count(2)} refused with 503, {count(3)} others, {count(4)} without an answer")
    print(f"  p50 {report['p50']:.1f} ms, p99 {report['p99']:.1f} ms, longest {report['max']:.0f} ms; while away longest {longest(report, down, back):.0f} ms")
    print(f"  store away for {back - down:.1f} s; the last refusal came {report['last_other'] - back:+.2f} s after its return")
    print(f"  memory {before:.0f} MiB before, {memory.peak():.0f} at most, {after:.0f} after")
    for what, many in sorted(report["others"], key=lambda pair: -pair[1])[:8]:
        print(f"  {many:8} × {text(what).splitlines()[0]} {text(what).splitlines()[-1]}")
    return [f"{name}: {complaint}" for complaint in complaints]


def settled(pid):
    """Resident memory once the connections are gone and it falls no further."""
    last = online.memory(pid)
    for _ in range(10):
        time.sleep(1)
        now = online.memory(pid)
        if now > last * 0.99:
            return now
        last = now
    return last


def longest(report, down, back):
    first, last = ((when - report["began"]) * 10 for when in (down, back))
    return max((row[5] / 1000 for row in report["tenths"] if first <= row[0] <= last), default=0)


def judge(report, down, back):
    complaints = []
    if report["wrong"]:
        complaints.append(f"{report['wrong']} wrong answers, such as {text(report['example'][1])[:2000]}")
    for why, many in report["lost"]:
        complaints.append(f"{many} requests without an answer: {text(why)}")
    for what, many in report["others"]:
        if problem := wire.refusal_problem(text(what)):
            complaints.append(f"{many} × {problem}: {text(what)}")
    if not any(row[2] for row in report["tenths"]):
        complaints.append("no refusals: was the store away at all?")
    tenths = report["tenths"]
    if any(sum(row[2:5]) for row in tenths if report["began"] + (row[0] + 1) / 10 < down - 0.5):
        complaints.append("refusals while the store was there")
    if report["last_other"] > back + BACK:
        complaints.append(f"refused until {report['last_other'] - back:.2f} s after the store's return")
    if not any(row[1] for row in tenths if report["began"] + row[0] / 10 > back + BACK):
        complaints.append("no answers after the store's return")
    return complaints


def flat(name, options, folder):
    with served(name, options, folder) as (_, pid, port, log):
        file = online.requests_file(folder / "flat.requests", [(request, 0) for request, _ in requests_with_answers(port, FLAT_SHAPES)])
        with Memory(pid) as memory:
            done = online.load(options, "http", f"127.0.0.1:{port}", file, connections=16, seconds=options.seconds)
    sizes = [size for _, size in memory.samples]
    marks = ", ".join(f"{sizes[len(sizes) * part // 6]:.1f}" for part in range(6))
    print(f"{name}: {done['requests']} requests, {done['rate']:.0f} a second, p99 {done['p99']:.1f} ms")
    print(f"  memory in MiB, each sixth of the time: {marks}, {sizes[-1]:.1f}; slope {memory.slope():+.3f} MiB a minute", flush=True)
    grew = memory.slope() * options.seconds / 60
    return [f"{name}: memory grows by {grew:.0f} MiB in this time"] if grew > GROWTH else []


def fuzz(name, options, folder):
    """A share of the time on one store."""
    seconds = options.seconds / len(options.stores.split(","))
    with project.served(name, options, folder) as (pid, port, log):
        warm = online.memory(pid)
        with Memory(pid) as memory:
            found = worker.run(port, seconds, options)
        after = settled(pid)
        panics = [line for line in log.read_text(errors="replace").splitlines() if "panicked" in line]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items()))
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(found.statuses.items()))
    print(f"{name}: seed {options.seed}, {sum(found.kinds.values())} cases in {seconds:.0f} s: {kinds}")
    print(f"  answers: {statuses}; the slowest after {found.slowest[0]:.1f} s: {found.slowest[1]}")
    print(f"  memory {warm:.0f} MiB before, {memory.peak():.0f} at most, {after:.0f} after", flush=True)
    return [f"{name}: {what}" for what in found.failures + panics]


PARTS = {"storm": (storm, "redis,postgres", 60), "fuzz": (fuzz, "sqlite,redis,postgres", 600), "flat": (flat, "redis", 600)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--bin", default=str(online.ROOT / "target/release/thali"))
    parser.add_argument("--load", default=None, help="the load generator")
    parser.add_argument("--stores")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--connections", type=int, default=1000, help="of the storm")
    parser.add_argument("--rate", type=float, help="requests a second of the storm; 0 is as many as there are answers")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the fuzz")
    parser.add_argument("--workers", type=int, default=3, help="of the fuzz")
    parser.add_argument("--keep", type=pathlib.Path, default=online.ROOT / "target/soak", help="where requests that failed are kept")
    options = parser.parse_args()
    run, stores, seconds = PARTS[options.part]
    options.stores, options.seconds = options.stores or stores, options.seconds or seconds
    options.load = options.load or online.build_load()
    complaints = []
    with tempfile.TemporaryDirectory(prefix="thali-soak-") as folder:
        for name in options.stores.split(","):
            complaints += run(name, options, pathlib.Path(folder))
    print("\n".join(complaints) or "as it should be")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
