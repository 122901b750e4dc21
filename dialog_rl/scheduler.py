"""Many replies at once on few cores: one worker thread, one token per reply in turn.

Two people who chat at the same time both see their reply grow; nobody waits for the other's to
end. The number of replies in work is bounded, so that a crowd is refused and not left hanging.
"""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from dialog_rl.errors import Busy

_Item = TypeVar("_Item")


class Ticket(Generic[_Item]):
    """One reply in work: iterate to receive its tokens, close to stop it."""

    def __init__(self, steps: Iterator[_Item]) -> None:
        self.steps = steps
        self.closed = threading.Event()
        self.results: queue.SimpleQueue[tuple[str, _Item | BaseException | None]] = (
            queue.SimpleQueue()
        )
        self._over = False

    def __iter__(self) -> Iterator[_Item]:
        return self

    def __next__(self) -> _Item:
        if self._over or self.closed.is_set():
            raise StopIteration
        kind, value = self.results.get()
        if kind == "item":
            return value  # type: ignore[return-value]
        self._over = True
        if isinstance(value, BaseException):
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stop the work after at most one more step; no effect when it is over."""
        self.closed.set()


class DecodeScheduler:
    """Runs one step of each submitted iterator in turn, in one thread."""

    def __init__(self, *, limit: int = 64) -> None:
        self.limit = limit
        self._active: deque[Ticket[object]] = deque()
        self._count = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def submit(self, steps: Iterator[_Item]) -> Ticket[_Item]:
        """Queue an iterator; its items arrive by iterating the ticket.

        Raises:
            Busy: ``limit`` replies are already in work.
        """
        ticket: Ticket[_Item] = Ticket(steps)
        with self._wake:
            if self._count >= self.limit:
                raise Busy(
                    f"busy: {self._count} replies are being written (at most {self.limit}); "
                    "try again in a few seconds"
                )
            self._count += 1
            self._active.append(ticket)  # type: ignore[arg-type]
            if self._thread is None or not self._thread.is_alive():
                self._stopping = False
                self._thread = threading.Thread(
                    target=self._work, name="decode-scheduler", daemon=True
                )
                self._thread.start()
            self._wake.notify()
        return ticket

    @property
    def in_work(self) -> int:
        """Replies queued or being written."""
        with self._wake:
            return self._count

    def close(self) -> None:
        """End the worker after the current step; replies in work end without further tokens."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._active and not self._stopping:
                    self._wake.wait()
                if self._stopping:
                    for left in self._active:
                        left.results.put(("end", None))
                    self._active.clear()
                    self._count = 0
                    return
                ticket = self._active.popleft()
            going = not ticket.closed.is_set() and self._step(ticket)
            with self._wake:
                if going:
                    self._active.append(ticket)
                else:
                    self._count -= 1

    @staticmethod
    def _step(ticket: Ticket[object]) -> bool:
        """One step of one reply; False when it is over.

        An error of any kind belongs to the reply that caused it: it is raised where that reply is
        read, and the worker goes on with the others.
        """
        try:
            item = next(ticket.steps)
        except StopIteration:
            ticket.results.put(("end", None))
            return False
        except Exception as error:  # boundary: it belongs to whoever waits for the item
            ticket.results.put(("error", error))
            return False
        ticket.results.put(("item", item))
        return True
