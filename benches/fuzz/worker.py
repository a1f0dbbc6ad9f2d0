"""What `soak.py fuzz` sends: right requests, whose answers are known, and between them requests that nobody should send.

A case is made from the seed, the number of its worker and its own number, so the same seed sends the same cases. Workers are
processes with a connection each. Right requests read values that nothing else writes, in several forms (JSON, protobuf, Arrow,
gzip, chunked, many in one packet), or rows that the worker wrote itself a moment before. The others are JSON that is wrong in
one place or in many, bytes that are no JSON, huge bodies, broken HTTP/1.1, HTTP/2 and gRPC, for every route of the feature
server. No answer to them may blame the server, and whatever they do, the right requests are answered right. What fails is kept
as the bytes that were sent, with a text beside it that says what was wrong.
"""

import collections
import dataclasses
import datetime
import gzip
import json
import multiprocessing
import random
import re
import time

from fuzz import wrong
from fuzz.project import DOCS, READ_BACK, WHEN, WRITTEN
from fuzz.right import known_case, known_request, protobuf
from fuzz.wire import PATIENCE, Wire, blames_caller, columns_of, http

#: How often each kind of case comes.
KINDS = {"known": 30, "written": 6, "json": 30, "bytes": 8, "protobuf": 4, "path": 3, "http": 8, "http2": 3, "grpc": 4, "search": 3, "huge": 0.4}


class Worker:
    def __init__(self, port, number):
        self.port, self.number, self.wire = port, number, Wire(port)
        self.sent, self.statuses = b"", collections.Counter()
        self.calls = {}
        self.rows = 0
        found = self.wire.ask(http("/v1/vector_stores", b"", "GET", content_length=None))[0]
        self.store_id = json.loads(found.body)["data"][0]["id"]

    def ask(self, raw, count=1):
        self.sent = raw
        answers = self.wire.ask(raw, count)
        self.statuses.update(answer.status for answer in answers)
        return answers

    def known(self, dice):
        raw, expected = known_case(dice)
        for answer, (wanted, form) in zip(self.ask(raw, len(expected)), expected, strict=True):
            if answer.status != 200:
                return f"a right request is refused: {answer.show()}"
            if (got := columns_of(answer, form)) != wanted:
                return f"wrong values: {got} instead of {wanted}"
        return None

    def written(self, dice):
        self.rows += 1
        first = 7_000_000_000 * (self.number + 1) + self.rows % 50 * 3
        ids = [first, first + 1, first + 2]
        draw = {
            "w_int": lambda: dice.randrange(-(2**62), 2**62),
            "w_int32": lambda: dice.randrange(-(2**31), 2**31),
            "w_float": dice.random,
            "w_text": lambda: "".join(dice.choice("aé漢🦀\"\\\n\x00 ") for _ in range(dice.randrange(9))),
            "w_bool": lambda: dice.random() < 0.5,
            "w_ints": lambda: [dice.randrange(100) for _ in range(dice.randrange(1, 4))],
            "w_texts": lambda: [str(dice.random()) for _ in range(dice.randrange(1, 4))],
        }
        values = {name: [make() for _ in ids] for name, make in draw.items()}
        rest = {name: [value] * 3 for name, (_, value) in WRITTEN.items() if name not in draw}
        when = (WHEN + datetime.timedelta(seconds=self.rows)).isoformat()
        frame = {"thing_key": ids, "event_timestamp": [when] * 3} | values | rest
        path, name = dice.choice([("/push", "push_source_name"), ("/write-to-online-store", "feature_view_name")])
        body = {name: "written_push" if path == "/push" else "written", "df": frame}
        answer = self.ask(http(path, json.dumps(body).encode()))[0]
        if answer.status != 200:
            return f"a right row is refused: {answer.show()}"
        body = {"features": [f"written:{name}" for name in READ_BACK], "entities": {"thing_key": ids}}
        answer = self.ask(http("/get-online-features", json.dumps(body).encode()))[0]
        if answer.status != 200 or (got := columns_of(answer, "json")) != values | {"thing_key": ids}:
            return f"not what was written: {answer.show()} instead of {values}"
        return None

    def may_be_wrong(self, path, text, headers):
        path = path.replace("{id}", self.store_id)
        answer = self.ask(http(path, text, **headers))[0]
        problem = blames_caller(answer, path.startswith(wrong.SEARCHES))
        return problem and f"{problem}: {answer.show()}"

    def json(self, dice):
        return self.may_be_wrong(*wrong.in_json(dice))

    def bytes(self, dice):
        return self.may_be_wrong(*wrong.in_bytes(dice))

    def protobuf(self, dice):
        return self.may_be_wrong(*wrong.in_protobuf(dice))

    def huge(self, dice):
        path, text = wrong.huge(dice)
        headers = {}
        if dice.random() < 0.3:
            text, headers["content_encoding"] = gzip.compress(text, 1), "gzip"
        return self.may_be_wrong(path, text, headers)

    def path(self, dice):
        method, path = wrong.in_path(dice)
        answer = self.ask(http(path, b"", method, content_length=None))[0]
        return None if answer.status < 500 else f"the server takes the blame: {answer.show()}"

    def search(self, dice):
        number, count = dice.randrange(2, DOCS - 2), dice.randrange(1, 4)
        body = {"features": ["docs:title"], "query": [number + 0.1, 1.0, 0.5], "top_k": count, "api_version": 2, "distance_metric": "L2"}
        answer = self.ask(http(dice.choice(["/search", "/retrieve-online-documents"]), json.dumps(body).encode()))[0]
        if answer.status in (400, 501) and b"redis" in answer.body.lower():
            return None
        wanted = [f"title {n}" for n in [number, number + 1, number - 1][:count]]
        if answer.status != 200 or columns_of(answer, "json")["title"] != wanted:
            return f"a wrong search: {answer.show()} instead of {wanted}"
        return None

    def http(self, dice):
        self.sent = wrong.in_http(dice)
        said = self.wire.throw(self.sent)
        for line in said.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                status = int(line.split()[1])
                self.statuses[status] += 1
                if status >= 500:
                    return f"the server takes the blame: {said[:2000]!r}"
        return None

    def http2(self, dice):
        self.sent = wrong.in_http2(dice)
        self.wire.throw(self.sent)
        return None

    def grpc(self, dice):
        import grpc

        method = dice.choice(list(wrong.GRPC))
        good = wrong.GRPC[method](dice)
        self.sent = raw = wrong.damaged(dice, good) if dice.random() < 0.6 else good
        if not self.calls:
            self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        call = self.calls.setdefault(method, self.channel.unary_unary(method))
        try:
            call(raw, timeout=PATIENCE)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            fault = [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DATA_LOSS]
            self.statuses[code.name] += 1
            # What a message that cannot be decoded is answered with is gRPC's, not ours.
            if code in fault and "decode" not in details:
                return f"the server takes the blame of {method}: {code} {details}"
        else:
            self.statuses["OK"] += 1
        return None


def work(port, number, seconds, seed, keep, pipe):
    """Sends cases until the time is over; tells what it did and what failed."""
    worker, kinds, failures = Worker(port, number), collections.Counter(), collections.Counter()
    texts, slowest = {}, (0.0, "")
    protobuf(known_request(random.Random(0))[0])  # what is imported for it takes seconds
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        dice = random.Random(f"{seed}/{number}/{count}")
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        kinds[kind] += 1
        began = time.monotonic()
        try:
            problem = getattr(worker, kind)(dice)
        except (OSError, ValueError, EOFError) as error:
            worker.wire.close()
            problem = f"no answer: {error!r}"
        slowest = max(slowest, (time.monotonic() - began, f"{kind} {number}-{count}"))
        # Of those that say the same, the first is enough.
        alike = problem and re.sub(r"date: [^}]*|'date[^}]*|x-request-id[^,]*|[0-9]+", "", problem)[:300]
        if problem and not failures[alike]:
            name = f"{seed}-{number}-{count}-{kind}"
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}.request").write_bytes(worker.sent)
            (keep / f"{name}.txt").write_text(problem)
            texts[alike] = f"{kind}, kept as {keep}/{name}.request: {problem[:1000]}"
        failures[alike] += bool(problem)
        count += 1
    pipe.send((kinds, worker.statuses, slowest, [f"{failures[alike]} × {text}" for alike, text in texts.items()]))


@dataclasses.dataclass
class Found:
    kinds: collections.Counter
    statuses: collections.Counter
    failures: list[str]
    #: How long the slowest case took, and which it was.
    slowest: tuple[float, str] = (0.0, "")


def run(port, seconds, options):
    context = multiprocessing.get_context("spawn")
    found, started = Found(collections.Counter(), collections.Counter(), []), []
    for number in range(options.workers):
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(port, number, seconds, options.seed, options.keep, sending))
        process.start()
        sending.close()
        started.append((process, receiving))
    for process, receiving in started:
        try:
            kinds, statuses, slowest, failures = receiving.recv()
            found.slowest = max(found.slowest, slowest)
            found.kinds += kinds
            found.statuses.update({str(status): count for status, count in statuses.items()})
            found.failures += failures
        except EOFError:
            found.failures.append("a worker died")
        process.join()
    return found
