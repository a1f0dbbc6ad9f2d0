"""Looking back and going back, archives between registries of every kind, and roles that follow a registry."""

import json
from pathlib import Path

import pytest
from feast.protos.feast.core.FeatureViewVersion_pb2 import FeatureViewVersionRecord

import harness
from harness import Node
from registries import ALL_BACKENDS, Backend

DEFINITIONS = """
entities:
  - {{name: driver, value_type: Int64}}
data_sources:
  - {{name: stats, type: file, path: data/stats.parquet, timestamp_field: event_timestamp}}
feature_views:
  - name: stats
    entities: [driver]
    source: stats
    ttl: 1d
    description: {description}
    schema: [{columns}]
feature_services:
  - {{name: model, features: [stats]}}
"""
ONE = "{name: trips, type: Int64}"
TWO = "{name: trips, type: Int64}, {name: rating, type: Float64}"


def apply(repo: Path, env: dict[str, str], columns: str = ONE, description: str = "first", extra: str = "") -> None:
    (repo / "definitions.yaml").write_text(DEFINITIONS.format(columns=columns, description=description) + extra)
    harness.succeed(repo, "apply", "--skip-source-validation", env=env)


def history(repo: Path, env: dict[str, str]) -> list[dict[str, object]]:
    return json.loads(harness.succeed(repo, "registry", "history", "-o", "json", env=env))


def dump(repo: Path, env: dict[str, str]) -> dict[str, object]:
    return json.loads(harness.succeed(repo, "registry-dump", env=env))


def columns(repo: Path, env: dict[str, str]) -> list[str]:
    (view,) = dump(repo, env)["featureViews"]
    return [feature["name"] for feature in view["spec"]["features"]]


@pytest.fixture
def repo(backend: Backend) -> Path:
    return backend.repo(project="shop")


@pytest.fixture
def env(backend: Backend) -> dict[str, str]:
    return harness.environment(USER="ada", **backend.env)


@pytest.mark.parametrize("backend", ALL_BACKENDS, indirect=True)
def test_every_apply_is_an_entry_that_can_be_taken_back(repo: Path, env: dict[str, str]) -> None:
    apply(repo, env)
    apply(repo, env, TWO)
    apply(repo, env, TWO, "third", "  - {name: second_model, features: [stats]}\n")
    entries = history(repo, env)
    assert [entry["entry"] for entry in entries] == [3, 2, 1]
    assert {entry["author"] for entry in entries} == {"ada"}
    changed = {(change["kind"], change["name"], change["change"]) for change in entries[0]["objects"]}
    assert ("feature service", "second_model", "created") in changed
    assert ("feature view", "stats", "updated") in changed

    shown = harness.succeed(repo, "registry", "diff", "1", "2", env=env)
    assert "rating" in shown and "second_model" not in shown
    before = dump(repo, env)
    shown = harness.succeed(repo, "registry", "rollback", "--to", "1", "--dry-run", env=env)
    assert "- feature service second_model" in shown
    assert dump(repo, env) == before, "a dry run changes nothing"

    harness.succeed(repo, "registry", "rollback", "--to", "1", env=env)
    assert columns(repo, env) == ["trips"]
    assert [service["spec"]["name"] for service in dump(repo, env)["featureServices"]] == ["model"]
    assert [entry["action"] for entry in history(repo, env)][0] == "rollback to 1"
    harness.succeed(repo, "registry", "rollback", "--to", "3", env=env)
    assert columns(repo, env) == ["trips", "rating"]

    harness.succeed(repo, "teardown", env=env)
    harness.succeed(repo, "registry", "rollback", "--to", "3", env=env)
    assert columns(repo, env) == ["trips", "rating"], "a deleted project comes back"


def test_an_entry_that_is_not_there_is_an_error(repo: Path, env: dict[str, str]) -> None:
    apply(repo, env)
    done = harness.run(repo, "registry", "rollback", "--to", "7", env=env)
    assert done.returncode == 1 and "history of project `shop`" in done.stderr, done
    assert len(history(repo, env)) == 1


def test_a_backup_is_restored_in_a_registry_of_another_kind(
    backend: Backend, repo: Path, env: dict[str, str], tmp_path: Path
) -> None:
    apply(repo, env)
    apply(repo, env, TWO)
    archive = tmp_path / "all.thali"
    harness.succeed(repo, "backup", archive, env=env)

    other = "sqlite" if backend.name == "file" else "file"
    folder = tmp_path / "elsewhere"
    target = Backend(other, folder, str(folder / "r.db") if other == "file" else f"{{registry_type: sql, path: 'sqlite:///{folder}/r.db'}}")
    there = target.repo(project="shop")
    harness.succeed(there, "restore", archive, env=env)
    assert dump(there, env) == dump(repo, env)
    again = tmp_path / "again.thali"
    harness.succeed(there, "registry", "export", again, env=env)
    exported = tmp_path / "exported.thali"
    harness.succeed(repo, "registry", "export", exported, env=env)
    assert history(there, env)[1:] == history(repo, env), "the import itself is the newest entry"
    assert messages(again) == messages(exported), "every object has the same bytes"

    done = harness.run(there, "restore", archive, env=env)
    assert done.returncode == 1 and "exists already" in done.stderr
    harness.succeed(there, "restore", "--replace", archive, env=env)

    content = archive.read_bytes()
    for name, damaged in {"cut": content[:-9], "bent": content[:99] + b"X" + content[100:], "none": b"hello"}.items():
        (tmp_path / name).write_bytes(damaged)
        before = dump(there, env)
        done = harness.run(there, "restore", "--replace", tmp_path / name, env=env)
        assert done.returncode == 1 and "archive" in done.stderr, (name, done)
        assert dump(there, env) == before


def messages(archive: Path) -> set[tuple[object, ...]]:
    """Objects and versions; the time of a version is left out, since SQL registries keep whole seconds of it."""
    content, place, found = archive.read_bytes(), len(b"thali-archive-1\n"), set()
    while place < len(content):
        length, place = varint(content, place)
        record, place = content[place : place + length], place + length
        body = record[varint(record, 1)[1] :]
        if record[0] == 0x12:  # an object
            found.add((body,))
        elif record[0] == 0x1A:
            version = FeatureViewVersionRecord.FromString(body)
            found.add((version.feature_view_name, version.version_number, version.feature_view_proto, version.version_id))
    assert found
    return found


def varint(content: bytes, place: int) -> tuple[int, int]:
    """The number there, and where it ends."""
    number = shift = 0
    while True:
        byte = content[place]
        place, number, shift = place + 1, number | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return number, place


def test_a_role_goes_on_without_its_registry(tmp_path: Path) -> None:
    env = harness.environment()
    upstream = Backend("file", tmp_path / "up", str(tmp_path / "up/registry.db"))
    repo = upstream.repo(project="shop")
    apply(repo, env)
    registry = Node.start(repo, "registry", env=env)
    port = registry.addresses["registry"].rsplit(":", 1)[1]
    follower = Backend("remote", tmp_path / "down", f"{{registry_type: remote, path: '127.0.0.1:{port}'}}")
    online = Node.start(follower.repo(project="shop"), "online", env=env)
    try:
        url = online.addresses["online"]
        body = {"features": ["stats:trips"], "entities": {"driver": [1]}}

        def names() -> list[str]:
            status, answer = harness.http("POST", f"{url}/get-online-features", body)
            assert status == 200, answer
            return answer["metadata"]["feature_names"]

        assert names() == ["driver", "trips"]
        apply(repo, env, TWO)
        body["features"] = ["stats:rating"]
        harness.eventually(lambda: names() == ["driver", "rating"], "the change was followed", 5)

        registry.kill()

        def degraded() -> bool:
            status, answer = harness.http("GET", f"{url}/ready")
            return status == 200 and str(answer["checks"]["registry"]).startswith("degraded")

        harness.eventually(degraded, "readiness tells that the registry is away")
        assert names() == ["driver", "rating"], "what is known is served"
        registry = Node.start(repo, "registry", "--registry-port", port, env=env)
        harness.eventually(
            lambda: harness.http("GET", f"{url}/ready")[1]["checks"]["registry"] == "ok", "the registry is found again"
        )
    finally:
        online.kill()
        registry.kill()
