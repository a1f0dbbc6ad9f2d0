"""Starts thali for the tests, talks to it and stops it again.

Nothing is built here: the binary is `$THALI_BIN`, by default the debug build of this checkout. Every
port is 0 (any free one) and is read from the `listening …` lines, and nothing waits for a fixed time:
a start ends with the line `ready`, a stop with the exit of the process.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
FLIGHTS = ROOT / "src/cli/demo/flights"
ROLES = ("registry", "online", "offline", "scheduler", "ui")
LAYOUTS = ("all-in-one", "split")
PORTS = ("registry", "registry-rest", "online", "offline", "ui", "metrics")
DEADLINE = float(os.environ.get("THALI_TEST_DEADLINE", "60"))


def binary() -> Path:
    path = Path(os.environ.get("THALI_BIN", ROOT / "target/debug/thali")).resolve()
    if not path.is_file():
        raise RuntimeError(f"there is no binary at {path}: build it with `cargo build`, or name another in THALI_BIN")
    return path


def environment(**extra: str) -> dict[str, str]:
    """The environment of thali and of Feast: this one, without anything that could point them elsewhere."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("FEAST_", "FEATURE_", "THALI_"))}
    return ours | {"FEAST_USAGE": "False", "NO_COLOR": "1"} | extra


def eventually(check: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The first true answer of `check`; an error is taken as "not yet", and shown if the time runs out."""
    end = time.monotonic() + deadline
    problem: BaseException | None = None
    while True:
        try:
            if answer := check():
                return answer
            problem = None
        except Exception as error:  # any failure means "not yet"
            problem = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}") from problem
        time.sleep(0.02)


def run(repo: Path, *arguments: object, env: dict[str, str] | None = None, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
    """One command of thali's command line, to its end."""
    command = [binary(), "-c", repo, *arguments]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, env=env or environment())


def succeed(repo: Path, *arguments: object, **options: Any) -> str:
    """The same, for a command that must succeed; its standard output."""
    done = run(repo, *arguments, **options)
    assert done.returncode == 0, f"thali {' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Node:
    """One process of thali that serves."""

    process: subprocess.Popen[str]
    log: Path
    addresses: dict[str, str] = field(default_factory=dict)
    lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)

    @classmethod
    def start(cls, repo: Path, role: str = "all", *arguments: object, env: dict[str, str] | None = None, wait: bool = True) -> "Node":
        command: list[object] = [binary(), "-c", repo, "serve", "--role", role]
        for port in PORTS:
            if f"--{port}-port" not in arguments:
                command += [f"--{port}-port", 0]
        node = cls.spawn([*command, *arguments], role, env)
        if wait:
            node.wait_ready()
        return node

    @classmethod
    def spawn(cls, command: list[object], name: str, env: dict[str, str] | None = None) -> "Node":
        """Any process that says what it listens on and when it is ready."""
        handle, log = tempfile.mkstemp(prefix=f"thali-{name}-", suffix=".log")
        process = subprocess.Popen(
            [str(c) for c in command],
            stdout=subprocess.PIPE,
            stderr=handle,
            text=True,
            env=env or environment(),
        )
        os.close(handle)
        node = cls(process, Path(log))
        threading.Thread(target=node._read, daemon=True).start()
        return node

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def wait_ready(self) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.process.kill()
                raise AssertionError(f"not ready within {DEADLINE:.0f} s\n{self.log_text()}") from None
            if line is None:
                raise AssertionError(f"ended with {self.process.wait()} before it was ready\n{self.log_text()}")
            if line == "ready":
                return
            if line.startswith("listening "):
                _, name, url = line.split(" ")
                self.addresses[name] = url

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running {deadline:.0f} s after it was told to end\n{self.log_text()}") from None

    def stop(self) -> None:
        """Asks the process to end, as an operator would, and insists on a clean exit."""
        self.signal()
        self.wait_clean()

    def wait_clean(self) -> None:
        code = self.wait()
        assert code == 0, f"ended with {code}\n{self.log_text()}"
        self.log.unlink(missing_ok=True)

    def kill(self) -> None:
        """For clean-up after a failed test."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Thali:
    """All roles on one repository folder: in one process, or in one process each."""

    repo: Path
    layout: str
    nodes: list[Node]

    @classmethod
    @contextmanager
    def serve(cls, repo: Path, layout: str = "all-in-one", *arguments: object, env: dict[str, str] | None = None) -> Iterator["Thali"]:
        nodes: list[Node] = []
        try:
            for role in ROLES if layout == "split" else ("all",):
                nodes.append(Node.start(repo, role, *arguments, env=env, wait=False))
            for node in nodes:
                node.wait_ready()
            yield cls(repo, layout, nodes)
            for node in nodes:
                node.signal()
            for node in nodes:
                node.wait_clean()
        finally:
            for node in nodes:
                node.kill()

    def node(self, name: str) -> Node:
        """The process that listens under this name."""
        for node in self.nodes:
            if name in node.addresses:
                return node
        raise KeyError(f"nothing listens as {name}: {[node.addresses for node in self.nodes]}")

    def url(self, name: str) -> str:
        return self.node(name).addresses[name]

    def port(self, name: str) -> int:
        port = urlsplit(self.url(name)).port
        assert port is not None
        return port

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return run(self.repo, *arguments, **options)

    def succeed(self, *arguments: object, **options: Any) -> str:
        return succeed(self.repo, *arguments, **options)

    def online_features(self, **body: Any) -> dict[str, list[Any]]:
        """The answer of POST /get-online-features, as column → values."""
        status, answer = http("POST", f"{self.url('online')}/get-online-features", body)
        assert status == 200, f"{status}: {answer}"
        names = answer["metadata"]["feature_names"]
        assert len(names) == len(answer["results"])
        return {name: column["values"] for name, column in zip(names, answer["results"])}


def http(method: str, url: str, body: Any = None, raw: bytes | None = None, timeout: float = DEADLINE, **headers: str) -> tuple[int, Any]:
    """Status and body of one request; a JSON body decoded, any other as text."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    text = content.decode()
    try:
        return status, json.loads(text)
    except json.JSONDecodeError:
        return status, text


def feast_error(answer: Any) -> dict[str, str]:
    """What a Feast client takes out of an error body: a JSON string that contains JSON."""
    assert isinstance(answer, str), answer
    return json.loads(answer)


def copy_flights(folder: Path, schedule: bool = False) -> Path:
    """A copy of the demo project. Without its schedule, so that nothing is materialized behind a test's back."""
    repo = folder / "flights"
    shutil.copytree(FLIGHTS, repo)
    definitions = repo / "definitions.yaml"
    text = definitions.read_text()
    assert "    schedule:" in text
    if not schedule:
        definitions.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("    schedule:")))
    return repo


def client_yaml(thali: Thali, project: str, **extra: str) -> str:
    """The feature_store.yaml of a stock SDK for which thali is registry, online store and offline store."""
    lines = "".join(f"{key}: {value}\n" for key, value in extra.items())
    return f"""project: {project}
provider: local
registry:
  registry_type: remote
  path: 127.0.0.1:{thali.port("registry")}
online_store:
  type: remote
  path: {thali.url("online")}
offline_store:
  type: remote
  host: 127.0.0.1
  port: {thali.port("offline")}
entity_key_serialization_version: 3
{lines}"""


def sdk(thali: Thali, project: str, folder: Path) -> Any:
    """A stock Feast FeatureStore that has nothing but thali."""
    from feast import FeatureStore

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(client_yaml(thali, project))
    return FeatureStore(repo_path=str(folder))
