"""Users fitted to logs, users played by a model, and how like real ones they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dialog_rl.cli import main
from dialog_rl.envs import DialogEnv, load_domain
from dialog_rl.envs.domain import Domain
from dialog_rl.envs.fidelity import compare
from dialog_rl.envs.fitted import FittedUsers, features
from dialog_rl.envs.llm_user import FIRST, SILENT, llm_voices
from dialog_rl.envs.logs import read_logs
from dialog_rl.envs.recognise import Reader, Reading, kind_of, readers
from dialog_rl.errors import DataError
from dialog_rl.simulate import converse, scripted_agent
from tests.fakes import save_tiny_model
from tests.unit.envs.foreign import PLACES, dialogue, service, write_lines


@pytest.fixture
def food(tmp_path: Path) -> Domain:
    return load_domain(f"{service(tmp_path)}#Food_1")


@pytest.fixture
def reader(food: Domain) -> Reader:
    return Reader(food, "restaurant")


def test_a_turn_is_read_by_the_words_of_the_domain(reader: Reader) -> None:
    reading = reader.read("Hi! I want italian in SFO, what's the phone number of Ala Romana?")
    assert reading.conditions == {"cuisine": "Italian", "city": "San Francisco"}
    assert reading.asks == ("phone_number",)
    assert reading.facts == {"restaurant_name"}
    assert (
        reading.template
        == "Hi! I want {cuisine} in {city}, what's the phone number of {restaurant_name}?"
    )
    assert reading.signature == "inform+ask+greet+2"
    booking = reader.read("Please reserve it, 18:00 for 2. Thanks, bye!")
    assert booking.details == {"time": "18:00", "party_size": "2"}
    assert set(booking.acts) == {"details", "book", "thanks", "bye"}
    assert reader.read("Hm {braces}.").acts == ("other",)
    # The longest value counts: "no live music" is not "live music".
    assert reader.read("no live music").conditions == {"has_live_music": "no live music"}


def test_the_kind_of_a_conversation_is_the_one_whose_words_it_has() -> None:
    by_kind = readers(load_domain("concierge"))
    assert kind_of(["a cheap italian restaurant in the north"], by_kind) == "restaurant"
    assert kind_of(["i need a cab", "its number?"], by_kind) == "taxi"


def lines(count: int) -> list[dict[str, Any]]:
    """Conversations without a split: every fourth is for test."""
    rows = []
    for number in range(count):
        row = dialogue(number, PLACES[number % len(PLACES)])
        rows.append({"messages": row["messages"]})
    return rows


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    write_lines(tmp_path / "logs.jsonl", lines(60))
    return tmp_path / "logs.jsonl"


def test_logs_are_read_from_lines_and_from_a_service(tmp_path: Path, logs: Path) -> None:
    folder = service(tmp_path)
    food = load_domain(f"{folder}#Food_1")
    read = read_logs(str(logs), food)
    assert [d.split for d in read[:5]] == ["train", "train", "train", "test", "train"]
    assert read[1].user_turns[0] == "I want some Brunch food in Oakland."
    rows = [json.loads(line) for line in (folder / "dialogues.jsonl").read_text().splitlines()]
    rows[0]["goal"]["services"] = ["Food_1", "Payment_1"]  # about two services: left out
    write_lines(folder / "dialogues.jsonl", rows)
    assert len(read_logs(f"{folder}#Food_1", food)) == 4
    with pytest.raises(DataError, match="no conversation about 'Payment_1' alone"):
        read_logs(f"{folder}#Payment_1", food)
    write_lines(tmp_path / "bad.jsonl", [{"messages": [{"role": "user"}]}])
    with pytest.raises(DataError, match=r'bad\.jsonl:1: "messages" must be'):
        read_logs(str(tmp_path / "bad.jsonl"), food)


def test_fitted_users_speak_in_logged_turns_with_their_own_values(food: Domain, logs: Path) -> None:
    read = read_logs(str(logs), food)
    users = FittedUsers(food, [d for d in read if d.split == "train"])
    episodes = converse(
        scripted_agent(),
        lambda: DialogEnv(food, make_voice=users.voice),
        range(30),
        batch_size=8,
        version="scripted",
    )
    assert all(e.success for e in episodes)
    logged = {turn.reading.template for turn in users.turns["restaurant"]}
    said = [users.readers["restaurant"].read(t).template for e in episodes for t in e.user_turns]
    assert np.mean([template in logged for template in said]) > 0.5
    assert {e.user_turns[-1] for e in episodes} == {"Thanks, goodbye!"}
    for episode in episodes:
        first = users.readers["restaurant"].read(episode.user_turns[0])
        wanted = episode.goal["conditions"].items()
        assert first.conditions.items() <= wanted


def test_a_fitted_user_asks_for_the_number_when_people_did(food: Domain, logs: Path) -> None:
    # In every logged conversation the question for the number follows "How about ...?", and the
    # booking follows the number.
    users = FittedUsers(food, read_logs(str(logs), food))
    reader = users.readers["restaurant"]
    kind = food.kinds["restaurant"]
    opening = reader.read("I want some Italian food in SFO.")
    asking = reader.read("Great, what is the phone number?")
    offered = features("How about Cala?", opening, 1, food, kind, reader)
    told = features("It is 415-660-7701.", asking, 2, food, kind, reader)
    for moment, expected in ((offered, "ask+affirm+0"), (told, "details+book+0")):
        chances = users.chances(moment)
        assert max(chances, key=lambda name: chances[name]) == expected


def test_too_few_logs_are_refused(food: Domain, logs: Path) -> None:
    with pytest.raises(DataError, match="the logs hold 4 turns of users"):
        FittedUsers(food, read_logs(str(logs), food)[:1])


class Actor:
    """A model that says its lines, and remembers what it was told."""

    def __init__(self, *said: str) -> None:
        self.said, self.heard = list(said), list[Any]()

    def __call__(self, messages: Any, seed: int) -> str:
        self.heard.append([dict(m) for m in messages])
        return self.said[min(len(self.heard), len(self.said)) - 1]


def played(food: Domain, actor: Actor) -> DialogEnv:
    env = DialogEnv(food, split="train", make_voice=llm_voices(readers(food), actor))
    for seed in range(50):  # a goal with a booking, a question and no change of mind
        env.reset(seed=seed)
        if env.user.task.goal.conditions["cuisine"] == "Brunch":
            actor.heard.clear()
            env.reset(seed=seed)
            return env
    raise AssertionError("no such goal")


def test_a_model_plays_the_user_with_a_secret_goal(food: Domain) -> None:
    actor = Actor(
        "Brunch in Oakland please", "What is the phone number?", "Book it: 18:00, 2", "Bye"
    )
    env = played(food, actor)
    assert env.user.told == {"cuisine", "city"}
    system = actor.heard[0][0]["content"]
    assert "It must have this city: Oakland." in system
    assert "Find out its phone number." in system
    assert "time 18:00, party_size 2" in system
    assert actor.heard[0][1:] == [{"role": "user", "content": FIRST}]
    *_, info = env.step("Bellanico is a restaurant: cuisine Brunch, city Oakland.")
    assert info["user_acts"] == [["ask", "phone_number"]]
    # The roles are swapped: what the model said itself is the assistant's side of its prompt.
    assert [m["role"] for m in actor.heard[1]] == ["system", "user", "assistant", "user"]
    *_, info = env.step("The phone number of Bellanico is 510-336-1180.")
    assert "Find out" not in actor.heard[2][0]["content"]  # it knows the number now
    assert info["user_acts"] == [["book"], ["details"]]
    _, _, terminated, _, info = env.step("Bellanico is booked for you: time 18:00, party size 2.")
    assert terminated
    assert info["success"]
    assert "say thanks and goodbye" in actor.heard[3][0]["content"]


def test_a_model_that_leaves_early_or_says_nothing_fails_its_task(food: Domain) -> None:
    env = played(food, Actor("Brunch in Oakland please", "Goodbye!"))
    _, _, terminated, _, info = env.step("Bellanico is a restaurant.")
    assert terminated
    assert info["user_acts"] == [["give_up"]]
    assert not info["success"]
    env = played(food, Actor("  \n "))
    assert env.messages[-1]["content"] == SILENT
    for _ in range(10):
        _, _, terminated, _, info = env.step("Hm.")
        if terminated:
            break
    assert info["user_acts"] == [["give_up"]]


def turns(reader: Reader, *said: str) -> list[Reading]:
    return [reader.read(text) for text in said]


def test_fidelity_tells_other_people_from_the_same_people(reader: Reader) -> None:
    polite = ["I want some {} food, please.", "Could you kindly book it?", "Thanks, goodbye!"]
    curt = ["{}", "book", "done"]
    cuisines = ["Italian", "Mexican", "Brunch"]

    def talks(texts: list[str], count: int) -> list[list[Reading]]:
        return [
            turns(reader, *(t.format(cuisines[i % 3]) for t in texts[: 2 + i % 2]))
            for i in range(count)
        ]

    same = compare(talks(polite, 30), talks(polite, 30))
    other = compare(talks(polite, 30), talks(curt, 30))
    assert same.distances["word_divergence"].value == pytest.approx(0.0)
    assert same.distances["act_divergence"].value == pytest.approx(0.0)
    assert same.distances["auc_turn"].low <= 0.5 <= same.distances["auc_turn"].high + 0.1
    assert other.distances["auc_turn"].low > 0.9
    assert other.distances["auc_dialogue"].low > 0.9
    # Two or three turns a conversation; "{cuisine}" counts as a word.
    assert other.real["turns"].value == 2.5
    # Polite turns have 6, 5 and 2 words, half of the conversations have the third: 24 words in 5.
    assert other.real["words"].value == pytest.approx(24 / 5)
    assert other.simulated["words"].value == 1.0
    # Of "cuisine", "book" and "done" only "done" is never said by the others: 1 of 5 words.
    assert other.distances["unseen_words"].value == pytest.approx(1 / 5)
    with pytest.raises(DataError, match="at least 10 conversations of each side, got 3 simulated"):
        compare(talks(polite, 30), talks(curt, 3))


def test_simulate_fits_users_and_reports_their_fidelity(
    tmp_path: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = service(tmp_path)
    argv = f"simulate --home {tmp_path} --version scripted --conversations 30 --user fitted"
    argv += f" --logs {logs} --fidelity {logs} --domain {folder}#Food_1"
    assert main([*argv.split(), "--output_dir", str(tmp_path / "out")]) == 0
    assert "auc_turn" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "fidelity.json").read_text())["scripted"]
    assert report["distances"]["auc_turn"]["high"] <= 1.0
    assert report["real"]["turns"]["value"] == 4.0
    page = (tmp_path / "out" / "fidelity.html").read_text()
    assert "auc_dialogue" in page
    assert "with scripted" in page


def test_simulate_lets_a_model_play_the_users(tmp_path: Path) -> None:
    folder = service(tmp_path)
    model = save_tiny_model(tmp_path / "model")
    argv = f"simulate --home {tmp_path} --version scripted --conversations 3 --user llm"
    argv += f" --user_model_name_or_path {model} --max_new_tokens 6 --max_turns 4"
    argv += f" --domain {folder}#Food_1 --output_dir {tmp_path / 'out'}"
    assert main(argv.split()) == 0
    records = (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()
    said = [m["content"] for r in records for m in json.loads(r)["messages"] if m["role"] == "user"]
    assert len(set(said)) > 3


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("--user fitted", 3, "user fitted needs logs"),
        (
            "--domain code --data x --fidelity y",
            3,
            "fidelity has no effect with a task of one turn",
        ),
        ("--logs x.jsonl", 3, "logs has no effect with user agenda"),
        ("--user_model_name_or_path x", 3, "has no effect with user agenda"),
        ("--user fitted --logs nowhere.jsonl --version scripted", 1, "nowhere.jsonl cannot be"),
        ("--fidelity nowhere.jsonl --version scripted", 1, "nowhere.jsonl cannot be read"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    flags: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--home", str(tmp_path), *flags.split()]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
