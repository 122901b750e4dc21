"""A conversation as it is read back: its turns, and what its owner said about each reply."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from dialog_rl.conversation import Conversation, Reply, Turn
from dialog_rl.feedback import AskReason, FeedbackEvent
from reward_models.base import Message


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Everything one rater currently says about one reply; None means not said."""

    thumb: bool | None = None
    stars: int | None = None
    correction: str | None = None
    tags: tuple[str, ...] = ()
    comment: str | None = None
    vote: str | None = None
    """"won", "lost" or "tie" when the reply stood in a side-by-side vote."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """A conversation with its turns, the marks on its replies and its overall rating."""

    conversation: Conversation
    turns: tuple[Turn, ...]
    marks: dict[str, Marks] = field(default_factory=dict)
    """By reply id; a reply nobody rated is absent."""
    end_rating: int | None = None
    questions: dict[tuple[str, str], AskReason] = field(default_factory=dict)
    """Pairs of replies that the page asked about and nobody has voted on, with the reason."""

    def marks_on(self, reply_id: str) -> Marks:
        """Return what was said about a reply, or empty marks."""
        return self.marks.get(reply_id, Marks())

    def pending_vote(self) -> tuple[Reply, Reply] | None:
        """Return the two candidates that wait for a vote, if the last turn has them."""
        if not self.turns:
            return None
        last = self.turns[-1]
        if last.chosen_reply_id is None:
            return (last.replies[0], last.replies[1]) if len(last.replies) == 2 else None
        there = {reply.reply_id: reply for reply in last.replies}
        for first, second in self.questions:
            if first == last.chosen_reply_id and second in there:
                return there[first], there[second]
        return None

    def unanswered(self) -> Turn | None:
        """Return the last turn if it has no reply at all (the server stopped while writing)."""
        if self.turns and not self.turns[-1].replies:
            return self.turns[-1]
        return None

    def messages(self, *, before_turn: int | None = None) -> list[Message]:
        """Return the chat as the model reads it: corrected replies in place of the originals.

        Args:
            before_turn: stop after the user message of this turn; None for all of them.

        Returns:
            System prompt first; user and assistant alternate (messages of unanswered turns are
            joined with the next one, since chat templates want alternation).
        """
        messages: list[Message] = []
        if self.conversation.system_prompt:
            messages.append({"role": "system", "content": self.conversation.system_prompt})
        waiting: list[str] = []
        for turn in self.turns:
            waiting.append(turn.user_text)
            if before_turn is not None and turn.index >= before_turn:
                break
            said = self._said(turn)
            if said is not None:
                messages.append({"role": "user", "content": "\n".join(waiting)})
                messages.append({"role": "assistant", "content": said})
                waiting = []
        if waiting:
            messages.append({"role": "user", "content": "\n".join(waiting)})
        return messages

    def _said(self, turn: Turn) -> str | None:
        """Return the text the talk went on from after a turn."""
        chosen = chosen_reply(turn)
        if chosen is None or not chosen.text.strip():
            return None
        return self.marks_on(chosen.reply_id).correction or chosen.text


def chosen_reply(turn: Turn) -> Reply | None:
    """Return the reply a turn goes on from: the chosen one, else the first."""
    for reply in turn.replies:
        if reply.reply_id == turn.chosen_reply_id:
            return reply
    return turn.replies[0] if turn.replies else None


def read_marks(events: Iterable[FeedbackEvent]) -> tuple[dict[str, Marks], int | None]:
    """Fold current feedback (one event per reply and kind) into marks and the end rating."""
    marks: dict[str, Marks] = {}
    end_rating: int | None = None
    for event in events:
        if event.kind == "end_rating" and event.value is not None:
            end_rating = round(event.value)
        if event.reply_id is None or event.kind == "ask":
            continue
        mark = marks.get(event.reply_id, Marks())
        if event.kind == "thumb":
            mark = replace(mark, thumb=event.value == 1.0)
        elif event.kind == "stars" and event.value is not None:
            mark = replace(mark, stars=round(event.value))
        elif event.kind == "correction":
            mark = replace(mark, correction=event.text)
        elif event.kind == "tags":
            mark = replace(mark, tags=event.tags, comment=event.text)
        elif event.kind == "choice" and event.other_reply_id is not None:
            tie = event.value == 0.5
            other = marks.get(event.other_reply_id, Marks())
            marks[event.other_reply_id] = replace(other, vote="tie" if tie else "lost")
            mark = replace(mark, vote="tie" if tie else "won")
        marks[event.reply_id] = mark
    return marks, end_rating


def read_transcript(
    conversation: Conversation, turns: Sequence[Turn], events: Iterable[FeedbackEvent]
) -> Transcript:
    """Put a conversation together from what the store keeps about it."""
    events = list(events)
    marks, end_rating = read_marks(events)
    return Transcript(
        conversation=conversation,
        turns=tuple(turns),
        marks=marks,
        end_rating=end_rating,
        questions=_questions(events),
    )


def _questions(events: Sequence[FeedbackEvent]) -> dict[tuple[str, str], AskReason]:
    """Return the pairs that were asked about and not voted on."""
    voted = {frozenset((e.reply_id, e.other_reply_id)) for e in events if e.kind == "choice"}
    return {
        (e.reply_id, e.other_reply_id): cast("AskReason", e.text)
        for e in events
        if e.kind == "ask" and e.reply_id is not None and e.other_reply_id is not None
        if frozenset((e.reply_id, e.other_reply_id)) not in voted
    }
