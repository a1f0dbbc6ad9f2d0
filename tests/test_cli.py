"""The command line under both its names. Called `feast`, what it prints is compared with what stock Feast prints about the same
registry; the stock command runs in this process, on the folder itself.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "sdk"))

import data
import feast_repo
import harness
import small_project
from harness import Node

Done = subprocess.CompletedProcess[str]

#: Every kind that a registry has, as the command line calls it.
KINDS = (
    "projects",
    "entities",
    "data-sources",
    "feature-views",
    "on-demand-feature-views",
    "stream-feature-views",
    "label-views",
    "feature-services",
    "saved-datasets",
    "validation-references",
    "permissions",
)


@pytest.fixture(scope="module")
def feast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binary by its other name."""
    link = tmp_path_factory.mktemp("bin") / "feast"
    link.symlink_to(harness.binary())
    return link


def call(feast: Path, repo: Path | None, *arguments: object, stdin: str = "", **options: Any) -> Done:
    chdir = [] if repo is None else ["-c", repo]
    command = [str(part) for part in [feast, *chdir, *arguments]]
    options.setdefault("env", harness.environment())
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=harness.DEADLINE, **options)


def stock(repo: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of stock Feast's command, without its colours."""
    from click.testing import CliRunner
    from feast.cli.cli import cli

    done = CliRunner().invoke(cli, ["-c", str(repo), *arguments])
    return done.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def sorted_sets(text: str) -> str:
    """Python prints sets in no order, and tables are as wide as what is in them whatever the order."""
    return re.sub(r"\{('[^:{}]*')\}", lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}", text).rstrip()


def everything(folder: Path) -> Path:
    """A folder with every kind of object, applied by stock Feast."""
    data.write(folder / "data")
    shutil.copy(feast_repo.REPO / "definitions.py", folder)
    (folder / "feature_store.yaml").write_text(feast_repo.ORACLE_YAML.format(registry="registry.db", offline="dask"))
    feast_repo.apply(folder, folder / "data")
    add_saved_dataset(folder)
    return folder


def add_saved_dataset(folder: Path) -> None:
    from feast import FeatureStore
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.saved_dataset import SavedDataset

    store = FeatureStore(repo_path=str(folder))
    storage = SavedDatasetFileStorage(path=str(folder / "data/kept.parquet"))
    dataset = SavedDataset(name="kept", features=["driver_stats:trips"], join_keys=["driver_id"], storage=storage, tags={"team": "ops"})
    store.registry.apply_saved_dataset(dataset, store.project)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only read from."""
    return everything(tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="module")
def full_repo(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a validation reference as well, which stock Feast only reads where Great Expectations is installed."""
    from feast.protos.feast.core.Registry_pb2 import Registry
    from feast.protos.feast.core.ValidationProfile_pb2 import ValidationReference

    copy = Path(shutil.copytree(repo, tmp_path_factory.mktemp("full") / "repo"))
    registry = Registry.FromString((copy / "registry.db").read_bytes())
    registry.validation_references.append(ValidationReference(name="reference", reference_dataset_name="kept", project="sdk"))
    (copy / "registry.db").write_bytes(registry.SerializeToString())
    return copy


@pytest.fixture
def own_repo(full_repo: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(full_repo, tmp_path / "own"))


# --- called feast: what is printed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "version",
        "endpoint",
        *(f"{kind} list" for kind in KINDS),
        "entities list --tags pii:yes",
        "entities list --tags pii:yes,tier:gold",
        "feature-views list --tags team:ops",
        "data-sources list --tags tier:gold",
        "features describe nothing",
        "permissions check",
        "permissions list-roles",
        "permissions list-roles -v",
        "feature-views list-versions driver_stats",
        "feature-views list-versions nothing",
        "feature-views enable driver_stats",
        "feature-views disable driver_quality",
        "feature-views set-state driver_stats available_online",
        "feature-views set-state driver_quality created",
        "feature-views enable nothing",
        *(f"{kind} describe nothing" for kind in KINDS if kind not in ("saved-datasets", "validation-references")),
        "delete nothing",
    ],
)
def test_texts_are_feasts(feast: Path, repo: Path, command: str) -> None:
    status, text = stock(repo, *command.split())
    done = call(feast, repo, *command.split())
    assert sorted_sets(done.stdout) == sorted_sets(text)
    assert done.returncode == status, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "projects describe sdk",
        "projects current_project",
        "entities describe driver",
        "data-sources describe drivers_file",
        "data-sources describe driver_push",
        "data-sources describe rides_kafka",
        "data-sources describe trip",
        "feature-views describe driver_stats",
        "feature-views describe driver_pushed",
        "on-demand-feature-views describe rate_with_bonus",
        "label-views describe driver_quality",
        "feature-services describe two_drivers",
        "feature-services describe logged",
        "permissions describe readers",
        "permissions describe space",
        "features describe trips",
        "features describe verdict",
        "configuration",
    ],
)
def test_documents_say_what_feasts_say(feast: Path, repo: Path, command: str) -> None:
    status, text = stock(repo, *command.split())
    done = call(feast, repo, *command.split())
    assert done.returncode == status == 0, done.stderr
    ours, feasts = (settled(yaml.safe_load(document)) for document in (done.stdout, text))
    assert ours == feasts


def settled(node: Any) -> Any:
    """Without what Feast makes anew each time it reads: pickled functions, and the times of request sources."""
    if isinstance(node, list):
        return [settled(value) for value in node]
    if not isinstance(node, dict):
        return node
    request = node.get("type") == "REQUEST_SOURCE"
    return {key: settled(value) for key, value in node.items() if key != "body" and not (request and key == "meta")}


def test_features_are_listed_as_feast_lists_them(feast: Path, repo: Path) -> None:
    text = stock(repo, "features", "list", "--output", "json")[1]
    # Feast counts the entity of a stream view among its features.
    feasts = [item for item in json.loads(text) if item["feature_view"] != "driver_id"]
    assert json.loads(call(feast, repo, "features", "list", "--output", "json").stdout) == feasts
    lines = call(feast, repo, "features", "list").stdout.splitlines()
    assert lines[0].split("  ")[0] == "Feature" and len(lines) == len(feasts) + 1


def test_permissions_are_drawn_as_a_tree(feast: Path, repo: Path) -> None:
    tree = stock(repo, "permissions", "list", "--verbose")[1].split("Permissions:\n\n")[1]
    ours = call(feast, repo, "permissions", "list", "--verbose").stdout.split("Permissions:\n\n")[1]

    def names_sorted(text: str) -> list[str]:
        return [re.sub(r"\[(.*)\]", lambda found: str(sorted(found[1].split(", "))), line).replace(":", "") for line in text.splitlines()]

    assert names_sorted(ours) == names_sorted(tree.rstrip())


DUMPED = '''
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.permissions.permission import Permission
from feast.permissions.action import AuthzedAction
from feast.permissions.policy import RoleBasedPolicy
from feast.types import Float64
from feast.value_type import ValueType

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
source = FileSource(name="stats_file", path="data/stats.parquet", timestamp_field="event_timestamp")
stats = FeatureView(name="stats", entities=[driver], ttl=timedelta(days=2), schema=[Field(name="rate", dtype=Float64)], source=source)
trip = RequestSource(name="trip", schema=[Field(name="bonus", dtype=Float64)])

@on_demand_feature_view(sources=[stats, trip], schema=[Field(name="better", dtype=Float64)], mode="pandas")
def better(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"better": inputs["rate"] + inputs["bonus"]})

service = FeatureService(name="service", features=[stats, better])
readers = Permission(name="readers", types=[FeatureView], actions=[AuthzedAction.READ_ONLINE], policy=RoleBasedPolicy(roles=["reader"]))
'''


@pytest.fixture
def python_repo(tmp_path: Path) -> Path:
    """A small repository in Python; stock Feast cannot dump one with an on-demand view in mode `python`."""
    repo = small_project.create(tmp_path)
    (repo / "definitions.yaml").unlink()
    (repo / "definitions.py").write_text(DUMPED)
    return repo


def test_the_registry_is_dumped_as_feast_dumps_it(feast: Path, python_repo: Path) -> None:
    feast_repo.apply(python_repo, python_repo)
    text = stock(python_repo, "registry-dump")[1]
    ours = json.loads(call(feast, python_repo, "registry-dump").stdout)
    feasts = json.loads(text)
    for dump in (ours, feasts):
        for source in [view["spec"]["sources"]["trip"]["requestDataSource"] for view in dump["onDemandFeatureViews"]]:
            del source["meta"]  # Feast stamps request sources anew when it reads them
    assert ours == feasts


# --- called feast: what is done ------------------------------------------------------------------------------------


def test_a_script_of_feasts_commands_runs_unchanged(feast: Path, tmp_path: Path) -> None:
    script = """set -e
feast version
feast init shop
cd shop/feature_repo
feast plan
feast apply --skip-source-validation --no-progress
feast materialize-incremental $(date -u +'%Y-%m-%dT%H:%M:%S')
feast get-online-features -e driver_id=1001 -f driver_hourly_stats:avg_daily_trips
feast feature-views disable driver_hourly_stats
feast teardown
feast projects list
"""
    env = harness.environment(PATH=f"{feast.parent}:{os.environ['PATH']}")
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=harness.DEADLINE, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith('Feast SDK Version: "0.67.0"\n')
    assert done.stdout.count("Created feature view driver_hourly_stats\n") == 2, "planned, then applied"
    assert '"avg_daily_trips": [' in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["NAME", "DESCRIPTION", "TAGS", "OWNER"], "nothing is left"


def test_features_are_printed_as_feast_prints_them(feast: Path, tmp_path: Path) -> None:
    repo = small_project.create_served(tmp_path)
    online = ["get-online-features", "-e", "driver_id=1", "-e", "driver_id=9", "-f", "stats:rate", "-f", "stats:trips"]
    text = stock(repo, *online)[1]
    assert json.loads(call(feast, repo, *online).stdout) == json.loads(text)
    rows = json.dumps([{"event_timestamp": "2026-03-01T12:00:00", "driver_id": driver} for driver in (1, 2, 9)])
    historical = ["get-historical-features", "-d", rows, "-f", "stats:rate", "-f", "stats:trips"]

    def by_driver(text: str) -> list[Any]:
        return sorted(json.loads(text), key=lambda row: row["driver_id"])

    assert by_driver(call(feast, repo, *historical).stdout) == by_driver(stock(repo, *historical)[1])


def test_views_are_disabled_and_moved_and_feast_sees_it(feast: Path, own_repo: Path) -> None:
    from feast import FeatureStore

    def view() -> Any:
        return FeatureStore(repo_path=str(own_repo)).get_feature_view("driver_stats")

    assert call(feast, own_repo, "feature-views", "disable", "driver_stats").stdout == "Feature view 'driver_stats' has been disabled.\n"
    assert not view().enabled
    assert call(feast, own_repo, "feature-views", "disable", "driver_stats").stdout == "Feature view 'driver_stats' is already disabled.\n"
    call(feast, own_repo, "feature-views", "enable", "driver_stats")
    assert view().enabled
    for state in ("created", "GENERATED"):
        done = call(feast, own_repo, "feature-views", "set-state", "driver_stats", state)
        assert done.stdout == f"Feature view 'driver_stats' state set to {state.upper()}.\n"
    assert view().state.name == "GENERATED"
    assert call(feast, own_repo, "feature-views", "set-state", "driver_stats", "created").stdout == stock(own_repo, "feature-views", "set-state", "driver_stats", "created")[1]


def test_delete_takes_the_first_object_of_that_name(feast: Path, own_repo: Path) -> None:
    assert call(feast, own_repo, "delete", "driver_pushed").stdout == "Deleted FeatureView driver_pushed from sdk.\n"
    assert call(feast, own_repo, "delete", "driver_push").stdout == "Deleted DataSource driver_push from sdk.\n"
    assert "driver_pushed" not in stock(own_repo, "feature-views", "list")[1]
    assert call(feast, own_repo, "delete", "driver_pushed").stdout == "Object not found. Deletion skipped.\n"


def test_environment_variables_name_the_configuration(feast: Path, repo: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copy(repo / "feature_store.yaml", tmp_path / "other.yaml"))

    def projects(**env: str) -> str:
        done = call(feast, None, "projects", "list", cwd=tmp_path, env=harness.environment(**env))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "tests@thali.example" in projects(FEATURE_REPO_DIR_ENV_VAR=str(repo))
    assert "tests@thali.example" in projects(FEATURE_REPO_DIR_ENV_VAR=str(repo), FEAST_FS_YAML_FILE_PATH=str(elsewhere))
    import base64

    text = (repo / "feature_store.yaml").read_text().replace("registry.db", str(repo / "registry.db"))
    assert "tests@thali.example" in projects(FEATURE_STORE_YAML_BASE64=base64.b64encode(text.encode()).decode())


# --- called feast: what goes wrong ---------------------------------------------------------------------------------


def test_a_folder_without_configuration_is_reported_as_feast_does(feast: Path, tmp_path: Path) -> None:
    status, text = stock(tmp_path, "entities", "list")
    done = call(feast, tmp_path, "entities", "list")
    assert (done.returncode, done.stdout) == (status, text)
    assert status == 1 and str(tmp_path / "feature_store.yaml") in text


@pytest.mark.parametrize("command", ["serve --nonsense", "serve -k key", "materialize", "feature-views set-state x gone", "entities", "nonsense"])
def test_arguments_that_make_no_sense_end_with_feasts_status(feast: Path, repo: Path, command: str) -> None:
    status, _ = stock(repo, *command.split())
    done = call(feast, repo, *command.split())
    assert done.returncode == status == 2
    assert "Usage" in done.stderr or "error" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "serve_transformations -p 6569",
        "serve_lineage -h 0.0.0.0",
        "mcp",
        "monitor run -p sdk --set-baseline",
        "dbt import -m manifest.json -e driver",
        "mlflow list-sources",
        "demo-notebooks -o there",
    ],
)
def test_commands_that_are_missing_are_refused_by_name(feast: Path, repo: Path, command: str) -> None:
    for binary in (feast, harness.binary()):
        done = call(binary, repo, *command.split())
        assert done.returncode == 1
        told = done.stdout + done.stderr
        assert f"`{command.split()[0]}`" in told and "hint" in told, told


def test_feasts_validation_is_refused_under_its_name(feast: Path, repo: Path) -> None:
    done = call(feast, repo, *"validate -f s -r r 2024-01-01 2024-02-01".split())
    assert done.returncode == 1 and "`validate`" in done.stdout and "thali validate" in done.stdout, done


def test_flags_that_would_be_pretence_are_refused(feast: Path, tmp_path: Path) -> None:
    repo = small_project.create(tmp_path)
    for command in ("apply --no-promote", "materialize-incremental 2026-03-01 -v stats --version v1"):
        done = call(feast, repo, *command.split())
        assert done.returncode == 1 and "not supported" in done.stdout, done.stdout
    assert call(feast, repo, "entities", "list").stdout.splitlines()[1:] == [], "nothing was applied"
    done = call(feast, tmp_path, "init", "-t", "snowflake", "there")
    assert done.returncode == 1 and "`snowflake`" in done.stdout and not (tmp_path / "there").exists()


def test_definitions_in_python_are_sent_to_the_sdk(feast: Path, python_repo: Path) -> None:
    done = call(feast, python_repo, "apply")
    assert done.returncode == 1
    assert "feast apply" in done.stdout and "registry_type: remote" in done.stdout


def test_a_schema_is_created_for_sql_registries_only(feast: Path, tmp_path: Path) -> None:
    repo = small_project.create(tmp_path)
    status, _ = stock(repo, "registry", "create-schema")
    done = call(feast, repo, "registry", "create-schema")
    assert done.returncode == status == 1
    assert "This command only applies to SQL-based registries" in done.stderr
    config = repo / "feature_store.yaml"
    document = yaml.safe_load(config.read_text()) | {"registry": {"registry_type": "sql", "path": f"sqlite:///{repo}/registry.sqlite"}}
    config.write_text(yaml.safe_dump(document))
    done = call(feast, repo, "registry", "create-schema")
    assert (done.returncode, done.stdout) == (0, "SQL registry schema created successfully.\n"), done.stderr
    assert (repo / "registry.sqlite").is_file()


# --- called feast: servers -----------------------------------------------------------------------------------------


def serving(feast: Path, repo: Path, *arguments: str) -> Iterator[Node]:
    """The server until the test is over, stopped as an operator would."""
    log = repo / "server.log"
    with open(log, "w") as errors:
        command = [str(feast), "-c", str(repo), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=harness.environment())
    node = Node(process, log)
    import threading

    threading.Thread(target=node._read, daemon=True).start()
    try:
        node.wait_ready()
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.mark.parametrize(
    ("command", "listeners"),
    [
        ("serve -p 0 --workers -1 --worker-connections 2000 --max-requests 5000 --registry_ttl_sec 300", {"online": "http://127.0.0.1"}),
        ("serve -h 0.0.0.0 -p 0 -t grpc --no-access-log", {"online": "http://0.0.0.0"}),
        ("serve_registry -p 0", {"registry": "grpc://[::]"}),
        ("serve_registry -p 0 --grpc --rest-api --rest-port 0", {"registry": "grpc://[::]", "registry-rest": "http://[::]"}),
        ("serve_registry --no-grpc -r --rest-port 0 -h 127.0.0.1", {"registry-rest": "http://127.0.0.1"}),
        ("serve_offline -p 0", {"offline": "grpc://127.0.0.1"}),
        ("ui -p 0 -h 127.0.0.1", {"ui": "http://127.0.0.1"}),
        ("listen -a localhost:0 -w 4 -r 5", {"online": "http://127.0.0.1"}),
    ],
)
def test_a_server_command_starts_that_server_and_no_other(feast: Path, tmp_path: Path, command: str, listeners: dict[str, str]) -> None:
    repo = small_project.create_served(tmp_path)
    for node in serving(feast, repo, *command.split()):
        found = {name: url.rsplit(":", 1)[0] for name, url in node.addresses.items()}
        assert found == listeners


def test_metrics_are_served_only_when_asked_for(feast: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.fail("port 8000, which is fixed in Feast, is in use on this machine")
    repo = small_project.create_served(tmp_path)
    for node in serving(feast, repo, "serve", "-p", "0", "--metrics"):
        assert set(node.addresses) == {"online", "metrics"}
        assert urllib.request.urlopen("http://127.0.0.1:8000/metrics").status == 200


# --- called thali: every kind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_and_described_in_every_form(full_repo: Path, kind: str) -> None:
    table = harness.succeed(full_repo, kind, "list").splitlines()
    items = json.loads(harness.succeed(full_repo, kind, "list", "-o", "json"))
    assert yaml.safe_load(harness.succeed(full_repo, kind, "list", "-o", "yaml")) == items
    names = [item.get("spec", item)["name"] for item in items]
    assert names == sorted(names) and names, kind
    assert table[0].startswith("NAME") and {name for name in names} <= {line.split()[0] for line in table[1:]}
    for name, item in list(zip(names, items))[:2]:
        assert yaml.safe_load(harness.succeed(full_repo, kind, "describe", name)) == item
        assert json.loads(harness.succeed(full_repo, kind, "describe", name, "-o", "json")) == item
        assert harness.succeed(full_repo, kind, "describe", name, "-o", "table").splitlines()[1].split()[0] == name
    done = harness.run(full_repo, kind, "describe", "nothing")
    assert done.returncode == 1 and not done.stdout and "does not exist" in done.stderr


@pytest.mark.parametrize("tag", ["team=ops", "team:ops", "(team:ops)"])
def test_tags_filter_lists(repo: Path, tag: str) -> None:
    assert json.loads(harness.succeed(repo, "feature-views", "list", "--tags", tag, "-o", "json"))[0]["spec"]["name"] == "driver_stats"
    both = harness.run(repo, "feature-views", "list", "--tags", tag, "--tags", "team=other")
    assert both.returncode == 0 and not both.stdout and "No feature-views found" in both.stderr


def test_features_are_listed_and_described(repo: Path) -> None:
    items = json.loads(harness.succeed(repo, "features", "list", "-o", "json"))
    assert {"name": "verdict", "featureView": "driver_quality"}.items() <= next(item for item in items if item["name"] == "verdict").items()
    found = yaml.safe_load(harness.succeed(repo, "features", "describe", "driver_stats:conv_rate"))
    assert found == [{"name": "conv_rate", "featureView": "driver_stats", "type": "Float32", "description": "Share of offers taken", "tags": {"unit": "ratio"}}]
    assert harness.run(repo, "features", "describe", "nothing").returncode == 1


@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        ("validation-references", "reference", "validation reference"),
        ("saved-datasets", "kept", "saved dataset"),
        ("permissions", "team", "permission"),
        ("feature-services", "logged", "feature service"),
        ("label-views", "driver_quality", "label view"),
        ("stream-feature-views", "ride_counts", "stream feature view"),
        ("on-demand-feature-views", "rate_with_bonus", "on demand feature view"),
        ("feature-views", "zone_written", "feature view"),
        ("data-sources", "zone_push", "data source"),
        ("entities", "customer_id", "entity"),
    ],
)
def test_every_kind_is_deleted(own_repo: Path, kind: str, name: str, label: str) -> None:
    assert harness.succeed(own_repo, kind, "delete", name) == f'{label} "{name}" deleted\n'
    assert name not in json.dumps([item.get("spec", item)["name"] for item in json.loads(harness.succeed(own_repo, kind, "list", "-o", "json"))])
    again = harness.run(own_repo, kind, "delete", name)
    assert again.returncode == 1 and "does not exist in project sdk" in again.stderr


def test_a_deleted_view_leaves_no_rows(tmp_path: Path) -> None:
    import sqlite3

    repo = small_project.create_served(tmp_path)
    (online,) = (path for path in repo.rglob("*.db") if "online" in path.name)

    def tables() -> set[str]:
        with sqlite3.connect(online) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    assert any(name.endswith("_stats") for name in tables())
    harness.succeed(repo, "feature-views", "delete", "stats")
    assert not any(name.endswith("_stats") for name in tables())


def test_a_project_is_deleted_when_that_is_confirmed(own_repo: Path, feast: Path) -> None:
    for answer in ("", "n\n", "nothing\n"):
        done = call(harness.binary(), own_repo, "projects", "delete", "sdk", stdin=answer)
        assert done.returncode == 1 and "Are you sure" in done.stdout and "Aborted!" in done.stderr
    assert "sdk" in harness.succeed(own_repo, "projects", "list")
    done = call(feast, own_repo, "projects", "delete", "sdk", stdin="y\n")
    assert done.returncode == 0 and done.stdout.endswith("Project 'sdk' deleted successfully.\n")
    assert harness.run(own_repo, "projects", "delete", "sdk", "-y").returncode == 1


def test_protected_projects_stay(tmp_path: Path, feast: Path) -> None:
    definitions = 'project: {tags: {"feast.dev/protected-project": "true"}}\n' + small_project.DEFINITIONS
    repo = small_project.create(tmp_path, definitions=definitions)
    harness.succeed(repo, "apply")
    (project,) = json.loads(harness.succeed(repo, "projects", "list", "-o", "json"))
    name = project["spec"]["name"]
    for arguments in (["projects", "delete", name, "-y"], ["teardown"]):
        done = harness.run(repo, *arguments)
        assert done.returncode == 1 and f'Cannot delete protected project "{name}"' in done.stderr
    assert name in harness.succeed(repo, "projects", "list")
    assert call(feast, repo, "projects", "list").stdout == stock(repo, "projects", "list")[1], "Feast's command hides them"


def test_another_project_of_the_registry(tmp_path: Path) -> None:
    repo = small_project.create(tmp_path)
    harness.succeed(repo, "apply")
    harness.succeed(repo, "--set", "project=other", "apply")
    harness.succeed(repo, "feature-services", "delete", "all_of_it", "--project", "other")
    assert "No feature-services found in project other" in harness.run(repo, "feature-services", "list", "--project", "other").stderr
    assert "all_of_it" in harness.succeed(repo, "feature-services", "list")


def test_thali_ends_with_an_error_where_feast_only_says_so(own_repo: Path) -> None:
    done = harness.run(own_repo, "feature-views", "set-state", "driver_stats", "GENERATED")
    assert done.returncode == 1
    assert "Invalid state transition: STATE_UNSPECIFIED -> GENERATED. Allowed transitions from STATE_UNSPECIFIED: CREATED." in done.stderr
