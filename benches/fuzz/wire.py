"""A connection to the fuzzed server, and what its answers have to look like."""

import contextlib
import dataclasses
import json
import socket

import pyarrow

#: How long an answer may take, with all that others do meanwhile.
PATIENCE = 60


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def show(self):
        return f"{self.status} {self.headers} {self.body[:2000]!r}"


class Wire:
    """A connection of HTTP/1.1 that is made when it is needed."""

    def __init__(self, port):
        self.port, self.socket, self.reader = port, None, None

    def close(self):
        if self.socket:
            self.reader.close()
            self.socket.close()
        self.socket = None

    def open(self):
        if not self.socket:
            self.socket = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.reader = self.socket.makefile("rb")

    def ask(self, raw, count=1):
        """The answers to requests that are as they should be."""
        self.open()
        try:
            self.socket.sendall(raw)
            answers = [self.answer() for _ in range(count)]
        except BaseException:
            self.close()
            raise
        if answers[-1].headers.get("connection") == "close":
            self.close()
        return answers

    def throw(self, raw):
        """What is answered, as bytes, to anything, until the server closes the connection, as no more is to come."""
        self.close()
        self.open()
        try:
            with contextlib.suppress(OSError):  # it may have closed the connection by now
                self.socket.sendall(raw)
                self.socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                return self.reader.read()
            return b""
        finally:
            self.close()

    def answer(self):
        while True:
            line = self.reader.readline()
            if not line:
                raise ConnectionError("closed without an answer")
            status, headers = int(line.split()[1]), {}
            while (line := self.reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if status < 200:
                continue
            if headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(self.reader.readline(), 16):
                    body += self.reader.read(size)
                    self.reader.readline()
                self.reader.readline()
            else:
                body = self.reader.read(int(headers.get("content-length", 0)))
            return Answer(status, headers, body)


def http(path, body, method="POST", **headers):
    lines = {"host": "fuzz", "content-type": "application/json", "content-length": len(body)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def chunked(dice, path, body, **headers):
    parts = b""
    while body:
        size = min(len(body), dice.choice([1, 2, 7, 100, 5000]))
        extension = dice.choice([b"", b"", b";a=b"])
        parts += b"%x%s\r\n%s\r\n" % (size, extension, body[:size])
        body = body[size:]
    return http(path, parts + b"0\r\n\r\n", content_length=None, transfer_encoding="chunked", **headers)


def refusal_problem(answer):
    """What is wrong with a refusal while the store is away; nothing when it is as it should be."""
    head, _, body = answer.rpartition("\n")
    if not head.startswith("HTTP/1.1 503 "):
        return "not 503"
    if "retry-after: " not in head.lower():
        return "no Retry-After"
    try:
        told = json.loads(json.loads(body))
    except (ValueError, TypeError):
        return "no envelope"
    return None if told.get("class") == "FeastError" and "online store" in told.get("message", "") else "an unclear refusal"


def blames_caller(answer, may_lack=False):
    """What is wrong with the answer to a request that may be wrong."""
    if answer.status >= 500 and not (answer.status == 501 and may_lack):
        return "the server takes the blame"
    if answer.status < 400:
        return None
    try:
        body = json.loads(answer.body)
        told = json.loads(body)["class"] if isinstance(body, str) else body.get("detail") or body["error"]
        return None if told else "a refusal that says nothing"
    except (ValueError, KeyError, AttributeError, TypeError):
        return "a refusal of no known form"


def columns_of(answer, form):
    if form == "protobuf":
        from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

        message = GetOnlineFeaturesResponse.FromString(answer.body)
        return {name: [plain(value) for value in column.values] for name, column in zip(message.metadata.feature_names.val, message.results, strict=True)}
    if form == "arrow":
        table = pyarrow.ipc.open_stream(answer.body).read_all()
        shown = lambda value: int(value.timestamp()) if hasattr(value, "timestamp") else value
        return {name: [shown(value) for value in table.column(name).to_pylist()] for name in table.column_names if "__" not in name or name.count("__") == 1 and not name.endswith(("__status", "__event_timestamp"))}
    document = json.loads(answer.body)
    return {name: column["values"] for name, column in zip(document["metadata"]["feature_names"], document["results"], strict=True)}


def plain(value):
    which = value.WhichOneof("val")
    if which is None or which == "null_val":
        return None
    found = getattr(value, which)
    return list(found.val) if hasattr(found, "val") else found
