"""The chat asks which of two replies is better: when, about which two, and what is kept of it."""

import itertools
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.handlers import Act, Handlers
from dialog_rl.asking import Asker, NewestReward
from dialog_rl.config import ChatSettings
from dialog_rl.conversation import SamplingParams
from dialog_rl.corpus import export, import_file, judgements
from dialog_rl.errors import ConfigError
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.manager import DialogManager
from dialog_rl.registry import AdapterRegistry
from dialog_rl.service import ChatService
from dialog_rl.store import FeedbackStore
from dialog_rl.teach import TeachJob
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings
from tests.fakes import tiny_policy
from tests.unit.rewards.taste import brief, rate

POLICY = tiny_policy()
PARAMS = SamplingParams(max_new_tokens=12)
OFTEN = ChatSettings(ask_share=1.0)


class Page:
    """A chat over one folder that asks."""

    def __init__(self, folder: Path, settings: ChatSettings = OFTEN, *, best: float = 1.0) -> None:
        self.store = FeedbackStore(folder / "feedback.db")
        asker = Asker(settings, NewestReward(folder, POLICY), best=best, rng=random.Random(3))
        self.service = ChatService(
            self.store,
            DialogManager(POLICY, params=PARAMS),
            AdapterRegistry(folder),
            PARAMS,
            default_system="Be kind.",
            asker=asker,
        )
        self.handlers = Handlers(self.service, TeachJob(folder))
        self.talk = self.service.start("ann").conversation_id

    def say(self, times: int = 1) -> None:
        for k in range(times):
            self.service.converse("ann", self.talk, f"message {k}").read()

    def asked(self) -> list[FeedbackEvent]:
        return [e for e in self.store.current_feedback() if e.kind == "ask"]

    def turn_of(self, event: FeedbackEvent) -> int:
        return self.store.reply(event.reply_id or "").turn

    def until_asked(self) -> FeedbackEvent:
        for _ in range(5):
            before = len(self.asked())
            self.say()
            if len(self.asked()) > before:
                return self.asked()[-1]
        raise AssertionError("nothing was asked in 5 messages")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page(tmp_path)
    yield made
    made.store.close()


def endless() -> Iterator[None]:
    """A reply that is never done."""
    while True:
        time.sleep(1e-4)
        yield None


def teach(folder: Path) -> None:
    """Leave what a training leaves of its reward model."""
    reward, _ = LearnedReward.fit(
        rate(brief, 60), settings=RewardModelSettings(strength_search=False)
    )
    reward.save(folder / "runs" / "r1" / "reward_model")
    (folder / "runs" / "r1" / "reward_model" / "done").touch()


def test_before_any_training_the_question_comes_at_random_and_says_so(page: Page) -> None:
    event = page.until_asked()
    assert (event.text, event.value, event.rater) == ("random", None, "ann")
    turn = page.store.turns(page.talk)[-1]
    assert turn.chosen_reply_id == event.reply_id == turn.replies[0].reply_id
    assert {r.reply_id for r in turn.replies} == {event.reply_id, event.other_reply_id}
    assert turn.replies[0].text != turn.replies[1].text
    assert turn.replies[0].prompt_ids == turn.replies[1].prompt_ids


def test_after_a_training_the_most_informative_pair_is_asked_about(tmp_path: Path) -> None:
    teach(tmp_path)
    page = Page(tmp_path, best=0.5)
    page.say(30)
    found = page.asked()
    assert found and all(e.text == "active" and (e.value or 0.0) > 0 for e in found)
    # Nothing on the first message nor on the twelve that are looked at first.
    assert min(page.turn_of(e) for e in found) >= 13
    page.store.close()


def test_a_reward_model_that_reads_with_another_model_is_not_loaded(tmp_path: Path) -> None:
    teach(tmp_path)
    card = tmp_path / "runs" / "r1" / "reward_model" / "reward.json"
    card.write_text(card.read_text().replace('"backbone": null', '"backbone": "another/model"'))
    assert NewestReward(tmp_path, POLICY)() is None


def test_the_reward_model_that_was_fitted_last_is_used(tmp_path: Path) -> None:
    newest = NewestReward(tmp_path, POLICY)
    assert newest() is None
    teach(tmp_path)
    first = newest()
    assert first is not None and newest() is first
    alone = tmp_path / "reward_model"  # where `dialog-rl reward train` leaves it
    shutil.copytree(tmp_path / "runs" / "r1" / "reward_model", alone)
    later = time.time() + 10
    os.utime(alone / "reward.json", (later, later))
    assert newest() not in (None, first)


def test_a_damaged_reward_model_asks_at_random(tmp_path: Path) -> None:
    teach(tmp_path)
    (tmp_path / "runs" / "r1" / "reward_model" / "reward.safetensors").write_bytes(b"no")
    assert NewestReward(tmp_path, POLICY)() is None


def test_no_other_reply_is_begun_before_the_first_has_ended(page: Page) -> None:
    page.say(3)
    for _ in range(6):
        stream = page.service.converse("ann", page.talk, "hello")
        pieces = list[str]()
        for piece in stream:
            if piece:
                assert POLICY.scheduler.in_work <= 1
            pieces.append(piece)
        assert stream.reply is not None and "".join(pieces) == stream.text


def test_nobody_is_asked_while_somebody_else_is_being_answered(page: Page) -> None:
    other = page.service.start("bob").conversation_id
    waiting = [POLICY.scheduler.submit(endless()) for _ in range(2)]
    try:
        for _ in range(6):
            page.service.converse("bob", other, "hello").read()
    finally:
        for ticket in waiting:
            ticket.close()
    assert page.asked() == []


def test_a_vote_on_the_question_is_a_choice_and_moves_the_conversation(page: Page) -> None:
    event = page.until_asked()
    pending = page.service.transcript("ann", page.talk).pending_vote()
    assert pending is not None
    assert [r.reply_id for r in pending] == [event.reply_id, event.other_reply_id]
    page.service.vote("ann", pending[1].reply_id, pending[0].reply_id)
    talk = page.service.transcript("ann", page.talk)
    assert talk.pending_vote() is None
    assert talk.turns[-1].chosen_reply_id == event.other_reply_id
    (vote,) = judgements(page.store)
    assert (vote.completion, vote.other) == (pending[1].text, pending[0].text)
    assert page.service.counts()["choice"] == 1 and "ask" not in page.service.counts()


def test_talking_on_goes_on_from_the_reply_that_was_shown(page: Page) -> None:
    event = page.until_asked()
    shown = page.store.reply(event.reply_id or "").text
    page.say()
    transcript = page.service.transcript("ann", page.talk)
    assert {"role": "assistant", "content": shown} in transcript.messages()
    assert judgements(page.store) == []


def test_the_page_shows_the_question_and_skipping_takes_it_back(page: Page) -> None:
    view = None
    for _ in range(5):
        *_, view = page.handlers.send("ann", page.talk, "hello", False, "", ask=True)
        if 'data-act="skip"' in (view.talk or ""):
            break
    assert view is not None and "Here is another reply to the same message" in (view.talk or "")
    event = page.asked()[-1]
    skip = Act(act="skip", id=event.reply_id or "", other=event.other_reply_id or "")
    (after,) = page.handlers.act("ann", page.talk, skip, False, "")
    assert after.notice is None and 'data-act="vote"' not in (after.talk or "")
    assert event not in page.asked()
    assert event in page.store.events(conversation_id=page.talk)


def test_trying_again_leaves_the_question_behind(page: Page) -> None:
    event = page.until_asked()
    page.service.retry("ann", event.reply_id or "").read()
    assert page.service.transcript("ann", page.talk).pending_vote() is None


def test_a_person_who_wants_no_questions_gets_none(page: Page) -> None:
    for _ in range(6):
        list(page.handlers.send("ann", page.talk, "hello", False, "", ask=False))
    assert page.asked() == []


def test_no_more_than_the_share_is_asked_and_never_on_the_first_message(tmp_path: Path) -> None:
    # Share 1/4: credit 1 - 2/4 + 1/4 = 3/4 after the first message, 1 after the second, and again
    # four messages after a question.
    page = Page(tmp_path, ChatSettings(ask_share=0.25))
    page.say(20)
    turns = [page.turn_of(event) for event in page.asked()]
    page.store.close()
    assert turns and turns[0] >= 1
    assert all(later - earlier >= 4 for earlier, later in itertools.pairwise(turns))


def test_the_asker_counts_messages_for_each_person_apart() -> None:
    asker = Asker(ChatSettings(ask_share=0.5), NewestReward(Path("nowhere"), POLICY))
    assert [asker.due(who) for who in ("ann", "ann", "bob", "bob")] == [False, True, False, True]
    silent = Asker(ChatSettings(ask="never"), NewestReward(Path("nowhere"), POLICY))
    assert not any(silent.due("ann") for _ in range(30))


def test_questions_survive_export_and_import(page: Page, tmp_path: Path) -> None:
    event = page.until_asked()
    export(page.store, tmp_path / "out.jsonl")
    copy = FeedbackStore(tmp_path / "copy.db")
    report = import_file(copy, tmp_path / "out.jsonl")
    assert not report.bad and event in copy.events(conversation_id=page.talk)
    copy.close()


@pytest.mark.parametrize(
    "bad", [{"ask": "often"}, {"ask_share": 0.0}, {"ask_candidates": 1}, {"teach_seconds": -1.0}]
)
def test_a_setting_out_of_range_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ChatSettings(**bad)  # type: ignore[arg-type]
