"""Known data sets as domains, by their path."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from dialog_rl.cli import main
from dialog_rl.envs import DialogEnv, load_domain
from dialog_rl.envs.domain import Wish
from dialog_rl.envs.task import draw_task, fits
from dialog_rl.envs.understanding import understand
from dialog_rl.errors import DataError
from dialog_rl.simulate import converse, scripted_agent
from tests.store_values import shared_data
from tests.unit.envs.foreign import movies, service, write_lines

FOLDERS: dict[str, Callable[[Path], str]] = {
    "movies": lambda path: str(movies(path)),
    "Food_1": lambda path: f"{service(path)}#Food_1",
}


@pytest.fixture(params=FOLDERS)
def domain_path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return FOLDERS[request.param](tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_environments_keep_gymnasiums_contract(domain_path: str, split: str) -> None:
    for name in ("DialogRL/Concierge-v0", "DialogRL/ConciergeActs-v0"):
        check_env(gymnasium.make(name, domain=domain_path, split=split).unwrapped)


def test_the_reference_agent_reaches_every_goal(domain_path: str) -> None:
    domain = load_domain(domain_path)
    for split in ("train", "test"):
        episodes = converse(
            scripted_agent(),
            lambda split=split: DialogEnv(domain, split=split),  # type: ignore[misc]
            range(60),
            batch_size=8,
            version="scripted",
        )
        assert [e.seed for e in episodes if not e.success] == []


def test_simulate_takes_a_folder(
    domain_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"--home {tmp_path} --version scripted --conversations 20 --output_dir {tmp_path}/out"
    assert main(["simulate", *flags.split(), "--domain", domain_path]) == 0
    assert "success" in capsys.readouterr().out
    measures = json.loads((tmp_path / "out" / "measures.json").read_text())["measures"]
    assert measures["scripted"]["success"]["value"] == 1.0


def test_a_goal_of_tcbot_becomes_a_wish(tmp_path: Path) -> None:
    domain = load_domain(movies(tmp_path))
    assert len(domain.entries) == 6  # the showing without a time is left out
    assert domain.goals[0] == Wish(
        kind="showing",
        split="train",
        conditions={"moviename": "zootopia", "city": "seattle"},
        requests=("starttime", "theater"),
        booking={"numberofpeople": "2"},
    )
    # "other" is a slot that no showing has, "ticket" is the booking itself.
    assert domain.goals[1].conditions == {"moviename": "deadpool"}
    assert domain.goals[1].requests == ("date",)
    assert [w.split for w in domain.goals] == ["train", "train", "test", "test"]


def test_a_goal_that_no_showing_meets_gives_up_what_is_in_its_way(tmp_path: Path) -> None:
    env = DialogEnv(movies(tmp_path), split="test")
    seen = set()
    for seed in range(20):
        env.reset(seed=seed)
        goal, catalogue = env.user.task.goal, env.user.task.catalogue
        if goal.conditions["moviename"] == "creed":  # which runs in Seattle, not in Birmingham
            assert catalogue.match("showing", goal.conditions) == []
            # Either condition alone can be met: the first of the goal is given up.
            assert goal.relax == "moviename"
            assert catalogue.match("showing", {"city": "birmingham"})
        else:
            assert goal.relax is None
            assert catalogue.match("showing", goal.conditions)
        seen.add(goal.conditions["moviename"])
    assert seen == {"creed", "zootopia"}


def test_a_showing_is_named_by_film_cinema_and_time_together(tmp_path: Path) -> None:
    env = DialogEnv(movies(tmp_path), split="train")
    env.reset(seed=0)
    catalogue = env.user.task.catalogue

    def named(reply: str) -> list[str]:
        heard = understand(
            reply,
            domain=env.domain,
            catalogue=catalogue,
            kind="showing",
            messages=env.messages,
            focus=None,
        )
        return [entry.fields["starttime"] for entry in heard.named]

    first = next(e for e in catalogue.entries if e.fields["moviename"] == "zootopia")
    film, theater, time = (first.fields[f] for f in ("moviename", "theater", "starttime"))
    assert named(f"They show {film}.") == []
    assert named(f"They show {film} at {theater}.") == []
    assert named(f"They show {film} at {theater}, {time}.") == [time]


def test_what_is_not_known_is_left_out_of_the_line(tmp_path: Path) -> None:
    env = DialogEnv(movies(tmp_path))
    env.reset(seed=0)
    lines = env.messages[0]["content"].splitlines()[1:]
    assert "- creed: amc pacific place 11, tomorrow noon; city seattle" in lines


def test_a_dialogue_of_a_service_becomes_a_wish(tmp_path: Path) -> None:
    domain = load_domain(f"{service(tmp_path)}#Food_1")
    kind = domain.kinds["restaurant"]
    assert [c.field for c in kind.conditions] == ["cuisine", "city", "has_live_music"]
    assert [c.field for c in kind.conditions if c.required] == ["cuisine", "city"]
    assert [f.field for f in kind.facts] == ["phone_number"]
    assert kind.booking is not None
    assert kind.booking.details == ("time", "party_size")
    assert domain.goals[0] == Wish(
        kind="restaurant",
        split="train",
        conditions={"cuisine": "Italian", "city": "San Francisco"},
        change=("cuisine", "Mexican"),
        requests=("phone_number",),
        booking={"time": "18:00", "party_size": "2"},  # 2 is the schema's value
    )
    assert domain.goals[3].conditions["has_live_music"] == "live music"
    # All five dialogues are for training, so every fourth goal is kept for test.
    assert [w.split for w in domain.goals] == ["train"] * 3 + ["test", "train"]
    assert domain.synonyms["San Francisco"].train == ("SFO",)
    assert domain.entries[0].fields["has_live_music"] == "no live music"


def test_a_change_of_mind_can_be_met_before_and_after(tmp_path: Path) -> None:
    import numpy as np

    domain = load_domain(f"{service(tmp_path)}#Food_1")
    changes = 0
    for seed in range(30):
        task = draw_task(domain, "train", np.random.default_rng(seed))
        if task.goal.change is not None:
            field, value = task.goal.change
            after = {**task.goal.conditions, field: value}
            for wanted in (task.goal.conditions, after):
                assert any(fits(e, wanted) for e in task.catalogue.entries)
            changes += 1
    assert changes > 3


def _cut(name: str, change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        change(rows)
        write_lines(folder / name, rows)

    return write


GOALS = "goals.first_turn_template.part.movie.v1.jsonl"


@pytest.mark.parametrize(
    ("make", "spoil", "part", "said"),
    [
        (movies, lambda p: (p / GOALS).unlink(), "", "has no file of goals"),
        (movies, lambda p: None, "#goals.other", "goals.other.jsonl; there are: goals.first_turn"),
        (movies, _cut(GOALS, lambda r: r[1].pop("goal")), "", f"{GOALS}:2: a goal must have"),
        (movies, lambda p: (p / GOALS).write_text("{"), "", f"{GOALS}:1: not JSON"),
        (movies, _cut(GOALS, lambda r: r.__delitem__(slice(2, 4))), "", "none for the test split"),
        (movies, lambda p: write_lines(p / "movie_kb.1k.jsonl", [3]), "", "1k.jsonl:1: a line"),
        (service, lambda p: None, "", "has no service '(none named)'"),
        (service, lambda p: None, "#Bank_7", "with one of Food_1, Payment_1"),
        (service, lambda p: None, "#Payment_1", "no search with results"),
        (service, lambda p: (p / "dialogues.jsonl").unlink(), "#Food_1", "cannot be read"),
        (service, _cut("dialogues.jsonl", lambda r: r[0].pop("calls")), "#Food_1", "lacks what"),
        (
            service,
            _cut("dialogues.jsonl", lambda r: r.__delitem__(slice(1, 5))),
            "#Food_1",
            "goals",
        ),
        (service, lambda p: (p / "schema.train.json").unlink(), "#Food_1", "holds no domain"),
    ],
)
def test_a_wrong_folder_is_refused_in_words(
    make: Any, spoil: Callable[[Path], None], part: str, said: str, tmp_path: Path
) -> None:
    spoil(make(tmp_path))
    with pytest.raises(DataError) as caught:
        load_domain(f"{tmp_path}{part}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "part", "reached"),
    [
        # 3 of the 89 goals for training can be met by no showing, whatever one condition is given
        # up; all 39 for test can.
        ("tcbot_movie/movie_kb.1k.jsonl", "", (0.92, 1.0)),
        ("sgd/dialogues.jsonl", "#Restaurants_1", (1.0, 1.0)),
        ("sgd/dialogues.jsonl", "#Hotels_2", (1.0, 1.0)),
    ],
)
def test_the_real_data_makes_domains_that_can_be_served(
    name: str, part: str, reached: tuple[float, float]
) -> None:
    path = f"{shared_data(name).parent}{part}"
    domain = load_domain(path)
    for split, least in zip(("train", "test"), reached, strict=True):
        episodes = converse(
            scripted_agent(),
            lambda split=split: DialogEnv(domain, split=split),  # type: ignore[misc]
            range(100),
            batch_size=8,
            version="scripted",
        )
        assert sum(e.success for e in episodes) / 100 >= least
    check_env(gymnasium.make("DialogRL/ConciergeActs-v0", domain=path).unwrapped)
