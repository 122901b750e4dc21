"""The command line answers fast, in one line, with the exit codes the guide promises."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import pytest

from dialog_rl.cli import main
from dialog_rl.errors import ConfigError
from dialog_rl.options import build, field_docs, options

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "gradio",
    "sqlalchemy",
    "numpy",
    "gymnasium",
)


@dataclass(frozen=True, kw_only=True)
class Brew:
    """How to make tea."""

    minutes: int = 3
    """Time in the pot.
    In minutes."""
    kind: Literal["green", "black"] = "green"
    """Which leaves."""
    milk: bool = False
    cup_names: tuple[str, ...] = ()
    """Who drinks."""
    sugar: float | None = None

    def __post_init__(self) -> None:
        if self.minutes < 1:
            raise ValueError(f"minutes must be at least 1, got {self.minutes}")


@pytest.mark.parametrize(
    ("command", "flag"), [("train", "--total_episodes"), ("simulate", "--conversations")]
)
def test_help_loads_nothing_heavy(command: str, flag: str) -> None:
    code = (
        f"import sys; from dialog_rl.cli import main; main(['{command}', '--help']); "
        f"print('loaded:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert flag in done.stdout
    assert done.stdout.rstrip().endswith("loaded: []")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--foo"], "--foo"),
        (["train", "--kl_coef", "much"], "'much'"),
        (["train", "--kl_coef", "-1"], "kl_coef must be between 0 and 1000, got -1"),
        (["train", "--batch_size", "7", "--num_mini_batches", "2"], "multiple of num_mini_batches"),
        (["chat", "--port", "70000"], "port must be between 0 and 65535, got 70000"),
        (["chat", "--temperature", "9"], "temperature must be between 0 and 5, got 9"),
        (["fly"], "'fly'"),
        (["compare", "a2c"], "'a2c'"),
        (["compare", "kto", "dpo", "--kl_coef", "0.2"], "kl_coef has no effect with kto, dpo"),
        (
            ["train", "--algo", "grpo", "--lam", "0.9"],
            "lam has no effect with grpo (only with ppo)",
        ),
        (["train", "--beta", "0.2"], "beta has no effect with ppo (only with kto, dpo)"),
        (["train", "--resume", "x", "--seed", "1"], "leave out --seed"),
        (["train", "--algo", "grpo", "--num_generations", "1"], "num_generations must be at least"),
        (["adapters", "promote"], "VERSION"),
        (["import"], "FILES"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_3(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("dialog-rl: ")
    assert said in err


def test_an_error_the_user_can_mend_is_one_line_and_exit_code_1(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", "promote", "v9-nothing", "--home", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "v9-nothing" in err


def test_a_home_without_runs_says_so_beside_the_listing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "list", "--home", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "dialog-rl train" in told.err


def test_the_threads_of_every_command_sleep_when_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["adapters", "list", "--home", str(tmp_path)])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_every_setting_has_a_flag_in_both_spellings_and_its_docstring_as_help() -> None:
    seen: list[Brew] = []

    @click.command()
    @options(Brew)
    def brew(**flags: object) -> None:
        seen.append(build(Brew, flags))

    brew.main(
        ["--minutes", "4", "--kind", "black", "--milk", "--cup-names", "ann", "--cup_names", "bob"],
        standalone_mode=False,
    )
    brew.main([], standalone_mode=False)
    assert seen == [
        Brew(minutes=4, kind="black", milk=True, cup_names=("ann", "bob")),
        Brew(),
    ]
    assert field_docs(Brew) == {
        "minutes": "Time in the pot. In minutes.",
        "kind": "Which leaves.",
        "cup_names": "Who drinks.",
    }


def test_a_value_the_settings_refuse_becomes_a_config_error() -> None:
    with pytest.raises(ConfigError, match="minutes must be at least 1, got 0"):
        build(Brew, {"minutes": 0})
