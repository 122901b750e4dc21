"""Replies while they are written: one stream, two side by side, one writer per conversation."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dialog_rl.conversation import Reply
from dialog_rl.errors import Busy

if TYPE_CHECKING:
    from dialog_rl.choosing import ChosenReply
    from dialog_rl.manager import DraftReply, StreamingReply

FinishedReply = Callable[["DraftReply"], Reply]
"""Stores a finished draft and returns it as the reply it became."""


class ReplyStream:
    """A reply while it is written: iterate over the text, then read ``reply``.

    The finished reply is stored when the last piece has been handed out; a reply that is closed
    half-way is stored as far as it got, with ``finish_reason`` "cancelled".
    """

    REDRAWS = 4
    """How often a second candidate that says the same as the first is drawn anew."""

    def __init__(
        self,
        draft: "StreamingReply | ChosenReply",
        finish: FinishedReply,
        release: Callable[[], None],
        *,
        unlike: "ReplyStream | None" = None,
        redraw: "Callable[[], StreamingReply | ChosenReply] | None" = None,
        then: "Callable[[Reply, DraftReply], None] | None" = None,
    ) -> None:
        """Wrap a draft that is being written.

        Args:
            draft: the draft.
            finish: stores it.
            release: called once when nothing is written any more.
            unlike: the other candidate of a pair, when both should not say the same.
            redraw: starts another draft.
            then: called with a reply that came to its end, after it is stored and before
                ``release``.
        """
        self._unlike = unlike
        self._redraw = redraw
        self._then = then
        self.ended = False
        self._draft = draft
        self._finish = finish
        self._release = release
        self._open = True
        self.reply: Reply | None = None
        self.text = ""
        self.version = draft.version

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text; stores the reply at the end.

        An empty piece says that the reply is complete and something is still to be done about it.
        """
        try:
            yield from self._write()
            for _ in range(self.REDRAWS):
                if self._redraw is None or not self._says_the_same():
                    break
                self._draft = self._redraw()
                self.text = ""
                yield from self._write()
            self.ended = True
            if self._then is not None:
                yield ""
        finally:
            self.close()

    def _write(self) -> Iterator[str]:
        for delta in self._draft:
            self.text += delta
            yield delta

    def _says_the_same(self) -> bool:
        # A pair is written in step, the first candidate ahead: equal texts end together.
        return self._unlike is not None and self._unlike.ended and self._unlike.text == self.text

    def close(self) -> None:
        """Stop writing and store what there is; safe to call again."""
        if not self._open:
            return
        self._open = False
        try:
            self._draft.close()
            draft = self._draft.draft
            if draft.generation.ids:
                self.reply = self._finish(draft)
            if self.reply is not None and self.ended and self._then is not None:
                self._then(self.reply, draft)
        finally:
            self._release()

    def abandon(self) -> None:
        """Stop writing and store nothing."""
        self._open = False
        self._draft.close()

    def read(self) -> Reply:
        """Write to the end and return the stored reply."""
        for _ in self:
            pass
        if self.reply is None:
            raise Busy("the reply was stopped before its first word; try again")
        return self.reply


class PairStream:
    """Two candidate replies written side by side; ``replies`` once both are stored."""

    def __init__(self, first: ReplyStream, second: ReplyStream) -> None:
        self.streams = (first, second)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield both texts so far, a step of each in turn."""
        running = [iter(stream) for stream in self.streams]
        try:
            while running:
                for writer in list(running):
                    if next(writer, None) is None:
                        running.remove(writer)
                yield self.streams[0].text, self.streams[1].text
        finally:
            self.close()

    def close(self) -> None:
        """Stop both."""
        for stream in self.streams:
            stream.close()

    def read(self) -> tuple[Reply, Reply]:
        """Write both to the end and return them as stored."""
        for _ in self:
            pass
        first, second = (stream.reply for stream in self.streams)
        if first is None or second is None:
            raise Busy("the replies were stopped before their first word; try again")
        return first, second


class Claims:
    """Which conversations have a reply being written; one writer at a time in each."""

    LONGEST_S = 120.0
    """A claim older than this is taken to be forgotten (its reader vanished)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[float, int]] = {}

    def take(self, conversation_id: str, streams: int) -> Callable[[], None]:
        """Claim a conversation until the returned function was called ``streams`` times.

        Raises:
            Busy: somebody is at it.
        """
        now = time.monotonic()
        with self._lock:
            since, _ = self._held.get(conversation_id, (-self.LONGEST_S, 0))
            if now - since < self.LONGEST_S:
                raise Busy("a reply is being written in this conversation; wait until it is done")
            self._held[conversation_id] = (now, streams)

        def release() -> None:
            with self._lock:
                since, left = self._held.get(conversation_id, (0.0, 0))
                if since == now and left > 1:
                    self._held[conversation_id] = (since, left - 1)
                elif since == now:
                    del self._held[conversation_id]

        return release

    @contextmanager
    def hold(self, conversation_id: str, streams: int = 1) -> Iterator[Callable[[], None]]:
        """As :meth:`take`, given back at once when the block raises."""
        release = self.take(conversation_id, streams)
        try:
            yield release
        except BaseException:
            for _ in range(streams):
                release()
            raise
