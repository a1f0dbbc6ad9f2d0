"""Fixtures that every test file may use; what they do is in `harness.py` and `servers.py`."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests start processes while gRPC's threads run; without this it writes a line about each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# Their assertions say what differs, as those of the tests do.
pytest.register_assert_rewrite("clouds", "feast_repo", "harness", "registries", "registry_load", "servers")

import clouds
import harness
import registries
import servers


def pytest_configure() -> None:
    """Being told to end is like Ctrl-C: what was started for the tests ends with them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", params=harness.LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """All roles in one process, or one process per role: a scenario has to hold for both."""
    return request.param


# --- servers, started when the first test wants them, stopped when the last test is over ------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    with servers.Postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def pgvector() -> Iterator[servers.Pgvector]:
    with servers.Pgvector.running() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[servers.MariaDb]:
    with servers.MariaDb.running() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[servers.Redis]:
    with servers.Redis.running() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[servers.S3]:
    with servers.S3.running() as server:
        yield server


@pytest.fixture(scope="session")
def azure() -> Iterator[clouds.Azure]:
    with clouds.Azure.running() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[clouds.Gcs]:
    with clouds.Gcs.running() as server:
        yield server


# --- a new place on them for each test --------------------------------------------------------------------------------


@pytest.fixture
def postgres_url(postgres: servers.Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def mariadb_url(mariadb: servers.MariaDb) -> Iterator[str]:
    with mariadb.database() as url:
        yield url


@pytest.fixture
def bucket(s3: servers.S3) -> str:
    """The name of a new, empty bucket."""
    return s3.new_bucket()


@pytest.fixture(params=registries.BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registries.Backend:
    """A registry of each kind; a test that wants only some says `@pytest.mark.parametrize("backend", […], indirect=True)`."""
    backend = registries.Backend.new(request.param, tmp_path, request)
    for name, value in backend.env.items():  # for Feast in this process
        monkeypatch.setenv(name, value)
    return backend
