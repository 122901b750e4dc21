"""Now and then the page asks which of two replies is better, in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visitor import PATIENCE_MS, say, visit
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser
MOST = 150
"""Messages before a question at the latest: about one in ten is asked about."""


def until_asked(page: Page) -> None:
    """Say hello in new conversations until a reply is followed by a question."""
    question = page.locator("#talk .vote [data-act=skip]")
    answered = page.locator("#talk article.bot .bar")
    for _ in range(MOST):
        page.locator("#new").click()
        expect(page.locator("#talk .welcome")).to_be_visible()
        say(page, "Which hotel is cheap?")
        expect(question.or_(answered)).to_be_visible()
        if question.is_visible():
            return
    pytest.fail(f"nothing was asked after {MOST} messages")


def test_a_question_is_answered_or_skipped_and_the_answer_counts(
    browser: Browser, tmp_path: Path
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    flags = ["--ask", "random", "--ask_share", "1", "--max_new_tokens", "12"]
    with LiveServer(tmp_path / "home", *flags) as server, visit(browser, server) as page:
        rated = page.locator("#ratings .ratings")
        before = int(rated.get_attribute("data-total") or "")
        until_asked(page)
        expect(page.locator("#talk .vote .hint")).to_contain_text("Which one is better?")
        second = page.locator("#talk .vote .says").nth(1).inner_text()
        page.locator("#talk .vote [data-act=vote][data-value=win]").nth(1).click()
        expect(page.locator("#talk article.bot .bubble")).to_have_text(second)
        expect(rated).to_have_attribute("data-total", str(before + 1))

        until_asked(page)
        first = page.locator("#talk .vote .says").nth(0).inner_text()
        page.locator("#talk .vote [data-act=skip]").click()
        expect(page.locator("#talk article.bot .bubble")).to_have_text(first)
        expect(rated).to_have_attribute("data-total", str(before + 1))
