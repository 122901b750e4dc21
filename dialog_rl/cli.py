"""The ``dialog-rl`` command.

Arguments are parsed before anything heavy is imported; each command imports its stage itself.
Exit codes: 0 done (or ship), 1 error, 2 do not ship, 3 bad arguments.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dialog_rl import __version__
from dialog_rl.config import TASK_ENVS, ChatSettings, GateSettings, SimulateSettings
from dialog_rl.errors import ConfigError, DialogRLError
from dialog_rl.home_commands import adapters, backup, runs
from dialog_rl.idle_settings import ENV_ONLY, refuse_idle, refuse_idle_candidates
from dialog_rl.options import build, given, home_option, options
from dialog_rl.process import settle
from dialog_rl.reward.commands import reward
from dialog_rl.train_settings import ALGOS, TrainSettings, env_defaults

if TYPE_CHECKING:
    from dialog_rl.simulation import Simulation
    from dialog_rl.task_trial import Trial

EXIT_ERROR, EXIT_NO_SHIP, EXIT_USAGE = 1, 2, 3


def _model_option(command: Any) -> Any:
    """Add ``--model_name_or_path``: the base model."""
    return click.option(
        "--model_name_or_path",
        "--model-name-or-path",
        "model_name_or_path",
        default=None,
        show_default="the bundled concierge",
        help="Base model: a folder or a Hugging Face Hub id of any causal LM with a chat template.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dialog-rl")
def cli() -> None:
    """Chat with an assistant, rate its replies, train it on the ratings, judge, promote."""
    settle()


@cli.command()
@home_option
@_model_option
@options(ChatSettings)
def chat(home: Path, model_name_or_path: str | None, **flags: Any) -> None:
    """Open the chat page, where people talk, rate and teach."""
    settings = build(ChatSettings, flags)
    refuse_idle_candidates(given(ChatSettings), settings.decode)
    from apps.server import run_chat

    run_chat(home=home, model_name_or_path=model_name_or_path, settings=settings)


@cli.command()
@home_option
@_model_option
@click.option(
    "--resume_from_checkpoint",
    "--resume",
    "resume",
    metavar="RUN",
    default=None,
    help="Go on with an interrupted run, by its id.",
)
@click.option(
    "--promote/--no_promote",
    default=False,
    show_default=True,
    help="Put the new adapter in service if the verdict is to ship.",
)
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Say what the run would do and how much memory it needs; load no weights, train nothing.",
)
@options(TrainSettings)
def train(
    home: Path,
    model_name_or_path: str | None,
    resume: str | None,
    promote: bool,
    only_plan: bool,
    **flags: Any,
) -> int:
    """Train an adapter on the feedback in the store and judge it against the one in service.

    With --env it learns from conversations with simulated users, and is judged on unseen ones; with
    --env translation, summarisation or code and --data from a file of questions with answers.
    """
    asked = given(TrainSettings)
    if flags["env"] is not None:
        credit = flags["credit"] if "credit" in asked else None
        defaults = env_defaults(flags["env"], algo=flags["algo"], credit=credit)
        flags |= {name: value for name, value in defaults.items() if name not in asked}
    settings = build(TrainSettings, flags)
    if resume and asked:
        raise ConfigError(f"--resume goes on with the run's own settings; leave out --{asked[0]}")
    refuse_idle(asked, [settings.algo], env=settings.env, credit=settings.credit)
    if only_plan:
        if resume or promote:
            raise ConfigError("--plan trains nothing; leave out --resume and --promote")
        from dialog_rl.train.plan import plan

        click.echo(plan(settings, home, model_name_or_path=model_name_or_path).summary())
        return 0
    from dialog_rl.train import pipeline
    from dialog_rl.train.team import join_team

    team = join_team()
    if not team.leads:
        pipeline.assist(home, team)
        return 0
    result = pipeline.train(
        settings,
        home=home,
        model_name_or_path=model_name_or_path,
        resume_run_id=resume,
        promote=promote,
        team=team,
    )
    click.echo(result.summary())
    return 0 if result.ship else EXIT_NO_SHIP


@cli.command()
@home_option
@_model_option
@click.argument("algos", nargs=-1, metavar="[ALGO]...", type=click.Choice(ALGOS))
@options(TrainSettings, skip=("algo", "env", "data", *ENV_ONLY))
def compare(home: Path, model_name_or_path: str | None, algos: Sequence[str], **flags: Any) -> int:
    """Train with each ALGO on the same ratings (all of them if none is named) and show a table.

    No adapter is put in service; `dialog-rl adapters promote` does that.
    """
    settings = build(TrainSettings, flags)
    chosen = [algo for algo in ALGOS if algo in algos] or list(ALGOS)
    refuse_idle(given(TrainSettings), chosen)
    from dialog_rl.train import standings

    found = standings.compare(
        chosen,
        settings,
        home,
        model_name_or_path=model_name_or_path,
    )
    click.echo(standings.table(found))
    return 0 if found[0].ship else EXIT_NO_SHIP


@cli.command("eval")
@home_option
@_model_option
@click.option("--candidate", required=True, metavar="VERSION", help="Adapter version to judge.")
@click.option(
    "--incumbent",
    default=None,
    metavar="VERSION",
    show_default="the one in service",
    help='Adapter version to beat; "base" is the model without an adapter.',
)
@click.option(
    "--env",
    default=None,
    type=click.Choice(TASK_ENVS),
    help="Judge on the held-out tasks of --data instead of feedback.",
)
@click.option("--data", default=None, metavar="FILE", help="With --env: the task file, JSON Lines.")
@options(GateSettings)
def evaluate(
    home: Path,
    model_name_or_path: str | None,
    candidate: str,
    incumbent: str | None,
    env: str | None,
    data: str | None,
    **flags: Any,
) -> int:
    """Judge one adapter against another on held-out feedback and fresh replies, or on tasks."""
    settings = build(GateSettings, flags)
    if env is not None or data is not None:
        if env is None or data is None:
            raise ConfigError("--env and --data go together")
        from dialog_rl.gate_command import judge_versions_on_tasks

        verdict = judge_versions_on_tasks(
            home=home,
            model_name_or_path=model_name_or_path,
            candidate=candidate,
            incumbent=incumbent,
            settings=settings,
            env=env,
            data=data,
        )
        click.echo(verdict.summary())
        return 0 if verdict.ship else EXIT_NO_SHIP
    from dialog_rl.gate_command import judge_versions

    verdict = judge_versions(
        home=home,
        model_name_or_path=model_name_or_path,
        candidate=candidate,
        incumbent=incumbent,
        settings=settings,
    )
    click.echo(verdict.summary())
    return 0 if verdict.ship else EXIT_NO_SHIP


@cli.command()
@home_option
@_model_option
@click.option(
    "--output_dir",
    "--output-dir",
    "output_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    show_default="a new folder in simulations/ of the home folder",
    help="Folder for transcripts (.jsonl, .html), ratings.jsonl and measures.json.",
)
@options(SimulateSettings)
def simulate(
    home: Path, model_name_or_path: str | None, output_dir: Path | None, **flags: Any
) -> None:
    """Let the model talk with simulated users and measure how often they get what they want.

    With --domain translation, summarisation or code and --data: let it answer tasks.
    """
    settings = build(SimulateSettings, flags)
    for_users = {"max_turns", "batch_size", "user", "logs", "user_model_name_or_path", "fidelity"}
    if settings.data is not None and (idle := for_users & {*given(type(settings))}):
        raise ConfigError(f"{min(idle)} has no effect with a task of one turn; leave it out")
    refuse_idle_candidates(given(SimulateSettings), settings.decode)
    from tqdm import tqdm

    from dialog_rl.simulate import simulate as run_simulation
    from dialog_rl.task_trial import answer_tasks

    total = settings.conversations * max(1, len(settings.version))
    with tqdm(total=total, unit="conversation", disable=None) as bar:  # silent unless a terminal
        result: Simulation | Trial
        if settings.data is not None:
            result = answer_tasks(
                settings, home=home, model_name_or_path=model_name_or_path, done=bar.update
            )
        else:
            result = run_simulation(
                settings,
                home=home,
                model_name_or_path=model_name_or_path,
                ended=lambda episode: bar.update(),
            )
    folder = output_dir or home / "simulations" / time.strftime("%Y%m%d-%H%M%S")
    result.write(folder)
    click.echo(result.summary())
    click.echo(f"transcripts: {folder / 'transcripts.html'}")


@cli.command("import")
@home_option
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "ratings", "pairs", "kto", "dpo", "sft"]),
    help="Record shape; auto looks at each line's keys.",
)
@click.option("--split", default=None, help='Keep only lines whose "split" has this value.')
def import_command(home: Path, files: Sequence[Path], file_format: str, split: str | None) -> int:
    """Add ratings, pairs or TRL data sets (JSON Lines) to the store; twice adds nothing."""
    from dialog_rl.corpus import import_file
    from dialog_rl.store import FeedbackStore

    bad = 0
    store = FeedbackStore(home / "feedback.db")
    try:
        for path in files:
            report = import_file(store, path, format=file_format, split=split)
            for line in report.bad:
                click.echo(f"{path}:{line.line}: {line.reason}", err=True)
            click.echo(
                f"{path}: {report.kept} kept, {report.duplicates} already there, "
                f"{len(report.bad)} refused"
            )
            bad += len(report.bad)
    finally:
        store.close()
    return EXIT_ERROR if bad else 0


@cli.command()
@home_option
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    default="records",
    show_default=True,
    type=click.Choice(["records", "kto", "dpo", "sft"]),
    help="Our own records, or the columns of one of TRL's trainers.",
)
def export(home: Path, file: Path, file_format: str) -> None:
    """Write the store's feedback as JSON Lines."""
    from dialog_rl.corpus import export as export_store
    from dialog_rl.store import FeedbackStore

    store = FeedbackStore(home / "feedback.db")
    try:
        count = export_store(store, file, format=file_format)
    finally:
        store.close()
    click.echo(f"{file}: {count} records")


for more in (reward, adapters, runs, backup):
    cli.add_command(more)


def _usage_line(error: click.UsageError) -> str:
    """Return a usage error as one line that says where to look next."""
    where = error.ctx.command_path if error.ctx else "dialog-rl"
    return f"{' '.join(error.format_message().split())} See `{where} --help`."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors a user can mend are one line."""
    logging.basicConfig(
        level=os.environ.get("DIALOG_RL_LOG", "WARNING").upper(),
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        code = cli.main(args=argv, prog_name="dialog-rl", standalone_mode=False)
    except click.UsageError as error:
        click.echo(f"dialog-rl: {_usage_line(error)}", err=True)
        return EXIT_USAGE
    except ConfigError as error:
        click.echo(f"dialog-rl: {error}", err=True)
        return EXIT_USAGE
    except DialogRLError as error:
        click.echo(f"dialog-rl: {error}", err=True)
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        click.echo("dialog-rl: stopped", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    return code if isinstance(code, int) else 0
