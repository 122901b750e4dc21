"""The assistant's side in dialogue acts: what it can say, what it knows, and a scripted agent.

The scripted agent is the reference for both environments: it looks up what it was asked for, tells
what it was asked, books, and says nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dialog_rl.envs.domain import Domain, Entry
from dialog_rl.envs.task import Catalogue, fits
from dialog_rl.envs.user import AgendaUser, UserTurn


@dataclass(frozen=True, kw_only=True)
class SystemAct:
    """A dialogue act of the assistant."""

    name: str
    """ask, offer, none, tell, ask_details, confirm, clarify or bye."""
    field: str = ""


def system_acts(domain: Domain) -> tuple[SystemAct, ...]:
    """Return every act of a domain's assistant, in the order of ``DialogActEnv``'s actions."""
    kinds = domain.kinds.values()
    conditions = dict.fromkeys(c.field for kind in kinds for c in kind.conditions)
    facts = dict.fromkeys(f.field for kind in kinds for f in kind.facts)
    return (
        SystemAct(name="offer"),
        SystemAct(name="none"),
        *(SystemAct(name="ask", field=f) for f in conditions),
        *(SystemAct(name="tell", field=f) for f in facts),
        SystemAct(name="ask_details"),
        SystemAct(name="confirm"),
        SystemAct(name="clarify"),
        SystemAct(name="bye"),
    )


@dataclass(kw_only=True)
class Belief:
    """What the assistant knows: what the user has said, without errors of understanding."""

    kind: str
    catalogue: Catalogue
    conditions: dict[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """Conditions the user has spoken about."""
    offered: Entry | None = None
    """The last offer, while nothing the user said speaks against it."""
    refused: set[str] = field(default_factory=set)
    """Lines of offers that the user did not take."""
    wanted: dict[str, None] = field(default_factory=dict)
    """Facts the user has asked for and not been told, in order."""
    details: Mapping[str, str] | None = None
    """Details of the booking, once the user has told them."""
    booking_wanted: bool = False
    confirmed: bool = False

    @classmethod
    def of(cls, user: AgendaUser) -> "Belief":
        """Return what is known after the user's first words."""
        belief = cls(kind=user.task.goal.kind, catalogue=user.task.catalogue)
        belief._update_conditions(user)
        return belief

    def _update_conditions(self, user: AgendaUser) -> None:
        self.told = set(user.told)
        self.conditions = {f: v for f, v in user.conditions.items() if f in self.told}

    def hear(self, turn: UserTurn, user: AgendaUser) -> None:
        """Take in what the user said."""
        self._update_conditions(user)
        names = {act.name for act in turn.acts}
        if self.offered is not None:
            again = names & {"request", "correct", "insist", "choose"}
            if again or not fits(self.offered, self.conditions):
                self.refused.add(str(self.offered.fields))
                self.offered = None
        for act in turn.acts:
            if act.name == "ask":
                self.wanted |= dict.fromkeys(act.fields)
        self.booking_wanted |= "book" in names or "details" in names
        if user.details_given:
            self.details = user.task.goal.booking

    def candidates(self) -> list[Entry]:
        """Return what meets the conditions and was not refused."""
        found = self.catalogue.match(self.kind, self.conditions)
        return [e for e in found if str(e.fields) not in self.refused] or found


def realise(act: SystemAct, belief: Belief, domain: Domain) -> str:
    """Put an act into words and note in the belief what was said.

    An act that means nothing here (a fact when nothing was offered, a question this kind of thing
    does not have) comes out as the domain's ``clarify``.
    """
    kind, replies = domain.kinds[belief.kind], domain.replies
    entry = belief.offered
    if act.name == "offer" and (found := belief.candidates()):
        belief.offered = found[0]
        return kind.offer.format_map(found[0].fields)
    if act.name in ("none", "offer"):
        return replies["none"].format(plural=kind.plural)
    if act.name == "ask" and any(c.field == act.field for c in kind.conditions):
        return kind.condition(act.field).ask
    if act.name == "tell" and entry and any(f.field == act.field for f in kind.facts):
        belief.wanted.pop(act.field, None)
        return kind.fact(act.field).tell.format_map(entry.fields)
    if kind.booking is not None and act.name == "ask_details":
        return kind.booking.ask
    if kind.booking is not None and act.name == "confirm" and entry and belief.details:
        belief.confirmed = True
        return kind.booking.confirm.format_map({**entry.fields, **belief.details})
    return replies["bye"] if act.name == "bye" else replies["clarify"]


def scripted_act(belief: Belief) -> SystemAct:
    """Choose the best act: offer, tell what was asked, book, and otherwise say goodbye."""
    if belief.offered is None:
        return SystemAct(name="offer" if belief.candidates() else "none")
    if belief.wanted:
        return SystemAct(name="tell", field=next(iter(belief.wanted)))
    if belief.booking_wanted and not belief.confirmed:
        return SystemAct(name="confirm" if belief.details else "ask_details")
    return SystemAct(name="bye")
