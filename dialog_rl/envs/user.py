"""A simulated user with an agenda (Schatzmann et al. 2007, "Agenda-Based User Simulation").

The agenda is a stack of acts the user still means to say. It begins with the goal: ask for the
thing, ask for each fact, book, say goodbye. What the assistant says pushes answers and objections
on top and removes what is settled; then the top is popped and put into words. Here the acts of the
goal stay on the stack until they are settled, so that what was ignored is asked again, and all
answers to one reply are said in one turn.

The user knows the catalogue, as the paper's user knows whether its constraints are met: a place
that is not listed is no offer to it. A wrong fact about a listed place is believed, and the episode
cannot succeed any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dialog_rl.envs.domain import Check, Entry
from dialog_rl.envs.phrasing import AgendaVoice
from dialog_rl.envs.task import Task, fits
from dialog_rl.envs.understanding import Heard, error_places, understand
from dialog_rl.envs.voice import Act, MakeVoice, Said, Standing
from dialog_rl.envs.wording import draw_persona
from reward_models.base import Message, assistant_message
from reward_models.wording import NUMBER_WORDS

MOST_NAMED = 2
"""A reply that names more things than this offers none of them."""
MISLED_AGAIN = 2
"""Patience that every offer against what was said costs beside its own 1, from the second on."""
WRONG = "(wrong)"
"""Stands for an answer that is not in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class UserTurn:
    """What the user says."""

    text: str
    acts: tuple[Act, ...]
    heard: Heard | None
    """How the reply before was understood; None in the first turn."""
    helped: bool
    """Whether that reply brought the user any further."""

    @property
    def ends(self) -> bool:
        """Whether the user has left."""
        return self.acts[-1].name in ("bye", "give_up")


class AgendaUser:
    """One user with one task."""

    def __init__(
        self, task: Task, rng: np.random.Generator, make_voice: MakeVoice = AgendaVoice
    ) -> None:
        """Draw a person.

        Args:
            task: what the user wants, and from what.
            rng: of everything drawn; the voice draws from it too.
            make_voice: how the user speaks.
        """
        self.task = task
        self.persona = draw_persona(rng)
        self._rng = rng
        self._voice = make_voice(task, self.persona, rng)
        self.patience = self.persona.patience
        self.conditions = dict(task.goal.conditions)
        """What is wanted now, after changes of mind."""
        self.told: set[str] = set()
        """Conditions the user has said, or said not to have."""
        self.focus: Entry | None = None
        """The entry the user has settled on."""
        self.answers: dict[str, str] = {}
        self.booked: Entry | None = None
        self.satisfied = False
        """The user said goodbye with nothing left to ask."""
        self.details_given = False
        """The user has told the details of the booking."""
        self._relaxed = self._changed = self._misled = False
        self._asked: set[str] = set()
        self._pushed: list[Act] = []
        self._agenda = self._goal_acts()

    def _goal_acts(self) -> list[Act]:
        goal = self.task.goal
        acts = [Act(name="bye")]
        acts += [Act(name="book")] if goal.booking is not None else []
        acts += [Act(name="ask", fields=(field,)) for field in reversed(goal.requests)]
        return [*acts, Act(name="request")]

    def _settle(self, name: str, fields: Sequence[str] = ()) -> None:
        self._agenda = [
            a for a in self._agenda if a.name != name or (fields and a.fields[0] not in fields)
        ]

    def _standing(self) -> Standing:
        goal = self.task.goal
        return Standing(
            conditions=dict(self.conditions),
            told=frozenset(self.told),
            asked=frozenset(self._asked),
            focus=self.focus,
            requests=tuple(f for f in goal.requests if f not in self.answers),
            booking=goal.booking is not None and self.booked is None,
            details_given=self.details_given,
        )

    def _remember(self, said: Said) -> None:
        self.told |= said.told
        self._asked |= said.asked
        self.details_given |= said.details

    def open(self) -> UserTurn:
        """Say the first thing: the wish, or a part of it."""
        said = self._voice.open(self._standing())
        self._remember(said)
        return UserTurn(text=said.text, acts=said.acts, heard=None, helped=False)

    def hear(self, reply: str, messages: Sequence[Message]) -> UserTurn:
        """React to a reply.

        Args:
            reply: what the assistant said.
            messages: the conversation before it, system prompt first.
        """
        heard = self._understood(reply, messages)
        self._pushed = []
        steps = (self._offers, self._answered, self._booking, self._questions)
        helped = any([step(heard) for step in steps])  # a list: every step is taken
        self._lose_patience(heard, helped)
        if self.patience <= 0:
            acts: tuple[Act, ...] = (Act(name="give_up"),)
        else:
            acts = tuple(self._pushed) or self._top()
        said = self._voice.say(
            acts,
            self._standing(),
            helped=helped,
            messages=[*messages, assistant_message(reply)[0]],
        )
        self._remember(said)
        self.satisfied = said.acts[-1].name == "bye"
        return UserTurn(text=said.text, acts=said.acts, heard=heard, helped=helped)

    def _lose_patience(self, heard: Heard, helped: bool) -> None:
        """A reply that does not help costs patience, so does a rude one.

        An offer against what was said costs ``MISLED_AGAIN`` more from the second on, so that
        trying one entry after another does not pay.
        """
        misled = self.focus is None and bool(heard.named) and not helped
        self.patience -= (not helped) + heard.rude + MISLED_AGAIN * (misled and self._misled)
        self._misled = self._misled or misled

    def _meant(self) -> list[Message]:
        """Return the booking's details once they were told, in whatever words: "tonight at six"."""
        booking = self.task.goal.booking
        if booking is None or not self.details_given:
            return []
        return [{"role": "user", "content": ", ".join(booking.values())}]

    def error_places(self, reply: str, messages: Sequence[Message]) -> tuple[int, ...]:
        """Where wrong facts stand, see :func:`~dialog_rl.envs.understanding.error_places`."""
        return error_places(reply, lambda part: self._understood(part, messages).grounding_errors)

    def _understood(self, reply: str, messages: Sequence[Message]) -> Heard:
        return understand(
            reply,
            domain=self.task.domain,
            catalogue=self.task.catalogue,
            kind=self.task.goal.kind,
            messages=[*messages, *self._meant()],
            focus=self.focus,
        )

    def checks(self, grounding_errors: int) -> dict[Check, bool]:
        """Test the goal; the domain says which of these make a success.

        Args:
            grounding_errors: wrong facts in the assistant's replies so far.
        """
        goal, focus = self.task.goal, self.focus
        return {
            "right_entry": focus is not None and fits(focus, self.conditions),
            "right_answers": focus is not None
            and all(self.answers.get(f) == focus.fields[f] for f in goal.requests),
            "booked": goal.booking is None or (focus is not None and self.booked == focus),
            "nothing_invented": grounding_errors == 0,
        }

    def prospect(self, grounding_errors: int) -> float:
        """How near success is, from 0 (out of reach) to 1 (everything is settled).

        A half as long as nothing is spoilt, the other half for what is settled: the entry, each
        answer, the booking. With one answer asked for, no booking and the right entry found it is
        0.5 + 0.5 * 1/2 = 0.75. It looks at the goal, so it is no observation.

        Args:
            grounding_errors: wrong facts in the assistant's replies so far.
        """
        spoilt = grounding_errors and "nothing_invented" in self.task.domain.success
        if spoilt or WRONG in self.answers.values():
            return 0.0
        return 0.5 + 0.5 * self.settled()

    def settled(self) -> float:
        """Share of what was wanted that is settled rightly: the entry, each answer, the booking."""
        goal, focus = self.task.goal, self.focus
        if focus is None or not fits(focus, self.conditions):
            return 0.0
        right = sum(self.answers.get(f) == focus.fields[f] for f in goal.requests)
        booked = goal.booking is not None and self.booked == focus
        return (1 + right + booked) / (1 + len(goal.requests) + (goal.booking is not None))

    # -- how a reply changes the agenda; each says whether it brought the user further ------------

    def _offers(self, heard: Heard) -> bool:
        if self.focus is not None:
            return False
        named = [e for e in heard.named if e.kind == self.task.goal.kind]
        if not named:
            return self._refused() if heard.refused else False
        if len(named) > MOST_NAMED:
            self._pushed.append(Act(name="choose"))
            return False
        if not any(fits(e, self.conditions) for e in named) and not self._possible():
            self._give_way()
        for entry in named:
            if fits(entry, self.conditions):
                return self._choose(entry)
        failed = [f for f, v in self.conditions.items() if named[0].fields[f] != v]
        unsaid = tuple(f for f in failed if f not in self.told)
        self._pushed.append(
            Act(name="inform" if unsaid else "correct", fields=unsaid or tuple(failed))
        )
        return bool(unsaid)

    def _possible(self) -> bool:
        return bool(self.task.catalogue.match(self.task.goal.kind, self.conditions))

    def _give_way(self) -> bool:
        """Give up the condition that can be given up; False if it was never said, or is gone."""
        field = self.task.goal.relax
        if field is None or self._relaxed or field not in self.told:
            return False
        self._relaxed = True
        del self.conditions[field]
        return True

    def _refused(self) -> bool:
        """React to "there is none"."""
        unsaid = tuple(f for f in self.conditions if f not in self.told)
        if unsaid:
            self._pushed.append(Act(name="inform", fields=unsaid))
            return False
        field = self.task.goal.relax
        if not self._possible() and self._give_way():
            assert field is not None
            self._pushed.append(Act(name="relax", fields=(field,)))
            return True
        self._pushed.append(Act(name="insist"))
        return False

    def _choose(self, entry: Entry) -> bool:
        """Settle on an entry, or think again."""
        self.focus = entry
        self._settle("request")
        change = self.task.goal.change
        if change is not None and not self._changed:
            self._changed = True
            self.conditions[change[0]] = change[1]
            self.told.add(change[0])
            self._pushed = [Act(name="change", fields=(change[0],))]
            if not fits(entry, self.conditions):
                self.focus = None
                self._agenda = self._goal_acts()
        return True

    def _answered(self, heard: Heard) -> bool:
        """Take in facts about the chosen entry, or about the only one that fits."""
        fitting = self.task.catalogue.match(self.task.goal.kind, self.conditions)
        subject = self.focus or (fitting[0] if len(fitting) == 1 else None)
        others = [e for e in heard.named if e != subject]
        if subject is None or others:
            return False
        helped = False
        for field in self.task.goal.requests:
            if field in self.answers:
                continue
            right = subject.fields[field]
            if right in heard.values:
                if self.focus is None:
                    self._choose(subject)
                if self.focus is None:  # the user thought again
                    return True
                self.answers[field], helped = right, True
            elif field in self._asked and self.focus is not None and _wrong(right, heard):
                self.answers[field], helped = WRONG, True
        self._settle("ask", tuple(self.answers) or ("",))
        return helped

    def _booking(self, heard: Heard) -> bool:
        if self.focus is None or self.booked is not None or self.task.goal.booking is None:
            return False
        if heard.booked and self.details_given:
            if self._other_details(heard):
                self._pushed.append(Act(name="details"))
                return False
            self.booked = heard.named[0] if heard.named else self.focus
            self._settle("book")
            return True
        if not (heard.booked or heard.asks_details or heard.offers_booking):
            return False
        first = not self.details_given
        if first or heard.asks_details:
            self._pushed.append(Act(name="details"))
        return first

    def _other_details(self, heard: Heard) -> bool:
        """Tell whether a confirmation gives another day, time or number than was asked for."""
        for name, value in (self.task.goal.booking or {}).items():
            said = {_number(v) for v in heard.details if v in self.task.domain.details[name]}
            if said and _number(value) not in said:
                return True
        return False

    def _questions(self, heard: Heard) -> bool:
        """Answer questions about the wish while nothing is chosen and nothing else was said."""
        if self.focus is not None or self._pushed:
            return False
        wanted = tuple(f for f in heard.asks if f in self.conditions)
        unwanted = tuple(f for f in heard.asks if f not in self.conditions)
        helped = any(f not in self.told for f in heard.asks)
        if wanted:
            self._pushed.append(Act(name="inform", fields=wanted))
        elif unwanted:
            self._pushed.append(Act(name="dont_care", fields=unwanted))
        return helped

    # -- what is said next -------------------------------------------------------------------------

    def _top(self) -> tuple[Act, ...]:
        """Return the top of the agenda; two questions may be asked at once."""
        top = self._agenda[-1]
        if top.name == "ask" and len(self._agenda) > 1 and self._agenda[-2].name == "ask":
            both = top.fields[0] in self._asked or self._rng.random() < 0.3
            if both:
                return (Act(name="ask", fields=top.fields + self._agenda[-2].fields),)
        return (top,)


def _number(value: str) -> str:
    """Write number words as digits: "two nights" is "2 nights"."""
    return " ".join(NUMBER_WORDS.get(word, word) for word in value.split())


def _wrong(right: str, heard: Heard) -> bool:
    """Tell whether a reply without the right fact gives a wrong one in its place."""
    alike = heard.numbers or not any(char.isdigit() for char in right)
    return alike and heard.grounding_errors > 0
