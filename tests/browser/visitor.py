"""What a visitor of the page does in every browser test."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect

from tests.live_server import LiveServer

PATIENCE_MS = 120_000


@contextmanager
def visit(
    browser: Browser, server: LiveServer, cookies: list[dict[str, object]] | None = None
) -> Iterator[Page]:
    """Open the page as one person; fails on any error in the page or request to elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    if cookies is not None:
        context.add_cookies(cookies)  # type: ignore[arg-type]
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(f"script error: {error}"))
    page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))

    def note(url: str) -> None:
        if not url.startswith((server.url, "data:", "blob:")):
            trouble.append(f"request to {url}")

    page.on("request", lambda request: note(request.url))
    page.goto(server.url)
    expect(page.locator("#serving .serving")).to_be_visible(timeout=PATIENCE_MS)
    yield page
    assert trouble == []
    context.close()


def say(page: Page, text: str) -> None:
    page.locator("#message textarea").fill(text)
    page.locator("#send").click()
