"""Stored rows counted and deleted over thali's own API, as `thali online` does it; and the chat page that is not there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import small_project
from harness import Thali, http, succeed


@pytest.fixture(params=["ui", "registry-rest"])
def listener(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def thali(tmp_path: Path) -> Iterator[Thali]:
    with Thali.serve(small_project.create_served(tmp_path)) as thali:
        yield thali


def api(thali: Thali, listener: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return http(method, f"{thali.url(listener)}/api/thali/v1{path}", body)


def trips(thali: Thali) -> list[int | None]:
    return thali.online_features(features=["stats:trips"], entities={"driver_id": [1, 2, 3]})["trips"]


def test_rows_are_counted_deleted_and_truncated(thali: Thali, listener: str) -> None:
    assert api(thali, listener, "GET", "/rows") == (200, {"counts": {"stats": 3}})
    gone = {"featureView": "stats", "entities": {"driver_id": [2, 9]}}
    assert api(thali, listener, "POST", "/rows/delete", gone) == (200, {"asked": 2, "deleted": 1})
    assert trips(thali) == [10, None, 30]
    assert api(thali, listener, "GET", "/rows?featureView=stats&project=small") == (200, {"counts": {"stats": 2}})
    assert json.loads(succeed(thali.repo, "online", "count", "-o", "json")) == {"stats": 2}
    assert api(thali, listener, "POST", "/rows/truncate", {"featureView": "stats"}) == (200, {"truncated": "stats"})
    assert trips(thali) == [None, None, None]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/rows/delete", {"featureView": "nope", "entities": {}}, 404, "nope"),
        ("/rows/delete", {"featureView": "better", "entities": {}}, 400, "not stored online"),
        ("/rows/delete", {"featureView": "stats", "entities": {}}, 400, "driver_id"),
        ("/rows/delete", {"featureView": "stats", "entities": {"rider": [1]}}, 400, "no join key `rider`"),
        ("/rows/delete", {"featureView": "stats", "entities": {"driver_id": 1}}, 400, "no list"),
        ("/rows/delete", {"featureView": "stats", "entities": {"driver_id": ["x"]}}, 400, "driver_id"),
        ("/rows/truncate", {}, 400, "featureView"),
        ("/rows/truncate", {"featureView": "stats", "really": True}, 400, "really"),
    ],
)
def test_mistakes_delete_nothing(thali: Thali, path: str, body: Any, status: int, says: str) -> None:
    answered, answer = api(thali, "ui", "POST", path, body)
    assert answered == status and says in json.dumps(answer), answer
    assert trips(thali) == [10, 20, 30]


def test_a_form_of_another_site_deletes_nothing(thali: Thali) -> None:
    import urllib.error
    import urllib.request

    url = f"{thali.url('ui')}/api/thali/v1/rows/truncate"
    form = urllib.request.Request(url, json.dumps({"featureView": "stats"}).encode(), {"Content-Type": "text/plain"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(form)
    assert refused.value.code == 400 and trips(thali) == [10, 20, 30]


@pytest.mark.parametrize("path", ["/chat", "/ws/chat"])
def test_the_chat_page_is_said_not_to_be_there(thali: Thali, path: str) -> None:
    status, answer = http("GET", f"{thali.url('online')}{path}")
    assert status == 404 and "chat page is not served" in answer["detail"], answer
    status, answer = http("POST", f"{thali.url('online')}/chat", {"messages": []})
    assert status == 200 and "dummy response" in answer["response"]
