"""Fixtures that every test file may use; what they do is in `harness.py`."""

import pytest

import harness


@pytest.fixture(scope="session", params=harness.LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """All roles in one process, or one process per role: a scenario has to hold for both."""
    return request.param
