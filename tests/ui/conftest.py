"""A browser, and a running server, for the tests of the web page.

The server is the one named by `THALI_UI_URL`; without it, the flights project is served from a folder of its own.
"""

import json
import os
import urllib.request
from collections.abc import Iterator

import harness
import pytest
from harness import Thali
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("THALI_CHROMIUM", "/usr/bin/chromium")


class Server:
    """The server under test: its address, and what its API says is in it."""

    def __init__(self, url: str):
        self.url = url
        bootstrap = self.get("/api/thali/v1/bootstrap")
        names = [project["name"] for project in bootstrap["projects"]]
        assert names, "the server under test has no project"
        self.project = os.environ.get("THALI_UI_PROJECT", names[0])
        self.view = os.environ.get("THALI_UI_VIEW", "weather")
        self.keys = dict(pair.split("=", 1) for pair in os.environ.get("THALI_UI_KEYS", "origin=JFK").split(","))

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=20) as response:
            return json.load(response)

    def list(self, path: str, key: str) -> list[dict]:
        return self.get(f"/api/v1/{path}?project={self.project}").get(key, [])

    def page(self, *parts: str) -> str:
        return "/".join(["", "p", self.project, *parts])


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the server under test shows the page."""
    if url := os.environ.get("THALI_UI_URL", "").rstrip("/"):
        yield url
        return
    repo = harness.copy_flights(tmp_path_factory.mktemp("flights-ui"), schedule=True)
    harness.succeed(repo, "apply")
    harness.succeed(repo, "materialize", "2013-12-30T00:00:00", "2014-01-01T00:00:00", "-v", "weather")
    with Thali.serve(repo) as thali:
        yield thali.url("ui")


@pytest.fixture(scope="session")
def server(base_url: str) -> Server:
    return Server(base_url)


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Watched:
    """A browser page that remembers everything that must not happen on it."""

    def __init__(self, page, url: str):
        self.page = page
        self.url = url
        self.problems: list[str] = []
        page.on("console", lambda message: self.note(message.type in ("error", "warning"), f"console: {message.text}"))
        page.on("pageerror", lambda error: self.note(True, f"uncaught: {error}"))
        page.on("request", lambda request: self.note(not request.url.startswith(url + "/"), f"request to {request.url}"))

    def note(self, wrong: bool, text: str):
        if wrong:
            self.problems.append(text)

    def open(self, path: str):
        """Goes to `path` and waits until the page has settled."""
        response = self.page.goto(self.url + path)
        self.page.wait_for_load_state("networkidle")
        self.page.locator("main .loading").first.wait_for(state="detached")
        return response


@pytest.fixture
def open_page(browser, server):
    """Makes watched pages of a given width and colour scheme."""
    contexts = []

    def make(width: int = 1280, scheme: str = "light") -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        contexts.append(context)
        return Watched(context.new_page(), server.url)

    yield make
    for context in contexts:
        context.close()
