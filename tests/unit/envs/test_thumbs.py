"""Simulated users rate the replies they got."""

from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.envs.thumbs import rating_lines
from dialog_rl.simulate import converse, scripted_agent


def test_a_reply_that_helps_gets_a_thumb_up_and_one_that_does_not_a_thumb_down() -> None:
    good = converse(scripted_agent(), DialogEnv, range(4), batch_size=4, version="scripted")
    lines = rating_lines(good)
    assert len(lines) == sum(len(e.steps) for e in good)
    assert {line["group"] for line in lines} == {f"scripted-{n}" for n in range(4)}
    for line in lines:
        assert [m["role"] for m in line["context"][:2]] == ["system", "user"]
        assert line["context"][-1]["role"] == "user"
    # the script never tells a wrong fact, and what it says helps
    assert all(line["ratings"] == [1.0] for line in lines)

    def mumble(envs: object, seeds: list[int], turn: object) -> list[str]:
        return ["Hm." for _ in seeds]

    bad = converse(mumble, DialogEnv, range(4), batch_size=4, version="mumble")  # type: ignore[arg-type]
    assert all(line["ratings"] == [0.0] for line in rating_lines(bad))


def test_a_wrong_fact_gets_a_thumb_down_although_the_reply_helps() -> None:
    def wrong(envs: list[DialogEnv], seeds: object, turn: object) -> list[str]:
        said = ["Which area, what price and what kind would you like? Call 99991." for _ in envs]
        return said

    (episode,) = converse(wrong, DialogEnv, [7], batch_size=1, version="v")  # type: ignore[arg-type]
    first, *_ = rating_lines([episode])
    assert episode.steps[0].grounding_errors == 1
    assert first["ratings"] == [0.0]
