"""On-demand feature views computed by thali and by stock Feast from one registry and one online store: the same values,
and functions that misbehave harm nobody but themselves."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Thali, environment, eventually, feast_error, http

sys.path.insert(0, str(Path(__file__).parent / "transform"))
import views

CONFIG = """project: odfv
provider: local
registry: data/registry.db
online_store: {{type: sqlite, path: data/online.db}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
thali:
  python: {{command: {python}, workers: 2, time_limit_seconds: 10, memory_limit: 1GiB}}
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from feast import FeatureStore

    folder = tmp_path_factory.mktemp("odfv")
    (folder / "data").mkdir()
    stock = CONFIG.format(python=sys.executable).partition("thali:")[0]
    (folder / "feature_store.yaml").write_text(stock)
    views.fill(FeatureStore(repo_path=str(folder)))
    (folder / "feature_store.yaml").write_text(CONFIG.format(python=sys.executable))
    return folder


@pytest.fixture(scope="module")
def stock(repo: Path) -> Any:
    """Feast on the same registry and store; it does not know our section of the configuration."""
    from feast import FeatureStore, RepoConfig
    from feast.repo_config import load_repo_config  # noqa: F401  (the configuration of a repository)

    config = RepoConfig(
        project="odfv",
        provider="local",
        registry=str(repo / "data/registry.db"),
        online_store={"type": "sqlite", "path": str(repo / "data/online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
        repo_path=repo,
    )
    return FeatureStore(config=config)


@pytest.fixture(scope="module")
def thali(repo: Path) -> Iterator[Thali]:
    with Thali.serve(repo, "all-in-one", env=environment(SECRET_TOKEN="s3cret", AWS_SECRET_ACCESS_KEY="x")) as thali:
        yield thali


def by_stock(stock: Any, features: Any, entities: dict[str, list[Any]]) -> dict[str, Any]:
    """Column → (values, statuses), in the JSON that Feast's server makes of its answer."""
    from feast.feature_server_utils import convert_response_to_dict

    if isinstance(features, str):
        features = stock.get_feature_service(features)
    answer = stock.get_online_features(features=features, entity_rows=entities)
    return columns(json.loads(json.dumps(convert_response_to_dict(answer.proto))))


def by_thali(thali: Thali, features: Any, entities: dict[str, list[Any]], **more: Any) -> dict[str, Any]:
    wanted = {"feature_service": features} if isinstance(features, str) else {"features": features}
    status, answer = http("POST", f"{thali.url('online')}/get-online-features", wanted | {"entities": entities} | more)
    assert status == 200, answer
    return columns(answer)


def columns(answer: dict[str, Any]) -> dict[str, Any]:
    names = answer["metadata"]["feature_names"]
    return {name: (column["values"], column["statuses"]) for name, column in zip(names, answer["results"], strict=True)}


def values(thali: Thali, features: list[str], entities: dict[str, list[Any]], **more: Any) -> dict[str, list[Any]]:
    return {name: column for name, (column, _) in by_thali(thali, features, entities, **more).items()}


def hostile(thali: Thali, behave: str, **options: Any) -> tuple[int, Any]:
    body = {"features": ["hostile:answer"], "entities": {"driver_id": [1], "behave": [behave]}}
    return http("POST", f"{thali.url('online')}/get-online-features", body, **options)


def message(answer: Any) -> str:
    return feast_error(answer["detail"] if isinstance(answer, dict) and "detail" in answer else answer)["message"]


# --- the same values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", views.KINDS)
@pytest.mark.parametrize("view", ["python_echo:o_", "single_echo:s_"])
def test_every_type_goes_through_a_function_and_back(view: str, kind: str, thali: Thali, stock: Any) -> None:
    feature = view + kind
    # Feast computes a function over single values for the first row only, so each driver is asked for alone.
    for driver in (1, 2, 3, 9):
        entities = {"driver_id": [driver]}
        assert by_thali(thali, [feature], entities) == by_stock(stock, [feature], entities), driver


@pytest.mark.parametrize("kind", views.KINDS)
def test_columns_hold_rows_of_every_kind(kind: str, thali: Thali, stock: Any) -> None:
    entities = {"driver_id": [3, 1, 9, 2, 1]}
    feature = [f"python_echo:o_{kind}"]
    assert by_thali(thali, feature, entities) == by_stock(stock, feature, entities)


@pytest.mark.parametrize("kind", views.FRAMED)
def test_data_frames(kind: str, thali: Thali, stock: Any) -> None:
    feature = [f"pandas_echo:p_{kind}"]
    for drivers in ([1, 2], [1], [2, 2, 1]):
        assert by_thali(thali, feature, {"driver_id": drivers}) == by_stock(stock, feature, {"driver_id": drivers})


@pytest.mark.parametrize("view", [views.computed, views.framed], ids=lambda view: view.name)
def test_views_over_views_keys_and_request_data(view: Any, thali: Thali, stock: Any) -> None:
    features = [f"{view.name}:{feature.name}" for feature in view.features]
    for drivers in ([1], [1, 2, 3, 9, 1]):
        entities = {"driver_id": drivers, "factor": [float(n) + 0.5 for n in range(len(drivers))], "word": ["w"] * len(drivers)}
        assert by_thali(thali, features, entities) == by_stock(stock, features, entities)


def test_a_service_with_an_alias(thali: Thali, stock: Any) -> None:
    entities = {"driver_id": [1, 2], "factor": [2.0, 3.0], "word": ["a", "b"]}
    assert by_thali(thali, "served", entities) == by_stock(stock, "served", entities)


def test_functions_over_single_values_see_every_row(thali: Thali) -> None:
    answer = values(thali, ["single_echo:s_int32", "single_echo:s_string_list"], {"driver_id": [2, 1, 9, 3]})
    assert answer["s_int32"] == [-(2**31), 7, None, None]
    assert answer["s_string_list"] == [["ü"], ["a", ""], None, None]


def test_full_names(thali: Thali) -> None:
    entities = {"driver_id": [1], "factor": [2.0], "word": ["w"]}
    answer = values(thali, ["computed:scaled", "numbers:b"], entities, full_feature_names=True)
    assert answer == {"driver_id": [1], "numbers__b": [0.5], "computed__scaled": [1.0]}


def test_a_view_over_an_on_demand_view(thali: Thali) -> None:
    """Which Feast refuses to read."""
    entities = {"driver_id": [1, 2], "factor": [2.0, 3.0], "word": ["w", "w"]}
    assert values(thali, ["chained:again"], entities)["again"] == [3.0, 0.0]


@pytest.mark.parametrize(("view", "feature"), [("written", "doubled"), ("written_frame", "tripled")])
def test_transformations_on_write(view: str, feature: str, thali: Thali, stock: Any) -> None:
    import pandas as pd

    rows = {"driver_id": [11, 12], "a": [1, 2], "b": [1.5, -2.0], "c": ["x", "y"], "event_timestamp": ["2026-11-02T00:00:00"] * 2}
    status, answer = http("POST", f"{thali.url('online')}/write-to-online-store", {"feature_view_name": view, "df": rows})
    assert status == 200, answer
    stock.write_to_online_store(view, pd.DataFrame(rows | {"driver_id": [13, 14]}))
    mine, other = ({"driver_id": drivers} for drivers in ([11, 12], [13, 14]))
    for read in (by_thali, by_stock):
        source = thali if read is by_thali else stock
        assert read(source, [f"{view}:{feature}"], mine)[feature] == read(source, [f"{view}:{feature}"], other)[feature]
    assert by_thali(thali, [f"{view}:{feature}"], mine) == by_stock(stock, [f"{view}:{feature}"], mine)


# --- functions that misbehave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        ("raise", "ValueError: no such luck (line"),
        ("exit", "SystemExit: 3"),
        ("eat", "MemoryError"),
        ("short", "0 values of `answer` were answered for 1 rows"),
        ("other", "does not answer `answer`"),
        ("crash", "worker died: exit status: 4"),
    ],
)
def test_an_error_is_told_and_the_next_request_is_answered(behave: str, said: str, thali: Thali) -> None:
    status, answer = hostile(thali, behave)
    assert status >= 400
    assert said in message(answer) and "`hostile`" in message(answer)
    assert hostile(thali, "well")[0] == 200


def test_an_endless_function_hits_the_limit_while_others_are_served(thali: Thali, tmp_path: Path) -> None:
    flags = [tmp_path / name for name in ("first", "second")]
    waiting = [threading.Thread(target=hostile, args=(thali, f"wait {flag}")) for flag in flags]
    for request in waiting:
        request.start()
    eventually(lambda: all(flag.exists() for flag in flags), "both workers run")
    for flag, request in zip(flags, waiting):
        flag.unlink()
        request.join()
    ended: list[tuple[int, Any]] = []
    loop = threading.Thread(target=lambda: ended.append(hostile(thali, "loop")))
    loop.start()
    for _ in range(5):
        assert hostile(thali, "well")[0] == 200
    assert loop.is_alive()
    loop.join()
    status, answer = ended[0]
    assert status in (408, 504) and "took longer than 10 s" in message(answer), (status, answer)


def test_a_worker_killed_in_the_middle(thali: Thali, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    ended: list[tuple[int, Any]] = []
    request = threading.Thread(target=lambda: ended.append(hostile(thali, f"wait {flag}")))
    request.start()
    pid = eventually(lambda: flag.exists() and flag.read_text(), "the function runs")
    os.kill(int(pid), signal.SIGKILL)
    request.join()
    status, answer = ended[0]
    assert status == 503 and "worker died: signal: 9" in message(answer)
    assert hostile(thali, "well")[0] == 200


def test_an_idle_worker_that_is_killed_is_replaced_unnoticed(thali: Thali) -> None:
    pids = {hostile(thali, "pid")[1]["results"][-1]["values"][0] for _ in range(20)}
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    for pid in pids:
        eventually(lambda pid=pid: not alive(int(pid)), "the worker is gone")
    status, answer = hostile(thali, "well")
    assert status == 200, answer


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_request_that_went_away_poisons_nothing(thali: Thali, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with pytest.raises(TimeoutError):
        hostile(thali, f"wait {flag}", timeout=1)
    flag.unlink(missing_ok=True)
    for word in ("one", "two", "three"):
        assert hostile(thali, word)[1]["results"][-1]["values"] == [f"{word} x"]


def test_the_environment_is_bare(thali: Thali) -> None:
    seen = hostile(thali, "environment")[1]["results"][-1]["values"][0].split()
    assert "PATH" in seen
    assert not {"SECRET_TOKEN", "AWS_SECRET_ACCESS_KEY", "FEAST_USAGE"} & set(seen), seen


def test_functions_cannot_look_into_the_server(thali: Thali) -> None:
    """Its environment and memory have secrets, and both have one user."""
    assert "s3cret" in Path(f"/proc/{thali.node('online').process.pid}/environ").read_text()
    assert hostile(thali, "spy")[1]["results"][-1]["values"] == [""]
    assert "does not keep Python functions" not in thali.node("online").log_text()


def test_what_functions_print_goes_to_the_log(thali: Thali) -> None:
    assert hostile(thali, "print")[0] == 200
    log = thali.node("online").log_text
    eventually(lambda: "a function says hello" in log() and "and complains" in log(), "the log has it")
    before = len(log())
    assert hostile(thali, "flood")[0] == 200
    eventually(lambda: "prints too much" in log(), "the log ends it")
    assert len(log()) - before < 200_000
    # Standard input is not the pipe that requests come in by.
    assert hostile(thali, "stdin")[1]["results"][-1]["values"] == [""]


def test_requests_at_once_get_their_own_answers(thali: Thali) -> None:
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for turn in range(20):
            words = [f"{number}-{turn}-{row}" for row in range(3)]
            body = {"features": ["hostile:answer"], "entities": {"driver_id": [1, 2, 1], "behave": words}}
            status, answer = http("POST", f"{thali.url('online')}/get-online-features", body)
            got = answer["results"][-1]["values"] if status == 200 else answer
            if got != [f"{word} {c}" for word, c in zip(words, "xyx")]:
                wrong.append(got)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_timed_views_are_in_the_metrics(thali: Thali) -> None:
    assert hostile(thali, "well")[0] == 200
    text = http("GET", f"{thali.url('metrics')}/metrics")[1]
    assert 'feast_feature_server_transformation_duration_seconds_count{odfv_name="hostile",mode="python"}' in text
    assert 'odfv_name="computed"' not in text


def test_python_can_be_switched_off(repo: Path) -> None:
    with Thali.serve(repo, "all-in-one", env=environment(THALI_PYTHON_ENABLED="false")) as thali:
        status, answer = hostile(thali, "well")
        assert status >= 400 and "switched off" in message(answer)
        assert values(thali, ["numbers:a"], {"driver_id": [1]})["a"] == [1]


def test_no_worker_outlives_the_server(repo: Path) -> None:
    with Thali.serve(repo) as thali:
        pid = int(hostile(thali, "pid")[1]["results"][-1]["values"][0])
        assert alive(pid)
    eventually(lambda: not alive(pid), "the worker is gone")


# --- a remote service -----------------------------------------------------------------------------------------------------


def test_feasts_transformation_service(repo: Path, stock: Any, tmp_path: Path) -> None:
    """Functions over data frames are run by Feast's own service when the configuration names one."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    theirs = tmp_path / "feature_store.yaml"
    text = (repo / "feature_store.yaml").read_text().partition("thali:")[0].replace("data/", f"{repo}/data/")
    theirs.write_text(text)
    command = [Path(sys.executable).parent / "feast", "-c", tmp_path, "serve_transformations", "--port", port]
    service = subprocess.Popen([str(c) for c in command], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close() or True, "the service listens")
        mine = tmp_path / "mine"
        mine.mkdir()
        endpoint = f"feature_server: {{type: local, transformation_service_endpoint: '127.0.0.1:{port}'}}\n"
        (mine / "feature_store.yaml").write_text(text + endpoint + f"thali: {{python: {{enabled: false, command: {sys.executable}}}}}\n")
        entities = {"driver_id": [1, 2], "factor": [2.0, 3.0], "word": ["a", "b"]}
        features = [f"framed:{feature.name}" for feature in views.framed.features]
        with Thali.serve(mine) as thali:
            assert by_thali(thali, features, entities) == by_stock(stock, features, entities)
            service.terminate()
            service.wait()
            body = {"features": features, "entities": entities}
            status, answer = http("POST", f"{thali.url('online')}/get-online-features", body)
            assert status == 503 and "transformation service" in message(answer)
    finally:
        service.kill()
        service.wait()
