"""Debian's chromium and a chat server with the bundled model, for tests as a person with a page."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from tests.live_server import LiveServer

CHROMIUM = os.environ.get("DIALOG_RL_CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start chromium; where there is none the tests are skipped, under CI they fail."""
    if not Path(CHROMIUM).exists():
        missing = f"no browser at {CHROMIUM}: apt-get install chromium, or set DIALOG_RL_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except Error as error:
            pytest.fail(f"{CHROMIUM} does not start: {error}")
        yield running
        running.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Serve the bundled model; every test is another person. Short replies keep them quick.

    Nothing is asked: a question comes at random, and in its place a test would find no reply.
    """
    home = tmp_path_factory.mktemp("browser") / "home"
    running = LiveServer(home, "--max_new_tokens", "32", "--ask", "never")
    running.start()
    yield running
    running.stop()
