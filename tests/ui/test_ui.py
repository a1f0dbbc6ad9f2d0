"""Every page of the web page in a real browser, against a running server with the flights project in it."""

import functools
import json
import re
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import expect

STATES = {"running", "succeeded", "failed", "cancelled"}

ISO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
AGE = re.compile(r"\d+ (s|min|h|d|ms)")

# kind of page -> (REST path, key of the list, how to find the name)
LISTS = {
    "feature-view": ("feature_views", "featureViews", lambda item: item["spec"]["name"]),
    "feature-service": ("feature_services", "featureServices", lambda item: item["spec"]["name"]),
    "entity": ("entities", "entities", lambda item: item["spec"]["name"]),
    "data-source": ("data_sources", "dataSources", lambda item: item["name"]),
    "data-set": ("saved_datasets", "savedDatasets", lambda item: item["spec"]["name"]),
    "label-view": ("label_views", "featureViews", lambda item: item["spec"]["name"]),
    "permissions": ("permissions", "permissions", lambda item: item["spec"]["name"]),
}
# These the flights project must have; the others may be empty and must then say what to do.
REQUIRED = {"feature-view", "feature-service", "entity", "data-source"}


def names(server, kind):
    path, key, name = LISTS[kind]
    return [name(item) for item in server.list(path, key) if name(item) != "__dummy"]


def assert_sound(watched, where):
    """No error, no foreign request, nothing wider than the screen."""
    assert watched.problems == [], where
    wide = watched.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{where} scrolls sideways by {wide} px"
    cut = watched.page.evaluate(
        "[...document.querySelectorAll('main table')].filter(t => t.offsetWidth > t.parentElement.clientWidth).map(t => t.ariaLabel)"
    )
    assert cut == [], f"tables of {where} are wider than their panels"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_shows_its_objects(server, open_page, width, scheme):
    watched = open_page(width, scheme)
    main = watched.page.locator("main")

    response = watched.open("/")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    expect(main).to_contain_text(server.project)
    assert_sound(watched, "/")

    for page in ["", "features", "lineage", "jobs", "lookup"]:
        watched.open(server.page(*filter(None, [page])))
        assert_sound(watched, page or "home")

    for kind in LISTS:
        found = names(server, kind)
        watched.open(server.page(kind))
        if not found:
            assert kind not in REQUIRED, f"the project under test has no {kind}"
            expect(main.locator(".empty")).to_be_visible()
        for name in found:
            expect(main.get_by_role("link", name=name, exact=True).first).to_be_visible()
        assert_sound(watched, kind)
        # Every object once; of each kind one is enough to see the other sizes and colours.
        for name in found if (width, scheme) == (1280, "light") else found[:1]:
            watched.open(server.page(kind, quote(name, safe="")))
            expect(main.get_by_role("heading", level=1)).to_have_text(name)
            assert_sound(watched, f"{kind} {name}")

    for tab in ["lineage", "jobs", "definition"]:
        watched.open(f"{server.page('feature-view', server.view)}?tab={tab}")
        expect(main.locator("nav.tabs [aria-current=page]")).to_have_text(tab.capitalize())
        assert_sound(watched, tab)
    background = watched.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    channels = [int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(channels) < 80) == (scheme == "dark"), background


def test_features_show_their_types(server, open_page):
    features = server.list("features", "features")
    assert features
    watched = open_page()
    watched.open(server.page("features"))
    for feature in features:
        row = watched.page.locator("main tbody tr").filter(
            has=watched.page.get_by_role("link", name=feature["name"], exact=True)
        ).filter(has=watched.page.get_by_role("link", name=feature["featureView"], exact=True))
        expect(row.first).to_contain_text(feature["type"])
    first = features[0]
    watched.open(server.page("feature-view", first["featureView"], "feature", first["name"]))
    expect(watched.page.locator("main .facts")).to_contain_text(first["type"])
    assert_sound(watched, "feature")


def test_lineage_links_the_view_to_its_surroundings(server, open_page):
    view = server.get(f"/api/v1/feature_views/{server.view}?project={server.project}")
    watched = open_page()
    watched.open(f"{server.page('feature-view', server.view)}?tab=lineage")
    graph = watched.page.locator("main .graph")
    for kind, name in [
        ("feature view", server.view),
        ("data source", view["spec"]["batchSource"]["name"]),
        ("entity", view["spec"]["entities"][0]),
        ("feature", view["spec"]["features"][0]["name"]),
    ]:
        expect(graph.get_by_role("link", name=f"{kind} {name}", exact=True)).to_be_visible()
    assert graph.locator(".edges path").count() >= 3
    graph.get_by_role("link", name=f"entity {view['spec']['entities'][0]}", exact=True).click()
    expect(watched.page).to_have_url(server.url + server.page("entity", view["spec"]["entities"][0]))
    assert_sound(watched, "lineage")


@pytest.mark.parametrize("width", [1280, 390])
def test_lookup_shows_value_and_event_time(server, open_page, width):
    watched = open_page(width)
    watched.open(server.page("feature-view", server.view))
    form = watched.page.get_by_role("form", name="Online lookup")
    form.get_by_role("button", name="Look up").click()
    expect(form.get_by_role("status")).to_contain_text("is needed")
    for key, value in server.keys.items():
        form.locator(f"input[name='{key}']").fill(value)
    form.get_by_role("button", name="Look up").press("Enter")
    expect(form.get_by_role("status")).to_contain_text("Read in")
    table = watched.page.get_by_role("table", name="Features")
    present = table.locator("tbody tr").filter(has_text="present")
    expect(present.first).to_be_visible()
    expect(present.locator("td[data-label='Value'] .value").first).not_to_be_empty()
    expect(present.locator("td[data-label='Event time (UTC)'] time").first).to_have_attribute("datetime", ISO_TIME)
    expect(present.locator("td[data-label='Age']").first).to_contain_text(AGE)
    assert_sound(watched, "lookup")

    # The address says what was looked up, so it can be sent to somebody.
    address = watched.page.url
    assert urlencode({f"k.{key}": value for key, value in server.keys.items()}) in address
    watched.page.reload()
    expect(present.first).to_be_visible()


def test_lookup_page_reads_a_view(server, open_page):
    watched = open_page()
    query = urlencode({"of": f"view:{server.view}", **{f"k.{key}": value for key, value in server.keys.items()}})
    watched.open(f"{server.page('lookup')}?{query}")
    expect(watched.page.get_by_role("combobox", name="Feature service or view")).to_have_value(f"view:{server.view}")
    expect(watched.page.locator("main tbody tr").filter(has_text="present").first).to_be_visible()
    assert_sound(watched, "lookup page")


def test_jobs_show_their_true_state(server, open_page):
    jobs = server.get(f"/api/thali/v1/jobs?project={server.project}")["jobs"]
    assert jobs, "the server under test has run nothing yet"
    watched = open_page()
    watched.open(server.page("jobs"))
    states = watched.page.get_by_role("table", name="jobs").locator("td[data-label='State']").all_inner_texts()
    assert len(states) >= min(len(jobs), 200)
    assert set(states) <= STATES
    assert_sound(watched, "jobs")


def job(state, **more):
    return {
        "id": "1", "project": "p", "featureView": "weather", "kind": "materialize", "trigger": "cli", "state": state,
        "windowStart": "2013-01-01T00:00:00Z", "windowEnd": "2013-01-02T00:00:00Z", "startedAt": "2013-01-02T00:00:00Z",
        "endedAt": None, "rowsRead": 10, "rowsWritten": 5, "rowsResumed": 0, "chunks": 1, "error": None, **more,
    }  # fmt: skip


def test_a_running_job_is_followed_and_its_error_shown(server, open_page):
    watched = open_page()
    answers = [job("running"), job("running", rowsRead=1234), job("failed", endedAt="2013-01-02T00:01:00Z", error="disk is full")]

    def answer(route):
        route.fulfill(json={"jobs": [answers.pop(0) if len(answers) > 1 else answers[0]]})

    watched.page.route("**/api/thali/v1/jobs?*", answer)
    watched.open(server.page("jobs"))
    row = watched.page.get_by_role("table", name="jobs").locator("tbody")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("failed", timeout=15_000)
    expect(row).to_contain_text("disk is full")
    assert_sound(watched, "jobs")


def test_filters_live_in_the_address(server, open_page):
    found = [feature["name"] for feature in server.list("features", "features")]
    watched = open_page()
    watched.open(server.page("features"))
    box = watched.page.get_by_role("searchbox", name="Filter features")
    rows = watched.page.get_by_role("table", name="features").locator("tbody tr")
    box.fill(found[0])
    expect(watched.page).to_have_url(f"{server.url}{server.page('features')}?{urlencode({'q': found[0]})}")
    expect(rows.first).to_contain_text(found[0])
    watched.page.reload()
    expect(box).to_have_value(found[0])
    box.fill("no such thing at all")
    watched.page.get_by_role("button", name="Clear filters").click()
    expect(rows).to_have_count(len(found))
    watched.page.get_by_role("button", name="Feature", exact=True).click()
    expect(watched.page.get_by_role("columnheader", name="Feature", exact=True)).to_have_attribute("aria-sort", "ascending")
    assert "sort=Feature" in watched.page.url


def test_everything_is_reachable_with_the_keyboard(server, open_page):
    watched = open_page()
    watched.open(server.page())
    watched.page.keyboard.press("Tab")
    expect(watched.page.get_by_role("link", name="Skip to content")).to_be_focused()
    watched.page.keyboard.press("/")
    expect(watched.page.get_by_role("dialog", name="Jump to")).to_be_visible()
    watched.page.keyboard.type(server.view)
    expect(watched.page.get_by_role("listbox", name="Matches").get_by_role("option").first).to_contain_text(server.view)
    watched.page.keyboard.press("Enter")
    expect(watched.page.get_by_role("heading", level=1)).to_have_text(server.view)
    expect(watched.page.get_by_role("dialog")).to_have_count(0)
    watched.page.keyboard.press("/")
    watched.page.keyboard.press("Escape")
    expect(watched.page.get_by_role("dialog")).to_have_count(0)
    assert_sound(watched, "keyboard")


def test_theme_is_chosen_and_kept(server, open_page):
    watched = open_page(scheme="light")
    watched.open(server.page())
    button = watched.page.get_by_role("button", name="Theme")
    button.click()
    expect(watched.page.locator("html")).to_have_attribute("data-theme", "light")
    button.click()
    expect(watched.page.locator("html")).to_have_attribute("data-theme", "dark")
    watched.page.reload()
    expect(watched.page.locator("html")).to_have_attribute("data-theme", "dark")


def test_errors_show_what_the_server_said(server, open_page):
    watched = open_page()
    watched.open(server.page("feature-view", "no_such_view"))
    expect(watched.page.get_by_role("alert")).to_contain_text("no_such_view")
    watched.page.route("**/api/v1/entities?*", lambda route: route.fulfill(status=503, body=json.dumps({"detail": "store is away"})))
    watched.open(server.page("entity"))
    expect(watched.page.get_by_role("alert")).to_contain_text("store is away")
    watched.page.unroute("**/api/v1/entities?*")
    watched.page.get_by_role("button", name="Try again").click()
    expect(watched.page.get_by_role("table", name="entities")).to_be_visible()


def fulfill_empty(key, route):
    route.fulfill(json={key: [], "pagination": {}})


def test_empty_lists_say_what_to_do(server, open_page):
    watched = open_page(width=390)
    for kind, (path, key, _) in LISTS.items():
        watched.page.route(f"**/api/v1/{path}?*", functools.partial(fulfill_empty, key))
    for kind in LISTS:
        watched.open(server.page(kind))
        expect(watched.page.locator("main .empty")).to_contain_text("yet")
        expect(watched.page.locator("main .empty code, main .empty p").first).to_be_visible()
    assert_sound(watched, "empty lists")
