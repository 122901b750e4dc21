"""The page as somebody meets it who has never seen it, in a real browser."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visitor import PATIENCE_MS, say, visit
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser
QUESTION = "I am looking for a cheap restaurant in the north."


def test_a_newcomer_talks_rates_and_finds_it_all_again_after_a_restart(
    browser: Browser, server: LiveServer
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    with visit(browser, server) as page:
        # The welcome says what to do, and the catalogue is there to read.
        expect(page.locator("#talk .welcome")).to_contain_text("Rate")
        expect(page.locator("#system-prompt textarea")).to_have_value(re.compile("restaurant"))
        rated = page.locator("#ratings .ratings")
        before = int(rated.get_attribute("data-total") or "")
        say(page, QUESTION)
        first = page.locator("#talk article.bot").nth(0)
        expect(first.locator(".bubble")).not_to_be_empty()
        expect(first.locator(".who")).to_have_text("base model")
        answered = first.locator(".bubble").inner_text()

        # Thumbs up, a reason, a comment, stars.
        first.locator("[data-act=up]").click()
        expect(first.locator("[data-act=up]")).to_have_attribute("aria-pressed", "true")
        first.locator(".chip", has_text="polite").click()
        expect(first.locator(".chip.on")).to_have_text("polite")
        first.locator(".comment input").fill("quick and kind")
        first.locator("[data-act=comment]").click()
        expect(first.locator(".given q")).to_have_text("quick and kind")
        first.locator("[data-act=stars][data-value='4']").click()
        expect(first.locator(".stars")).to_have_attribute("data-given", "4")

        # Write a better reply: it takes the place of the old one, which stays readable.
        first.locator("[data-act=edit]").click()
        expect(first.locator("textarea")).to_have_value(answered)
        first.locator("textarea").fill("Velvet Lark, 12 Chestnut Lane. Shall I book?")
        first.locator("[data-act=correct]").click()
        expect(first.locator(".bubble")).to_have_text(
            "Velvet Lark, 12 Chestnut Lane. Shall I book?"
        )

        # Retry the last reply.
        say(page, "What is the phone number?")
        second = page.locator("#talk article.bot").nth(1)
        expect(second.locator("[data-act=retry]")).to_be_visible()
        second.locator("[data-act=retry]").click()
        expect(second.locator("summary")).to_have_text("1 earlier try")

        # Two candidates, one vote.
        page.locator("#two input").check()
        say(page, "Book a table for two, please.")
        expect(page.locator("#talk .vote [data-act=vote]")).to_have_count(3)
        preferred = page.locator("#talk .vote .says").nth(1).inner_text()
        page.locator("#talk .vote [data-act=vote][data-value=win]").nth(1).click()
        third = page.locator("#talk article.bot").nth(2)
        expect(third.locator(".bubble")).to_have_text(preferred)
        expect(third.locator("summary")).to_contain_text("preferred")

        # The conversation as a whole.
        page.locator("#talk .end [data-value='5']").click()
        expect(page.locator("#talk .end .stars")).to_have_attribute("data-given", "5")
        expect(rated).to_have_attribute("data-total", str(before + 6))
        seen = page.locator("#talk").inner_text()
        cookies = page.context.cookies()

    server.kill()
    server.start()
    # Another port after the restart is another origin, but a cookie knows no ports.
    with visit(browser, server, cookies) as page:
        expect(page.locator("#talk article.bot")).to_have_count(3)
        assert page.locator("#talk").inner_text() == seen
        first = page.locator("#talk article.bot").nth(0)
        expect(first.locator("[data-act=up]")).to_have_attribute("aria-pressed", "true")
        expect(first.locator(".stars")).to_have_attribute("data-given", "4")
        expect(page.locator("#talk .end .stars")).to_have_attribute("data-given", "5")
        expect(page.locator("#shelf .row.on")).to_contain_text("cheap restaurant")
        rated = page.locator("#ratings .ratings")
        expect(rated).to_have_attribute("data-total", str(before + 6))


def test_two_people_see_only_their_own_conversations(browser: Browser, server: LiveServer) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    with visit(browser, server) as ann, visit(browser, server) as bob:
        say(ann, "My secret is violet.")
        say(bob, "Hello there")
        expect(ann.locator("#talk article.bot .bar")).to_have_count(1)
        expect(bob.locator("#talk article.bot .bar")).to_have_count(1)
        for person, word in ((ann, "violet"), (bob, "Hello")):
            person.reload()
            expect(person.locator("#talk article.me")).to_contain_text(word)
            expect(person.locator("#shelf .row")).to_have_count(1)
        assert "violet" not in bob.content()


def test_markup_and_template_signs_show_as_they_were_typed(
    browser: Browser, server: LiveServer
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    nasty = (
        "<img src=x onerror=alert(1)><script>alert(2)</script> ${alert(3)} {{7*7}} `x` "
        '</textarea><svg onload=alert(4)> " onmouseover=alert(5) <|end|> javascript:alert(6)'
    )
    with visit(browser, server) as page:
        say(page, nasty)
        expect(page.locator("#talk article.me .bubble")).to_have_text(nasty)
        answer = page.locator("#talk article.bot").nth(0)
        answer.locator("[data-act=edit]").click()
        answer.locator("textarea").fill(nasty)
        answer.locator("[data-act=correct]").click()
        expect(answer.locator(".bubble")).to_have_text(nasty)
        answer.locator("[data-act=down]").click()
        answer.locator(".comment input").fill(nasty)
        answer.locator("[data-act=comment]").click()
        expect(answer.locator(".given q")).to_have_text(nasty)
        page.reload()
        expect(page.locator("#talk article.me .bubble")).to_have_text(nasty)
        assert page.locator("#talk img, #talk script, #shelf img").count() == 0


def test_a_message_that_is_too_long_is_explained_and_stays_in_the_box(
    browser: Browser, server: LiveServer
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    with visit(browser, server) as page:
        huge = "a" * 1_000_000
        page.locator("#message textarea").evaluate(
            "(box, text) => { box.value = text; box.dispatchEvent(new Event('input')); }", huge
        )
        page.locator("#send").click()
        expect(page.locator(".toast-body")).to_contain_text("at most 20,000 are allowed")
        assert len(page.locator("#message textarea").input_value()) == 1_000_000
        expect(page.locator("#talk .welcome")).to_be_visible()


def test_a_button_that_is_drawn_anew_while_it_is_pressed_still_works(
    browser: Browser, server: LiveServer
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    with visit(browser, server) as page:
        example = page.locator("#talk .example").first
        example.hover()
        page.mouse.down()
        page.evaluate("""() => {
            const drawn = document.querySelector("#talk .examples");
            drawn.replaceWith(drawn.cloneNode(true));
        }""")
        page.mouse.up()
        expect(page.locator("#talk article.bot .bar")).to_have_count(1)


def test_a_new_conversation_can_start_from_an_edited_catalogue(
    browser: Browser, server: LiveServer
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    catalogue = "You are the city concierge.\n- restaurant, cheap, west, thai: Lotus, phone 1234"
    with visit(browser, server) as page:
        say(page, "Hello")
        expect(page.locator("#talk article.bot .bar")).to_have_count(1)
        page.locator("#system-prompt textarea").fill(catalogue)
        page.locator("#with-prompt").click()
        expect(page.locator("#talk .welcome")).to_be_visible()
        page.locator("#talk .example").first.click()
        expect(page.locator("#talk article.bot .bar")).to_have_count(1)
        page.reload()
        expect(page.locator("#system-prompt textarea")).to_have_value(catalogue)
        expect(page.locator("#shelf .row")).to_have_count(2)
        page.locator("#shelf .row", has_text="Hello").click()
        expect(page.locator("#system-prompt textarea")).not_to_have_value(catalogue)
