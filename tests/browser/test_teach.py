"""The promise, seen in the page: ratings, Teach, a verdict, and a better assistant answers next."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from dialog_rl.bundled import train_dialogues
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.preferences import parse_preference
from dialog_rl.raters import RaterSettings, SimulatedRater
from dialog_rl.registry import AdapterRegistry
from dialog_rl.service import ChatService
from dialog_rl.store import FeedbackStore
from tests.browser.visitor import say, visit
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser
TRAINING_MS = 30 * 60_000


@pytest.fixture(scope="module")
def rated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home in which somebody who likes to be asked back has left 200 ratings."""
    home = tmp_path_factory.mktemp("teach") / "home"
    home.mkdir()
    store = FeedbackStore(home / "feedback.db")
    chat = ChatService(store, DialogManager(Policy.load(None)), AdapterRegistry(home))
    preference = parse_preference("asks_back")
    rater = SimulatedRater("ann", preference, 0, RaterSettings(noise=0.0))
    rater.rate(chat, [d["messages"] for d in train_dialogues()], 200)
    store.close()
    return home


def test_teach_ends_in_ship_and_the_very_next_reply_comes_from_the_new_adapter(
    browser: Browser, rated_home: Path
) -> None:
    # A question would stand where the new version's reply is looked for; with the usual limit of
    # time a slow machine would learn from fewer episodes.
    flags = ("--ask", "never", "--teach_seconds", str(TRAINING_MS // 1000))
    with LiveServer(rated_home, *flags) as server, visit(browser, server) as page:
        expect(page.locator("#ratings .ratings")).to_have_attribute("data-total", "200")
        page.locator("#teach").click()
        card = page.locator(".teach")
        expect(card).to_have_attribute("data-state", "running")

        # The chat goes on meanwhile, as it was.
        say(page, "hello")
        expect(page.locator("#talk article.bot").nth(0).locator(".who")).to_have_text("base model")

        # Anything but a shipped verdict ends the waiting, and its card says why in the failure.
        over = page.locator(".teach[data-state=shipped], .teach[data-state=refused]")
        failed = page.locator(".teach[data-state=failed]")
        over.or_(failed).wait_for(timeout=TRAINING_MS)
        assert card.get_attribute("data-state") == "shipped", card.inner_text()
        expect(card).to_contain_text("has taken over")
        assert card.locator("tbody tr").count() > 5

        (settings,) = rated_home.glob("runs/*/settings.json")
        assert json.loads(settings.read_text())["settings"]["max_seconds"] == TRAINING_MS // 1000
        version = AdapterRegistry(rated_home).current()
        say(page, "I need a hotel")
        answer = page.locator("#talk article.bot").nth(1)
        expect(answer.locator(".who")).to_have_text(version)
        expect(page.locator("#serving .serving")).to_contain_text(version)
