"""Take the README's picture: ``python -m tests.browser.screenshot docs/chat.png``.

A person asks for a restaurant, rates the answer by whether it names the right venue, and asks for
two candidates. Nothing is staged: the bundled model says what it says.
"""

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser.conftest import CHROMIUM
from tests.live_server import LiveServer

PATIENCE_MS = 300_000


def take(target: Path) -> None:
    """Write the picture."""
    expect.set_options(timeout=PATIENCE_MS)
    with (
        tempfile.TemporaryDirectory() as home,
        LiveServer(Path(home)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(server.url)
        catalogue = page.locator("#system-prompt textarea")
        expect(catalogue).to_have_value(re.compile("restaurant"))
        wanted = re.search(r"restaurant, cheap, north, [^:]+: ([^,]+),", catalogue.input_value())
        page.fill("#message textarea", "I am looking for a cheap restaurant in the north.")
        page.press("#message textarea", "Enter")
        reply = page.locator("#talk article.bot").first
        expect(reply.locator(".bar")).to_have_count(1)
        right = wanted is not None and wanted[1] in reply.locator(".bubble").inner_text()
        reply.locator("[data-act=up]" if right else "[data-act=down]").click()
        reply.locator(".chip", has_text="right facts" if right else "wrong facts").click()
        expect(reply.locator(".chip.on")).to_have_count(1)
        reply.locator("[data-act=comment]").click()
        reply.locator(f"[data-act=stars][data-value='{4 if right else 2}']").click()
        expect(reply.locator(".star.on")).to_have_count(4 if right else 2)
        page.locator("#two input").check()
        page.fill("#message textarea", "Could you book a table for two?")
        page.press("#message textarea", "Enter")
        expect(page.locator("#talk .vote [data-act=vote]")).to_have_count(3)
        page.locator("#two input").uncheck()
        page.mouse.move(5, 400)
        page.wait_for_timeout(1000)
        page.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
