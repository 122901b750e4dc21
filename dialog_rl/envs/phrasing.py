"""The voice of an agenda-based user: templates of the domain file, in one person's manner."""

from collections.abc import Sequence

import numpy as np

from dialog_rl.envs.task import Task
from dialog_rl.envs.voice import BOOK, Act, Said, Standing
from dialog_rl.envs.wording import Persona, Wording
from reward_models.base import Message


class AgendaVoice:
    """Says what the agenda says, in phrases of the task's split."""

    def __init__(self, task: Task, persona: Persona, rng: np.random.Generator) -> None:
        """Take the user's own random numbers, so that one seed fixes what is said."""
        self._task, self._persona, self._rng = task, persona, rng
        self._wording = Wording(task, persona, rng)

    def open(self, standing: Standing) -> Said:
        """Say the wish or a part of it; required conditions are always said."""
        fields, rng = list(standing.conditions), self._rng
        draw = rng.random()
        count = (
            len(fields) if draw < 0.6 else 0 if draw > 0.85 else int(rng.integers(len(fields) + 1))
        )
        required = {c.field for c in self._task.kind.conditions if c.required}
        drawn = {fields[i] for i in rng.permutation(len(fields))[:count]} | required
        told = [f for f in fields if f in drawn]
        text = self._wording.wish("request", {f: standing.conditions[f] for f in told})
        if rng.random() < 0.25:
            text = f"{self._wording.say('greet', {})}{', ' if rng.random() < 0.7 else '! '}{text}"
        return Said(
            text=self._wording.typed(text), acts=(Act(name="request"),), told=frozenset(told)
        )

    def say(
        self,
        acts: Sequence[Act],
        standing: Standing,
        *,
        helped: bool,
        messages: Sequence[Message],
    ) -> Said:
        """Say every act; what was said before is said with more emphasis if it did not help."""
        said = [self._act(act, standing, again=not helped) for act in acts]
        text = " ".join(part.text for part in said)
        text = self._mood(text, helped=helped, ends=acts[-1].name in ("bye", "give_up"))
        return Said(
            text=self._wording.typed(text),
            acts=tuple(acts),
            told=frozenset[str]().union(*(part.told for part in said)),
            asked=frozenset[str]().union(*(part.asked for part in said)),
            details=any(part.details for part in said),
        )

    def _act(self, act: Act, standing: Standing, *, again: bool) -> Said:
        """Put one act into words."""
        wording, conditions, fields = self._wording, standing.conditions, frozenset(act.fields)

        def said(text: str, *, told: frozenset[str] = frozenset()) -> Said:
            return Said(text=text, acts=(act,), told=told)

        if act.name in ("request", "insist", "choose"):
            name = "request_again" if act.name == "request" else act.name
            return said(wording.wish(name, conditions), told=frozenset(conditions))
        if act.name in ("inform", "correct", "change"):
            slot = wording.values({f: conditions[f] for f in act.fields})
            return said(wording.say(act.name, {"slot": slot}), told=fields)
        if act.name == "dont_care":
            return said(wording.say("dont_care", {}), told=fields)
        if act.name == "relax":
            word = self._task.kind.condition(act.fields[0]).word
            return said(wording.say("relax", {"word": word}))
        if act.name == "ask":
            name = "ask_again" if again and fields <= standing.asked else "ask"
            text = wording.say(name, {"detail": wording.detail(act.fields)})
            return Said(text=text, acts=(act,), asked=fields)
        if act.name == "details":
            return Said(text=wording.booking("give"), acts=(act,), details=True)
        if act.name == "book":
            return self._book(act, standing, again=again)
        return said(wording.say(act.name, {}))

    def _book(self, act: Act, standing: Standing, *, again: bool) -> Said:
        asked = frozenset({BOOK})
        if again and BOOK in standing.asked:
            if standing.details_given:
                return Said(text=self._wording.say("book_again", {}), acts=(act,), asked=asked)
            full = True
        else:
            full = standing.details_given or self._rng.random() < 0.5
        text = self._wording.booking("full" if full else "part")
        return Said(text=text, acts=(act,), asked=asked, details=full)

    def _mood(self, text: str, *, helped: bool, ends: bool) -> str:
        """Let the user's mood colour what is said."""
        if ends:
            return text
        if helped and self._persona.polite and self._rng.random() < 0.4:
            return self._wording.say("polite", {}) + " " + text
        if not helped and self._persona.cross and self._rng.random() < 0.5:
            return self._wording.say("cross", {}) + " " + text
        return text
