"""One chat server for all tests that talk to it over HTTP."""

from collections.abc import Iterator

import pytest

from tests.live_server import LiveServer, tiny_flags


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Serve a tiny model; every test is another person."""
    folder = tmp_path_factory.mktemp("chat")
    with LiveServer(folder / "home", *tiny_flags(folder)) as running:
        yield running
