"""A domain file is read whole, and a wrong one is refused with the place of the mistake."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.concierge.environment import OUTPUT, entry_lines
from dialog_rl.envs.domain import Domain, Phrases, load_domain
from dialog_rl.envs.task import draw_task, fits
from dialog_rl.envs.wording import expand
from dialog_rl.errors import DataError
from tests.unit.envs.conftest import cinema


def every_phrase(domain: Domain) -> list[Phrases]:
    kinds = domain.kinds.values()
    return [
        domain.instructions,
        *domain.says.values(),
        *domain.synonyms.values(),
        *(k.nouns for k in kinds),
        *(p for k in kinds for c in k.conditions for p in (c.phrase, c.alone)),
        *(f.words for k in kinds for f in k.facts),
        *(p for k in kinds if k.booking for p in (k.booking.full, k.booking.part, k.booking.give)),
    ]


def test_what_users_say_in_test_is_never_said_in_training_also_after_choices(
    concierge: Domain,
) -> None:
    rng = np.random.default_rng(0)
    said = {
        split: {
            expand(rng, template).strip(string.punctuation + " ")
            for phrases in every_phrase(concierge)
            for template in phrases.of(split)  # type: ignore[arg-type]
            for _ in range(40)
        }
        for split in ("train", "test")
    }
    assert not said["train"] & said["test"]


def test_users_in_training_have_many_ways_to_say_everything(concierge: Domain) -> None:
    spoken = [p for p in every_phrase(concierge) if p is not concierge.instructions]
    assert min(len(set(p.train)) for p in spoken) >= 6
    assert sum(len(p.train) for p in spoken) > 1000
    for act in ("request", "ask"):
        assert len(concierge.says[act].train) >= 30


def test_names_of_the_two_splits_share_no_entry(concierge: Domain) -> None:
    names = {
        split: {e.fields.get("name") for e in concierge.entries if e.split == split} - {None}
        for split in ("train", "test")
    }
    assert len(names["train"]) == len(names["test"]) == 116  # 60 + 40 + 16
    assert not names["train"] & names["test"]


def test_the_shipped_entries_are_what_their_script_draws() -> None:
    assert OUTPUT.read_text(encoding="utf-8").splitlines() == entry_lines()


def test_another_domain_is_a_file(cinema_file: Path) -> None:
    domain = load_domain(cinema_file)
    assert domain.kinds["film"].listed == (2, 3)
    assert next(e.fields["title"] for e in domain.pool("film", "test")) == "Lost Moon Two"


def test_entries_may_stand_in_a_file_beside_it(tmp_path: Path) -> None:
    raw = cinema()
    (tmp_path / "films.jsonl").write_text("\n".join(map(json.dumps, raw["entries"])))
    (tmp_path / "cinema.json").write_text(json.dumps({**raw, "entries": "films.jsonl"}))
    assert len(load_domain(tmp_path / "cinema.json").entries) == 6


def broken(change: Any) -> dict[str, Any]:
    raw = cinema()
    change(raw)
    return raw


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("kinds"), "lacks the key 'kinds'"),
        (lambda d: d.update(colour=1), "unknown key 'colour'"),
        (lambda d: d.update(name=7), "name must be text, got 7"),
        (lambda d: d.update(success=["luck"]), "success[0] must be one of right_entry"),
        (lambda d: d["says"].pop("bye"), "says lacks the key 'bye'"),
        (lambda d: d["says"]["bye"].update(test=[]), "both train and test need"),
        (
            lambda d: d["says"]["bye"].update(test=d["says"]["bye"]["train"]),
            "stands in train and in test",
        ),
        (
            lambda d: d["says"]["ask"].update(test=["the {phone}?"]),
            "says.ask.test[0] uses {phone}; allowed are detail",
        ),
        (lambda d: d["kinds"]["film"].update(offer="{title} [a|b"), "open bracket"),
        (lambda d: d["kinds"]["film"].update(offer="{title"), "cannot be read"),
        (lambda d: d["kinds"]["film"].update(named_by=["name"]), "uses {name}"),
        (lambda d: d["kinds"]["film"].update(listed=[2]), "listed must have 2 values, got 1"),
        (lambda d: d["kinds"]["film"].update(listed=[3, 4]), "up to 4 entries"),
        (lambda d: d["entries"][0]["fields"].pop("hall"), "entry 1 lacks the field 'hall'"),
        (lambda d: d["entries"][1].update(kind="play"), "entry 2 has the kind 'play'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(change: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "cinema.json"
    path.write_text(json.dumps(broken(change)))
    with pytest.raises(DataError) as caught:
        load_domain(path)
    assert str(caught.value).startswith("cinema.json")
    assert said in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no domain 'opera'; .* one of concierge"):
        load_domain("opera")
    path = tmp_path / "cinema.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"cinema\.json: not JSON"):
        load_domain(path)
    path.write_text(json.dumps({**cinema(), "entries": "nowhere.jsonl"}))
    with pytest.raises(DataError, match=r"nowhere\.jsonl cannot be read"):
        load_domain(path)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), split=st.sampled_from(("train", "test")))
def test_every_goal_can_be_reached_in_its_catalogue(seed: int, split: Any) -> None:
    task = draw_task(CONCIERGE, split, np.random.default_rng(seed))
    goal, catalogue = task.goal, task.catalogue
    assert {e.split for e in catalogue.entries} == {split}
    assert goal.requests or goal.booking
    assert not set(goal.requests) & set(goal.conditions)
    met = catalogue.match(goal.kind, goal.conditions)
    if goal.relax:
        rest = {f: v for f, v in goal.conditions.items() if f != goal.relax}
        assert not met
        assert catalogue.match(goal.kind, rest)
    else:
        assert met
    if goal.change:
        changed = {**goal.conditions, goal.change[0]: goal.change[1]}
        assert any(fits(e, changed) for e in catalogue.match(goal.kind, {}))
    for line, entry in zip(
        catalogue.system_prompt().splitlines()[1:], catalogue.entries, strict=True
    ):
        assert all(value in line for value in entry.fields.values())


CONCIERGE = load_domain("concierge")
