"""What a person can do: talk, rate, vote, correct, retry, read back. The one public door.

The page, the JSON API and the simulated raters all call :class:`ChatService`; it checks who asks,
what they send and in which order, and stores everything a reply was made of. It knows neither
gradio nor HTTP, and imports no torch.

Every method takes the ``owner`` first. Somebody else's conversation or reply does not exist for
them: ``NotFound``, the same as for an id that was never given out.
"""

import hashlib
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dialog_rl.conversation import Conversation, Reply, SamplingParams, Turn
from dialog_rl.errors import DataError, NotFound
from dialog_rl.feedback import FeedbackEvent, FeedbackKind
from dialog_rl.limits import STARS, check_stars, check_tags, check_text
from dialog_rl.serving import ServingVersion
from dialog_rl.store import FeedbackStore
from dialog_rl.transcript import Transcript, read_transcript
from dialog_rl.writing import Claims, FinishedReply, PairStream, ReplyStream
from reward_models.base import Message

if TYPE_CHECKING:
    from dialog_rl.asking import Asker
    from dialog_rl.choosing import ChosenReply
    from dialog_rl.manager import DialogManager, DraftReply, StreamingReply
    from dialog_rl.registry import AdapterRegistry

UNTITLED = "New conversation"


class ChatService:
    """Conversations and ratings of many people over one policy and one store."""

    def __init__(
        self,
        store: FeedbackStore,
        manager: "DialogManager",
        registry: "AdapterRegistry",
        params: SamplingParams | None = None,
        *,
        default_system: str | None = None,
        asker: "Asker | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._manager = manager
        self._params = params or SamplingParams()
        self._default_system = default_system
        self._asker = asker
        self._clock = clock
        self._serving = ServingVersion(manager.policy, registry)
        self._writing = Claims()

    # -- conversations ---------------------------------------------------------------------

    def default_system_prompt(self) -> str:
        """Return the catalogue a new conversation starts with."""
        if self._default_system is None:
            from dialog_rl.bundled import default_system_prompt

            self._default_system = default_system_prompt()
        return self._default_system

    def start(
        self, owner: str, system_prompt: str | None = None, *, title: str = UNTITLED
    ) -> Conversation:
        """Open a conversation.

        Raises:
            DataError: the system prompt cannot be used, or leaves no room for a message.
        """
        if system_prompt is None:
            system_prompt = self.default_system_prompt()
        check_text(system_prompt, "system prompt", may_be_empty=True)
        head = Conversation(
            conversation_id=uuid.uuid4().hex,
            owner=owner,
            system_prompt=system_prompt,
            title=_title(check_text(title, "title")),
            created_at=self._clock(),
        )
        self._manager.build_prompt(
            [
                *Transcript(conversation=head, turns=()).messages(),
                {"role": "user", "content": "hello"},
            ]
        )
        self._store.add_conversation(head)
        return head

    def history(self, owner: str) -> list[Conversation]:
        """Return the owner's conversations, newest first."""
        return self._store.conversations(owner)

    def transcript(self, owner: str, conversation_id: str) -> Transcript:
        """Return a conversation with its turns and current ratings."""
        head = self._store.conversation(conversation_id, owner)
        return read_transcript(
            head,
            self._store.turns(conversation_id),
            self._store.current_feedback(conversation_id=conversation_id),
        )

    def counts(self) -> dict[str, int]:
        """Return how many ratings of each kind the store holds (everybody's)."""
        return self._store.counts()

    # -- replies ---------------------------------------------------------------------------

    def send(
        self, owner: str, conversation_id: str, text: str, *, seed: int | None = None
    ) -> ReplyStream:
        """Store a message and start the reply to it; iterate over the result to read it.

        Raises:
            NotFound: not the owner's conversation.
            DataError: the message cannot be used; nothing of it is stored.
            Busy: a reply is being written here already, or too many wait for one.
        """
        return self._send(owner, conversation_id, text, (seed,))[0]

    def converse(
        self, owner: str, conversation_id: str, text: str, *, seed: int | None = None
    ) -> ReplyStream:
        """As :meth:`send`; now and then the page then asks which of two replies is better.

        The conversation goes on from the reply that was streamed unless the person votes for the
        other one. The question and its reason are stored as an event of kind "ask".
        """
        asker = self._asker
        if asker is None or self._params.temperature == 0 or not asker.due(owner):
            return self.send(owner, conversation_id, text, seed=seed)

        def ask(reply: Reply, draft: "DraftReply") -> None:
            found = asker.offer(owner, self._manager, draft, self._params)
            if found is None:
                return
            second, question = found
            other = self._finisher(conversation_id, reply.turn, choose=False)(second)
            fields = {"reply_id": reply.reply_id, "other_reply_id": other.reply_id}
            fields |= {"text": question.reason}
            value = question.information
            self._say(owner, "ask", conversation_id, None, value=value, **fields)

        return self._send(owner, conversation_id, text, (seed,), then=ask)[0]

    def compare(
        self, owner: str, conversation_id: str, text: str, *, seed: int | None = None
    ) -> PairStream:
        """As :meth:`send`, with two replies written side by side that wait for a vote."""
        second = None if seed is None else seed + 1
        return PairStream(*self._send(owner, conversation_id, text, (seed, second)))

    def candidates(self, owner: str, conversation_id: str, text: str) -> tuple[Reply, Reply]:
        """As :meth:`compare`, read to the end."""
        return self.compare(owner, conversation_id, text).read()

    def _send(
        self,
        owner: str,
        conversation_id: str,
        text: str,
        seeds: Sequence[int | None],
        then: "Callable[[Reply, DraftReply], None] | None" = None,
    ) -> list[ReplyStream]:
        """Start one reply per seed to a new message, and store the message."""
        check_text(text, "message")
        self._store.conversation(conversation_id, owner)
        with self._writing.hold(conversation_id, len(seeds)) as release:
            talk = self.transcript(owner, conversation_id)
            self._settle(talk)
            turn = len(talk.turns)
            new = Turn(index=turn, user_text=text, replies=(), chosen_reply_id=None)
            messages = replace(talk, turns=(*talk.turns, new)).messages()
            self._manager.build_prompt(messages)
            streams: list[ReplyStream] = []
            try:
                for place, seed in enumerate(seeds):
                    choose = len(seeds) == 1
                    finish = self._finisher(conversation_id, turn, choose=choose, place=place)
                    other = streams[0] if streams else None
                    streams.append(
                        self._write(messages, seed, finish, release, unlike=other, then=then)
                    )
                self._store.add_user_turn(conversation_id, turn, text, self._clock())
            except BaseException:
                for stream in streams:
                    stream.abandon()
                raise
        return streams

    def _settle(self, talk: Transcript) -> None:
        """Go on from the first of two candidates when the person talks on without a vote."""
        pending = talk.pending_vote()
        if pending is not None:
            first = pending[0]
            self._store.choose_reply(first.conversation_id, first.turn, first.reply_id)

    def answer(self, owner: str, conversation_id: str) -> ReplyStream:
        """Answer a message that got no reply because the server stopped."""
        self._store.conversation(conversation_id, owner)
        with self._writing.hold(conversation_id) as release:
            talk = self.transcript(owner, conversation_id)
            turn = talk.unanswered()
            if turn is None:
                raise DataError("every message here has its reply; send a new one")
            finish = self._finisher(conversation_id, turn.index, choose=True)
            return self._write(talk.messages(), None, finish, release)

    def retry(self, owner: str, reply_id: str, *, seed: int | None = None) -> ReplyStream:
        """Write another reply to the same message; the conversation goes on from the new one.

        Raises:
            DataError: the conversation has moved on since that reply.
        """
        old = self._own_reply(owner, reply_id)
        with self._writing.hold(old.conversation_id) as release:
            talk = self.transcript(owner, old.conversation_id)
            if old.turn != talk.turns[-1].index:
                raise DataError("only the last reply can be retried; the conversation went on")
            finish_new = self._finisher(old.conversation_id, old.turn, choose=True)

            def finish(draft: "DraftReply") -> Reply:
                new = finish_new(draft)
                cid, pair = old.conversation_id, {"other_reply_id": new.reply_id}
                self._say(owner, "retry", cid, None, reply_id=reply_id, **pair)
                return new

            return self._write(talk.messages(before_turn=old.turn), seed, finish, release)

    def _write(
        self,
        messages: Sequence[Message],
        seed: int | None,
        finish: FinishedReply,
        release: Callable[[], None],
        *,
        unlike: ReplyStream | None = None,
        then: "Callable[[Reply, DraftReply], None] | None" = None,
    ) -> ReplyStream:
        """Start one reply from the version in service."""
        version = self._serving.version()

        def draw(seed: int | None = None) -> "StreamingReply | ChosenReply":
            seed = random.getrandbits(31) if seed is None else seed
            return self._manager.stream(messages, params=self._params, seed=seed, version=version)

        redraw = draw if unlike is not None and self._params.temperature > 0 else None
        return ReplyStream(draw(seed), finish, release, unlike=unlike, redraw=redraw, then=then)

    def _finisher(
        self, conversation_id: str, turn: int, *, choose: bool, place: int = 0
    ) -> FinishedReply:
        """Return the function that stores a finished draft as the reply to ``turn``."""
        # The beginning, not the end: the shorter of two candidates must not become the first.
        begun = self._clock() + 1e-6 * place

        def finish(draft: "DraftReply") -> Reply:
            reply = Reply(
                reply_id=uuid.uuid4().hex,
                conversation_id=conversation_id,
                turn=turn,
                prompt_messages=draft.prompt.messages,
                prompt_ids=draft.prompt.ids,
                reply_ids=tuple(draft.generation.ids),
                logprobs=tuple(draft.generation.logprobs),
                # A byte-level model may write NUL, which no database keeps; the ids say it all.
                text=draft.generation.text.replace("\0", "\ufffd"),
                sampling=draft.params,
                seed=draft.seed,
                base_model=self._manager.policy.base_id,
                adapter_version=draft.version,
                finish_reason=draft.generation.finish_reason,
                created_at=begun,
            )
            self._store.add_reply(reply)
            if choose:
                self._store.choose_reply(conversation_id, turn, reply.reply_id)
            return reply

        return finish

    # -- ratings ---------------------------------------------------------------------------
    # Each returns True when it was stored and False when the same key had already said the same.

    def vote(
        self,
        owner: str,
        reply_id: str,
        other_reply_id: str,
        *,
        tie: bool = False,
        key: str | None = None,
    ) -> bool:
        """Prefer the first of two replies to one message to the second, or call it a tie.

        Raises:
            DataError: the two do not answer the same message.
        """
        best, rest = self._own_reply(owner, reply_id), self._own_reply(owner, other_reply_id)
        if (best.conversation_id, best.turn) != (rest.conversation_id, rest.turn) or best == rest:
            raise DataError("a vote needs two different replies to the same message")
        fresh = self._say(
            owner,
            "choice",
            best.conversation_id,
            key,
            reply_id=reply_id,
            other_reply_id=other_reply_id,
            value=0.5 if tie else 1.0,
        )
        turns = self._store.turns(best.conversation_id)
        if best.turn == turns[-1].index:
            self._store.choose_reply(best.conversation_id, best.turn, reply_id)
        return fresh

    def rate_thumb(
        self,
        owner: str,
        reply_id: str,
        up: bool,
        tags: Sequence[str] = (),
        comment: str | None = None,
        *,
        key: str | None = None,
    ) -> bool:
        """Thumb up or down, with reasons and a comment if there are any."""
        tags = check_tags(tags)
        if comment:
            check_text(comment, "comment")
        reply = self._own_reply(owner, reply_id)
        value = 1.0 if up else 0.0
        fresh = self._say(
            owner, "thumb", reply.conversation_id, key, reply_id=reply_id, value=value
        )
        if tags or comment:
            tags_key = None if key is None else f"{key}:tags"
            self.tag(owner, reply_id, tags, comment, key=tags_key)
        return fresh

    def tag(
        self,
        owner: str,
        reply_id: str,
        tags: Sequence[str],
        comment: str | None = None,
        *,
        key: str | None = None,
    ) -> bool:
        """Give reasons and a comment."""
        tags = check_tags(tags)
        text = check_text(comment, "comment") if comment else None
        cid = self._own_reply(owner, reply_id).conversation_id
        return self._say(owner, "tags", cid, key, reply_id=reply_id, tags=tuple(tags), text=text)

    def rate_stars(self, owner: str, reply_id: str, stars: int, *, key: str | None = None) -> bool:
        """Give a reply 1 to 5 stars."""
        value = check_stars(stars)
        cid = self._own_reply(owner, reply_id).conversation_id
        return self._say(owner, "stars", cid, key, reply_id=reply_id, value=value, scale=STARS)

    def correct(self, owner: str, reply_id: str, text: str, *, key: str | None = None) -> bool:
        """Write the reply that should have been given; the conversation goes on from it."""
        check_text(text, "better reply")
        reply = self._own_reply(owner, reply_id)
        if text.strip() == reply.text.strip():
            raise DataError("the better reply is the same as the old one; change it first")
        return self._say(
            owner, "correction", reply.conversation_id, key, reply_id=reply_id, text=text.strip()
        )

    def end_rating(
        self, owner: str, conversation_id: str, stars: int, *, key: str | None = None
    ) -> bool:
        """Rate a whole conversation with 1 to 5 stars."""
        value = check_stars(stars)
        self._store.conversation(conversation_id, owner)
        return self._say(owner, "end_rating", conversation_id, key, value=value, scale=STARS)

    def withdraw(
        self,
        owner: str,
        kind: FeedbackKind,
        *,
        reply_id: str | None = None,
        other_reply_id: str | None = None,
        conversation_id: str | None = None,
        key: str | None = None,
    ) -> bool:
        """Take back what was said about a reply, a pair (choice, ask) or a talk (end_rating)."""
        if reply_id is not None:
            conversation_id = self._own_reply(owner, reply_id).conversation_id
        elif conversation_id is None:
            raise DataError("say which reply or conversation to withdraw the rating from")
        self._store.conversation(conversation_id, owner)
        about = {"reply_id": reply_id, "other_reply_id": other_reply_id}
        return self._say(owner, "withdrawal", conversation_id, key, withdraws=kind, **about)

    # -- state -----------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Write two tokens to nobody, so that the first person need not wait for the caches."""
        messages: list[Message] = [
            {"role": "system", "content": self.default_system_prompt()},
            {"role": "user", "content": "hello"},
        ]
        params = SamplingParams(max_new_tokens=2)
        draft = self._manager.stream(messages, params=params, seed=0, version=self.serving()[0])
        for _ in draft:
            pass
        draft.close()

    def serving(self) -> tuple[str, str | None]:
        """Return the version the next reply comes from, and what is wrong with a newer one."""
        return self._serving.version(), self._serving.problem

    def _own_reply(self, owner: str, reply_id: str) -> Reply:
        """Return a reply of one of the owner's conversations.

        Raises:
            NotFound: there is none such, or it is somebody else's: the same words for both.
        """
        missing = NotFound(f"there is no reply {str(reply_id)[:40]!r} in your conversations")
        try:
            reply = self._store.reply(check_text(reply_id, "reply id"))
            self._store.conversation(reply.conversation_id, owner)
        except NotFound:
            raise missing from None
        return reply

    def _say(
        self,
        owner: str,
        kind: FeedbackKind,
        conversation_id: str,
        key: str | None,
        **fields: Any,
    ) -> bool:
        """Append one event; returns after it is on disk."""
        event = FeedbackEvent(
            event_id=uuid.uuid4().hex if key is None else _event_id(owner, key),
            kind=kind,
            conversation_id=conversation_id,
            rater=owner,
            created_at=self._clock(),
            **fields,
        )
        return self._store.add_event(event)


def _event_id(owner: str, key: str) -> str:
    """Return the event id of a rater's idempotency key; two raters' keys never meet."""
    check_text(key, "idempotency key")
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()[:32]


def _title(text: str) -> str:
    """Return the first line of a message, shortened to fit a list."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57].rstrip() + "..."
