"""A causal language model that plays the user: a persona and a secret goal in its system prompt.

The model writes what the user says; the agenda behind it (``user.py``) only keeps the books: what
the assistant's replies brought, what is left, when patience ends, and whether the goal was reached.
What the model said is read by the domain's words (``recognise.py``). The conversation ends when the
goal is reached, when patience has ended, or when the model says goodbye before (then the task has
failed). A model that loses its goal, as small ones do, makes a poor user: read the transcripts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dialog_rl.envs.recognise import Reader, Reading
from dialog_rl.envs.task import Task
from dialog_rl.envs.voice import BOOK, Act, MakeVoice, Said, Standing
from dialog_rl.envs.wording import Persona, Wording, with_article
from reward_models.base import Message

Reply = Callable[[Sequence[Message], int], str]
"""A language model: messages and a sampling seed to the next message."""
FIRST = "Hello, what can I do for you?"
"""The assistant's side before the user's first words; chat models answer, they do not begin."""
SILENT = "..."
"""Stands for a turn in which the model said nothing."""
MAX_CHARS = 600


class LlmVoice:
    """Lets a model speak for one user."""

    def __init__(
        self, task: Task, persona: Persona, rng: np.random.Generator, reader: Reader, reply: Reply
    ) -> None:
        """Write the persona and the goal down.

        Args:
            task: what the user wants.
            persona: manners and temper.
            rng: of the sampling seeds.
            reader: of turns about the kind of thing that is wanted.
            reply: the model.
        """
        self._task, self._rng, self._reader, self._reply = task, rng, reader, reply
        wording = Wording(task, persona, rng)
        manners = ["polite" if persona.polite else "brief"]
        manners += ["quickly annoyed when ignored"] if persona.cross else []
        manners += ["a careless typist"] if persona.typo_rate or not persona.punctuation else []
        self._persona = (
            "You play a person who talks to an assistant. You are "
            f"{', '.join(manners)}. You want {with_article(wording.noun_phrase({}))}. Say one "
            "short message at a time, only what this person says."
        )

    def _system(self, standing: Standing, *, ends: str = "") -> Message:
        """Return the persona, the goal and what is left of it."""
        kind, goal = self._task.kind, self._task.goal
        lines = [self._persona]
        for field, value in standing.conditions.items():
            lines.append(f"It must have this {kind.condition(field).word}: {value}.")
        asked = [kind.fact(f).words.of(self._task.split)[0] for f in standing.requests]
        lines += [f"Find out its {' and '.join(asked)}."] if asked else []
        if standing.booking and goal.booking:
            details = ", ".join(f"{name} {value}" for name, value in goal.booking.items())
            lines.append(f"Then have it booked: {details}.")
        return {"role": "system", "content": "\n".join([*lines, *([ends] if ends else [])])}

    def _speak(self, system: Message, talk: Sequence[Message]) -> tuple[str, Reading]:
        """Let the model write the next turn: its own turns are the assistant's in its prompt."""
        swapped: list[Message] = [system, {"role": "user", "content": FIRST}]
        for message in talk:
            heard = message["role"] == "assistant"
            swapped.append(
                {"role": "user" if heard else "assistant", "content": message["content"]}
            )
        text = " ".join(self._reply(swapped, int(self._rng.integers(2**31))).split())
        text = text[:MAX_CHARS] or SILENT
        return text, self._reader.read(text)

    def open(self, standing: Standing) -> Said:
        """Let the model say what it wants."""
        text, reading = self._speak(self._system(standing), [])
        return Said(text=text, acts=(Act(name="request"),), told=_told(reading, standing))

    def say(
        self,
        acts: Sequence[Act],
        standing: Standing,
        *,
        helped: bool,
        messages: Sequence[Message],
    ) -> Said:
        """Let the model answer; it leaves where the agenda does, or earlier if it says goodbye."""
        leaves = acts[-1].name
        ends = {
            "bye": "You have all you wanted: say thanks and goodbye.",
            "give_up": "You have had enough of this assistant: say so and leave.",
        }.get(leaves, "")
        text, reading = self._speak(self._system(standing, ends=ends), messages[1:])
        told = _told(reading, standing)
        if ends:
            return Said(text=text, acts=(Act(name=leaves),), told=told)
        if "bye" in reading.acts and not reading.asks:
            return Said(text=text, acts=(Act(name="give_up"),), told=told)
        asks = tuple(f for f in reading.asks if f in standing.requests)
        booking = self._task.goal.booking or {}
        details = bool(booking) and booking == {k: reading.details.get(k) for k in booking}
        books = standing.booking and (BOOK in reading.acts or details)
        said = [Act(name="inform", fields=tuple(sorted(told)))] if told else []
        said += [Act(name="ask", fields=asks)] if asks else []
        said += [Act(name=BOOK)] if books else []
        said += [Act(name="details")] if details else []
        return Said(
            text=text,
            acts=tuple(said) or (Act(name="other"),),
            told=told,
            asked=frozenset({*asks, *((BOOK,) if books else ())}),
            details=details,
        )


def _told(reading: Reading, standing: Standing) -> frozenset[str]:
    """Return the conditions that were said as they are wanted."""
    wanted = standing.conditions
    return frozenset(f for f, value in reading.conditions.items() if wanted.get(f) == value)


def llm_voices(readers: dict[str, Reader], reply: Reply) -> MakeVoice:
    """Return a maker of voices that all speak through one model."""

    def make(task: Task, persona: Persona, rng: np.random.Generator) -> LlmVoice:
        return LlmVoice(task, persona, rng, readers[task.goal.kind], reply)

    return make
