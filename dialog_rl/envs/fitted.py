"""A user fitted to logged conversations: it says what people said, when people said it.

Two parts are learned from logs. *When*: a logistic regression tells from the assistant's last
turn and the person's own last turn what kind of turn comes next (``Reading.signature``). *How*: the
logged turns themselves, with their values taken out. To speak, the voice looks up the logged turns
that the user's task allows (what must be said is in them, and nothing that it does not want), draws
one in proportion to the probability of its kind, and fills in its own values. So the goal, success
and patience are the agenda's (``user.py``); the words, their order and how much comes at once are
people's. What no logged turn says (leaving in anger, insisting, giving up a condition) is said in
the words of the agenda's voice.

Fitting takes seconds, so nothing is stored: ``dialog-rl simulate --user fitted --logs FILE``.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dialog_rl.envs.domain import Domain, Kind
from dialog_rl.envs.logs import LoggedDialogue
from dialog_rl.envs.phrasing import AgendaVoice
from dialog_rl.envs.recognise import Reader, Reading
from dialog_rl.envs.task import Task, pick
from dialog_rl.envs.understanding import folded, has_cue
from dialog_rl.envs.voice import BOOK, Act, Said, Standing
from dialog_rl.envs.wording import Persona
from dialog_rl.errors import ConfigError, DataError
from reward_models.base import Message
from reward_models.rules import sentences

FEWEST_TURNS = 20
"""Logged user turns below which nothing is fitted."""
LEAVING = frozenset({"thanks", "bye", "affirm", "deny"})
Features = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class LoggedTurn:
    """One turn of a person."""

    reading: Reading
    first: bool
    last: bool


def features(
    said: str, before: Reading | None, turns: int, domain: Domain, kind: Kind, reader: Reader
) -> Features:
    """Describe the moment before a person speaks.

    Args:
        said: the assistant's last turn; empty before the first.
        before: the person's last turn.
        turns: how many turns the person has had.
        domain: whose cue words are used.
        kind: of thing that is talked about.
        reader: of that kind.
    """
    found: dict[str, float] = {"turn": min(turns, 6) / 6, "first": float(turns == 0)}
    heard = reader.read(said)
    for sentence in sentences(said):
        words, asks = folded(sentence), "?" in sentence
        found |= {"asks" if asks else "states": 1.0}
        for condition in kind.conditions:
            if asks and has_cue(words, condition.cues):
                found["asks a condition"] = 1.0
        for name in ("details", "book_offer") if asks else ("refusal", "booked"):
            if has_cue(words, domain.cues[name]):
                found[name] = 1.0
    found |= {f"tells {field}": 1.0 for field in heard.facts}
    found |= {f"said {act}": 1.0 for act in (before.acts if before else ())}
    return found


class FittedUsers:
    """What was learned from logs; :meth:`voice` makes the voice of one user."""

    def __init__(self, domain: Domain, dialogues: Sequence[LoggedDialogue]) -> None:
        """Fit to conversations.

        Args:
            domain: what they are about.
            dialogues: to learn from.

        Raises:
            ConfigError: scikit-learn is not installed.
            DataError: there are too few turns, or they are all of one kind.
        """
        try:
            from sklearn.feature_extraction import DictVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError as error:
            raise ConfigError(
                "a fitted user needs scikit-learn: pip install 'dialog-rl[users]'"
            ) from error
        self.domain = domain
        self.readers = {kind: Reader(domain, kind) for kind in {d.kind for d in dialogues}}
        self.turns: dict[str, list[LoggedTurn]] = defaultdict(list)
        moments: list[Features] = []
        signatures: list[str] = []
        for dialogue in dialogues:
            for moment, turn in self._turns(dialogue):
                moments.append(moment)
                signatures.append(turn.reading.signature)
                self.turns[dialogue.kind].append(turn)
        if len(signatures) < FEWEST_TURNS or len(set(signatures)) < 2:
            raise DataError(
                f"the logs hold {len(signatures)} turns of users, of {len(set(signatures))} kinds; "
                f"a fitted user needs at least {FEWEST_TURNS}, of 2 kinds"
            )
        self._model: Any = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=500))
        self._model.fit(moments, signatures)

    def _turns(self, dialogue: LoggedDialogue) -> list[tuple[Features, LoggedTurn]]:
        """Return a person's turns, each with the moment before it."""
        kind, reader = self.domain.kinds[dialogue.kind], self.readers[dialogue.kind]
        said, before = "", None
        found: list[tuple[Features, LoggedTurn]] = []
        users = len(dialogue.user_turns)
        for message in dialogue.messages:
            if message["role"] != "user":
                said = message["content"]
                continue
            reading = reader.read(message["content"])
            moment = features(said, before, len(found), self.domain, kind, reader)
            turn = LoggedTurn(
                reading=reading, first=not found, last=len(found) == users - 1 and users > 1
            )
            found.append((moment, turn))
            before = reading
        return found

    def chances(self, moment: Features) -> dict[str, float]:
        """Return the probability of every kind of turn."""
        chances = self._model.predict_proba([moment])[0]
        return dict(zip(self._model.classes_, chances, strict=True))

    def voice(self, task: Task, persona: Persona, rng: np.random.Generator) -> "FittedVoice":
        """Make the voice of one user."""
        return FittedVoice(self, task, persona, rng)


class FittedVoice:
    """Speaks in logged turns."""

    def __init__(
        self, users: FittedUsers, task: Task, persona: Persona, rng: np.random.Generator
    ) -> None:
        """Take the user's own random numbers; a kind that no log is about has no turns."""
        self._users, self._task, self._rng = users, task, rng
        self._spare = AgendaVoice(task, persona, rng)
        self._logged: Sequence[LoggedTurn] = users.turns.get(task.goal.kind, ())
        self._before: Reading | None = None
        self._spoken = 0
        self._details: set[str] = set()
        """Details of the booking that have been told."""
        self._said: set[str] = set()
        """Turns that have been used; nobody says the same twice while there is something else."""

    def open(self, standing: Standing) -> Said:
        """Say the first turn of some conversation whose conditions the user has."""
        fitting = [
            turn
            for turn in self._logged
            if turn.first
            and not turn.last
            and set(turn.reading.conditions) <= set(standing.conditions)
            and not (turn.reading.details or turn.reading.facts or turn.reading.asks)
        ]
        if not fitting:
            return self._spare.open(standing)
        reading = self._draw(fitting, "").reading
        return Said(
            text=self._filled(reading, standing),
            acts=(Act(name="request"),),
            told=frozenset(reading.conditions),
        )

    def say(
        self,
        acts: Sequence[Act],
        standing: Standing,
        *,
        helped: bool,
        messages: Sequence[Message],
    ) -> Said:
        """Say a logged turn that says what must be said; without one, speak as the agenda does."""
        fitting = [turn for turn in self._logged if self._may_say(turn, acts, standing)]
        if not fitting:
            self._spoken += 1
            return self._spare.say(acts, standing, helped=helped, messages=messages)
        fresh = [turn for turn in fitting if turn.reading.template not in self._said]
        reading = self._draw(fresh or fitting, messages[-1]["content"]).reading
        if acts[-1].name == "bye":
            return Said(text=reading.template, acts=tuple(acts))
        self._details |= set(reading.details)
        said = [act for act in acts if act.name not in ("ask", BOOK, "details")]
        said += [Act(name="ask", fields=reading.asks)] if reading.asks else []
        said += [Act(name=BOOK)] if BOOK in reading.acts else []
        said += [Act(name="details")] if reading.details else []
        booked = {BOOK} if BOOK in reading.acts or reading.details else set()
        needed = set(self._task.goal.booking or ())
        return Said(
            text=self._filled(reading, standing),
            acts=tuple(said),
            told=frozenset(reading.conditions) | {f for a in said for f in _wished(a)},
            asked=frozenset({*reading.asks, *booked}),
            details=bool(needed) and needed <= self._details,
        )

    def _may_say(self, turn: LoggedTurn, acts: Sequence[Act], standing: Standing) -> bool:
        """Tell whether a turn says what the agenda wants to say, and nothing that is not so."""
        reading, told = turn.reading, set(turn.reading.acts)
        if acts[-1].name == "bye":
            return turn.last and told <= LEAVING and "{" not in reading.template
        if (
            turn.last
            or told & {"bye", "else", "other"}
            or ("dont_care" in told) != any(act.name == "dont_care" for act in acts)
        ):
            return False
        settled = standing.focus is not None
        wished = {field for act in acts for field in _wished(act)}
        allowed = wished if settled else set(standing.conditions)
        booking = set(self._task.goal.booking or ()) if settled and standing.booking else set()
        untold = booking - self._details
        named = set(self._task.kind.named_by) if settled else set()
        return (
            all(_covers(reading, act) for act in acts)
            and set(reading.conditions) <= allowed
            and set(reading.details) <= booking
            and (not reading.details or not untold or bool(untold & set(reading.details)))
            and (BOOK not in told or bool(booking))
            and set(reading.asks) <= (set(standing.requests) if settled else set())
            and reading.facts <= named
        )

    def _draw(self, fitting: Sequence[LoggedTurn], said: str) -> LoggedTurn:
        """Draw a turn: its kind by the regression, and among those of a kind each alike."""
        kind = self._task.goal.kind
        reader = self._users.readers[kind]
        moment = features(
            said, self._before, self._spoken, self._users.domain, self._task.kind, reader
        )
        chances = self._users.chances(moment)
        all_turns = Counter(turn.reading.signature for turn in self._logged)
        weights = np.array(
            [chances[t.reading.signature] / all_turns[t.reading.signature] for t in fitting]
        )
        turn = fitting[int(self._rng.choice(len(fitting), p=weights / weights.sum()))]
        self._before = turn.reading
        self._said.add(turn.reading.template)
        self._spoken += 1
        return turn

    def _filled(self, reading: Reading, standing: Standing) -> str:
        """Fill a turn's slots with the user's own values."""
        values: Mapping[str, str] = {
            **(standing.focus.fields if standing.focus else {}),
            **(self._task.goal.booking or {}),
            **standing.conditions,
        }
        text = reading.template
        for field in {*reading.conditions, *reading.details, *reading.facts}:
            synonyms = self._task.domain.synonyms.get(values[field])
            said = pick(self._rng, synonyms.of(self._task.split)) if synonyms else values[field]
            text = text.replace(f"{{{field}}}", said)
        return text


def _wished(act: Act) -> tuple[str, ...]:
    """Return the conditions that an act is about."""
    return act.fields if act.name in ("inform", "correct", "change", "dont_care") else ()


def _covers(reading: Reading, act: Act) -> bool:
    """Tell whether a turn says what an act must say."""
    if act.name in ("inform", "correct", "change"):
        return set(act.fields) <= set(reading.conditions)
    if act.name == "request":
        return bool(reading.conditions)
    if act.name == "ask":
        return bool(reading.asks)
    if act.name == "details":
        return bool(reading.details)
    if act.name == BOOK:
        return BOOK in reading.acts or bool(reading.details)
    return act.name == "dont_care"
