"""What each button of the page does. Knows no gradio: values in, :class:`View` values out.

Every handler takes the ``owner`` (who asks) and the id of the conversation that is open in their
browser. An error a person can act on comes back as ``View.notice``; nothing they typed is lost.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from apps import views
from apps.teachview import teach_card
from dialog_rl.errors import DataError, DialogRLError
from dialog_rl.service import ChatService
from dialog_rl.teach import TeachJob, TeachStatus
from dialog_rl.transcript import Marks, Transcript
from dialog_rl.writing import PairStream, ReplyStream

STEP_S = 0.04
"""Least time between two updates of a reply that is being written."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the page shows next; None leaves a part as it is."""

    conversation_id: str | None = None
    talk: str | None = None
    live: str | None = None
    shelf: str | None = None
    serving: str | None = None
    ratings: str | None = None
    system_prompt: str | None = None
    message: str | None = None
    """New content of the message box."""
    notice: str | None = None


@dataclass(frozen=True, kw_only=True)
class TeachView:
    """The Teach card and whether the page should look again soon."""

    card: str
    running: bool
    serving: str
    ratings: str
    notice: str | None = None


@dataclass(frozen=True, kw_only=True)
class Act:
    """One button of the conversation that was pressed; see ``static/page.js``."""

    act: str
    id: str = ""
    other: str = ""
    value: str = ""
    text: str = ""


class Handlers:
    """The page's behaviour over one chat service and one training job."""

    def __init__(self, service: ChatService, teach: TeachJob) -> None:
        self._service = service
        self._teach = teach

    # -- opening ---------------------------------------------------------------------------

    def load(self, owner: str) -> View:
        """Open the newest conversation, or a welcome for somebody new."""
        history = self._service.history(owner)
        return self.open(owner, history[0].conversation_id if history else "")

    def open(self, owner: str, conversation_id: str) -> View:
        """Show a conversation of the owner's; an empty id shows the welcome."""
        try:
            return self._view(owner, conversation_id, with_prompt=True)
        except DialogRLError as error:
            return self._view(owner, "", notice=str(error))

    def new(self, owner: str, system_prompt: str | None = None) -> View:
        """Show an empty conversation; it is kept once something is said in it.

        Args:
            owner: who asks.
            system_prompt: the catalogue to go on with; None for the default one.
        """
        view = self._view(owner, "")
        prompt = system_prompt or self._service.default_system_prompt()
        return View(**{**vars(view), "system_prompt": prompt})

    # -- talking ---------------------------------------------------------------------------

    def send(
        self,
        owner: str,
        conversation_id: str,
        message: str,
        two: bool,
        system_prompt: str,
        *,
        ask: bool = False,
    ) -> Iterator[View]:
        """Send a message and show the reply (or two) while it is written.

        Args:
            owner: who asks.
            conversation_id: the open conversation; empty begins a new one.
            message: what they typed.
            two: two replies side by side.
            system_prompt: of a new conversation.
            ask: whether one reply may be followed by a question which of two is better.
        """
        stream: ReplyStream | PairStream
        try:
            if not conversation_id:
                if not message.strip():
                    raise DataError("the message is empty; type something")
                head = self._service.start(owner, system_prompt, title=message)
                conversation_id = head.conversation_id
            if two:
                stream = self._service.compare(owner, conversation_id, message)
            elif ask:
                stream = self._service.converse(owner, conversation_id, message)
            else:
                stream = self._service.send(owner, conversation_id, message)
        except DialogRLError as error:
            yield View(conversation_id=conversation_id, notice=str(error))
            return
        first = views.writing(message, *([""] * (2 if two else 1)))
        talk = None if len(self._turns(owner, conversation_id)) > 1 else ""
        yield View(conversation_id=conversation_id, live=first, message="", talk=talk)
        yield from self._follow(owner, conversation_id, message, stream)

    def _follow(
        self,
        owner: str,
        conversation_id: str,
        message: str | None,
        stream: ReplyStream | PairStream,
    ) -> Iterator[View]:
        """Show a reply while it is written, then the conversation with it in its place."""
        shown = 0.0
        notice = None
        try:
            for piece in stream:
                now = time.monotonic()
                if now - shown >= STEP_S or not piece:
                    shown = now
                    texts = piece if isinstance(piece, tuple) else (_text_of(stream),)
                    yield View(live=views.writing(message, *texts))
        except DialogRLError as error:
            notice = str(error)
        finally:
            stream.close()
        yield self._view(owner, conversation_id, notice=notice)

    # -- rating ----------------------------------------------------------------------------

    def act(
        self,
        owner: str,
        conversation_id: str,
        act: Act,
        two: bool,
        system_prompt: str,
        *,
        ask: bool = False,
    ) -> Iterator[View]:
        """Do what a button in the conversation or in the list says."""
        try:
            if act.act == "example":
                said = act.value
                yield from self.send(owner, conversation_id, said, two, system_prompt, ask=ask)
            elif act.act == "open":
                yield self.open(owner, act.id)
            elif act.act == "retry":
                stream = self._service.retry(owner, act.id)
                yield View(live=views.writing(None, ""))
                yield from self._follow(owner, conversation_id, None, stream)
            elif act.act == "answer":
                stream = self._service.answer(owner, conversation_id)
                yield View(live=views.writing(None, ""))
                yield from self._follow(owner, conversation_id, None, stream)
            else:
                yield self._rate(owner, conversation_id, act)
        except DialogRLError as error:
            yield View(notice=str(error))

    def _rate(self, owner: str, conversation_id: str, act: Act) -> View:
        """Store one rating and show the conversation with it."""
        service, rid = self._service, act.id
        transcript = service.transcript(owner, conversation_id)
        marks = transcript.marks_on(rid)
        open_reasons = editing = ""
        if act.act in ("up", "down"):
            up = act.act == "up"
            if marks.thumb is up:
                service.withdraw(owner, "thumb", reply_id=rid)
            else:
                service.rate_thumb(owner, rid, up)
                open_reasons = rid
        elif act.act == "stars":
            self._stars(owner, rid, marks, act.value)
            open_reasons = rid if marks.thumb is not None and not marks.tags else ""
        elif act.act == "reason":
            tags = [t for t in marks.tags if t != act.value]
            service.tag(
                owner, rid, tags if len(tags) < len(marks.tags) else [*tags, act.value], act.text
            )
            open_reasons = rid
        elif act.act == "comment":
            if act.text.strip() != (marks.comment or ""):
                service.tag(owner, rid, marks.tags, act.text.strip())
        elif act.act == "edit":
            editing = rid
        elif act.act == "correct":
            editing = self._correct(owner, transcript, rid, act.text)
        elif act.act == "vote":
            service.vote(owner, rid, act.other, tie=act.value == "tie")
        elif act.act == "skip":
            service.withdraw(owner, "ask", reply_id=rid, other_reply_id=act.other)
        elif act.act == "end":
            service.end_rating(owner, conversation_id, _number(act.value))
        elif act.act != "cancel":
            raise DataError(f"the page asked for {act.act[:40]!r}, which is not known; reload it")
        return self._view(owner, conversation_id, open_reasons=open_reasons, editing=editing)

    def _stars(self, owner: str, reply_id: str, marks: Marks, value: str) -> None:
        """Give stars, or take them back when the same star is pressed again."""
        stars = _number(value)
        if marks.stars == stars:
            self._service.withdraw(owner, "stars", reply_id=reply_id)
        else:
            self._service.rate_stars(owner, reply_id, stars)

    def _correct(self, owner: str, transcript: Transcript, reply_id: str, better: str) -> str:
        """Store a better reply; going back to the model's own words takes the old one back."""
        original = next(
            (r.text for t in transcript.turns for r in t.replies if r.reply_id == reply_id), None
        )
        if original is not None and better.strip() == original.strip():
            if transcript.marks_on(reply_id).correction is None:
                raise DataError("that is what it said already; change it, then save")
            self._service.withdraw(owner, "correction", reply_id=reply_id)
        else:
            self._service.correct(owner, reply_id, better)
        return ""

    # -- teaching --------------------------------------------------------------------------

    def teach(self) -> TeachView:
        """Start a training."""
        try:
            return self.teach_view(self._teach.start())
        except DialogRLError as error:
            view = self.teach_view()
            return TeachView(**{**vars(view), "notice": str(error)})

    def teach_view(self, status: TeachStatus | None = None) -> TeachView:
        """Show what the training is doing."""
        status = status or self._teach.status()
        return TeachView(
            card=teach_card(status),
            running=status.state == "running",
            serving=views.serving(*self._service.serving()),
            ratings=views.ratings(self._service.counts()),
        )

    # -- drawing ---------------------------------------------------------------------------

    def _turns(self, owner: str, conversation_id: str) -> tuple[object, ...]:
        return self._service.transcript(owner, conversation_id).turns

    def _view(
        self,
        owner: str,
        conversation_id: str,
        *,
        with_prompt: bool = False,
        open_reasons: str = "",
        editing: str = "",
        notice: str | None = None,
    ) -> View:
        """Draw everything about one conversation."""
        transcript = self._service.transcript(owner, conversation_id) if conversation_id else None
        prompt = None
        if with_prompt and transcript is not None:
            prompt = transcript.conversation.system_prompt
        elif with_prompt:
            prompt = self._service.default_system_prompt()
        return View(
            conversation_id=conversation_id,
            talk=views.talk(transcript, open_reasons=open_reasons, editing=editing),
            live="",
            shelf=views.shelf(self._service.history(owner), conversation_id),
            serving=views.serving(*self._service.serving()),
            ratings=views.ratings(self._service.counts()),
            system_prompt=prompt,
            notice=notice,
        )


def _text_of(stream: ReplyStream | PairStream) -> str:
    return stream.text if isinstance(stream, ReplyStream) else ""


def _number(value: str) -> int:
    """Return the number on a star button."""
    if value not in ("1", "2", "3", "4", "5"):
        raise DataError(f"stars must be a whole number from 1 to 5, got {value[:40]!r}")
    return int(value)
