"""What the page shows is made of values, and no text a person wrote keeps a meaning in it."""

from html.parser import HTMLParser

import pytest

from apps import views
from apps.access import owner_of
from apps.api import error_response
from apps.teachview import teach_card
from dialog_rl.conversation import Conversation, Reply, SamplingParams, Turn
from dialog_rl.errors import Busy, DataError, StoreBusy, StoreFull, TooLarge
from dialog_rl.feedback import FeedbackEvent, FeedbackKind
from dialog_rl.limits import check_stars, check_tags, check_text
from dialog_rl.teach import TeachStatus
from dialog_rl.transcript import Transcript, read_marks, read_transcript
from dialog_rl.writing import Claims

NASTY = "<img src=x onerror=alert(1)></textarea><script>x</script>\"'onmouseover=x ${7*7} {{7*7}} `"
HEAD = Conversation(
    conversation_id="c1", owner="ann", system_prompt="Be kind.", title=NASTY, created_at=0.0
)


def reply(reply_id: str, turn: int = 0, text: str = "hello") -> Reply:
    return Reply(
        reply_id=reply_id,
        conversation_id="c1",
        turn=turn,
        prompt_messages=(),
        prompt_ids=(),
        reply_ids=(),
        logprobs=(),
        text=text,
        sampling=SamplingParams(),
        seed=0,
        base_model="b",
        adapter_version="base",
        finish_reason="stop",
        created_at=0.0,
    )


def turn(index: int, said: str, *replies: Reply, chosen: str | None = None) -> Turn:
    return Turn(index=index, user_text=said, replies=replies, chosen_reply_id=chosen)


def event(kind: FeedbackKind, reply_id: str | None = "r1", **fields: object) -> FeedbackEvent:
    return FeedbackEvent(
        event_id="e",
        kind=kind,
        conversation_id="c1",
        rater="ann",
        created_at=0.0,
        reply_id=reply_id,
        **fields,  # type: ignore[arg-type]
    )


class Tags(HTMLParser):
    """Collects tags and attributes as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def tags_in(page: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = Tags()
    reader.feed(page)
    return reader.seen


def everything_nasty() -> list[str]:
    events = [
        event("thumb", value=0.0),
        event("tags", tags=(NASTY[:40],), text=NASTY),
        event("correction", text=NASTY),
    ]
    answered = turn(0, NASTY, reply("r1", 0, NASTY), reply("r2", 0, NASTY), chosen="r1")
    talk = read_transcript(HEAD, [answered], events)
    waiting = read_transcript(HEAD, [turn(0, NASTY, reply("r1", 0, NASTY), reply("r2"))], [])
    verdict = {
        "ship": False,
        "reasons": [NASTY],
        "candidate": NASTY,
        "measures": [{"name": NASTY, "candidate": NASTY, "ok": None}],
    }
    return [
        views.talk(talk),
        views.talk(talk, open_reasons="r1"),
        views.talk(talk, editing="r1"),
        views.talk(waiting),
        views.writing(NASTY, NASTY),
        views.writing(NASTY, NASTY, NASTY),
        views.shelf([HEAD], "c1"),
        views.serving(NASTY, NASTY),
        teach_card(TeachStatus(state="running", stage=NASTY, message=NASTY)),
        teach_card(TeachStatus(state="failed", message=NASTY)),
        teach_card(TeachStatus(state="refused", verdict=verdict, run_id=NASTY)),
    ]


@pytest.mark.parametrize("page", everything_nasty())
def test_text_is_inert_wherever_it_is_shown(page: str) -> None:
    for tag, attributes in tags_in(page):
        assert tag not in ("img", "script", "iframe", "object", "link", "meta")
        assert not [name for name in attributes if name.startswith("on")]
    # gradio fills templates with ${...} and {{...}}; none may come from people.
    assert not any(sign in page for sign in ("${", "{{", "`"))


def test_marks_keep_the_last_word_and_both_sides_of_a_vote() -> None:
    marks, end = read_marks(
        [
            event("thumb", value=1.0),
            event("stars", value=4.0, scale=(1.0, 5.0)),
            event("thumb", value=0.0),
            event("choice", value=1.0, other_reply_id="r2"),
            event("end_rating", reply_id=None, value=2.0, scale=(1.0, 5.0)),
        ]
    )
    assert (marks["r1"].thumb, marks["r1"].stars, marks["r1"].vote) == (False, 4, "won")
    assert (marks["r2"].vote, end) == ("lost", 2)


def test_the_model_reads_corrections_and_choices_and_joins_unanswered_messages() -> None:
    talk = Transcript(
        conversation=HEAD,
        turns=(
            turn(0, "one", reply("r1", 0, "first"), reply("r2", 0, "second"), chosen="r2"),
            turn(1, "two"),
            turn(2, "three", reply("r3", 2, ""), chosen="r3"),
            turn(3, "four", reply("r4", 3, "last"), chosen="r4"),
        ),
    )
    assert [(m["role"], m["content"]) for m in talk.messages()] == [
        ("system", "Be kind."),
        ("user", "one"),
        ("assistant", "second"),
        ("user", "two\nthree\nfour"),
        ("assistant", "last"),
    ]
    assert talk.messages(before_turn=0)[-1] == {"role": "user", "content": "one"}


@pytest.mark.parametrize("text", ["\0", "a\ud83d", "\udc00", "", "\n ", None, 3])
def test_text_that_cannot_be_kept_unchanged_is_refused(text: object) -> None:
    with pytest.raises(DataError):
        check_text(text, "message")


def test_limits_are_inclusive() -> None:
    assert check_text("x" * 20_000, "message")
    with pytest.raises(TooLarge, match="20,001 characters; at most 20,000"):
        check_text("x" * 20_001, "message")
    assert [check_stars(n) for n in (1, 5)] == [1.0, 5.0]
    for wrong in (0, 6, 2.5, True, "3", None):
        with pytest.raises(DataError):
            check_stars(wrong)
    assert check_tags(["x" * 40] * 12)
    with pytest.raises(DataError):
        check_tags(["x"] * 13)


def test_a_claim_is_free_again_when_both_streams_have_ended() -> None:
    claims = Claims()
    release = claims.take("c", 2)
    release()
    with pytest.raises(Busy):
        claims.take("c", 1)
    release()
    claims.take("c", 1)
    with pytest.raises(ValueError, match="broken"), claims.hold("d"):
        raise ValueError("broken")
    claims.take("d", 1)


def test_a_forgotten_claim_lapses_and_its_late_release_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("dialog_rl.writing.time.monotonic", lambda: now[0])
    claims = Claims()
    late = claims.take("c", 1)
    now[0] = Claims.LONGEST_S
    claims.take("c", 1)
    late()
    with pytest.raises(Busy):
        claims.take("c", 1)


def test_the_owner_is_a_digest_of_a_well_formed_cookie_only() -> None:
    owner = owner_of("other=1; dialog_rl_user=" + "a" * 32)
    assert len(owner) == 32 and "a" * 8 not in owner
    for header in ("", "dialog_rl_user=short", "dialog_rl_user=" + "a" * 200, ";;;=", "x"):
        assert owner_of(header) == ""


def test_the_teach_card_tells_what_is_going_on() -> None:
    running = teach_card(
        TeachStatus(state="running", stage="ppo", fraction=0.416, message="update 3", seconds=75)
    )
    assert 'aria-valuenow="42"' in running and "Practising" in running and "1 min 15 s" in running
    measures = [
        {"name": "people", "incumbent": 0.5, "candidate": 0.62, "difference": 0.12}
        | {"low": 0.04, "high": 0.2, "ok": True}
    ]
    shipped = teach_card(
        TeachStatus(
            state="shipped",
            verdict={"ship": True, "candidate": "v1-0a1b2c3d", "reasons": [], "measures": measures},
        )
    )
    assert "v1-0a1b2c3d has taken over" in shipped
    assert "0.12 <small>[0.04, 0.2]</small>" in shipped


def test_a_full_disk_is_507_and_a_busy_store_503_with_a_time_to_try_again():
    full, busy = error_response(StoreFull("no space")), error_response(StoreBusy("held"))
    assert (full.status_code, "retry-after" in full.headers) == (507, False)
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
