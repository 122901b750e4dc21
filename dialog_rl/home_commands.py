"""Commands about what a home folder holds: ``dialog-rl adapters``, ``runs`` and ``backup``."""

import json
from pathlib import Path
from typing import Any

import click

from dialog_rl.options import home_option


@click.group()
def adapters() -> None:
    """List, promote and roll back adapter versions."""


@adapters.command("list")
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def adapters_list(home: Path, as_json: bool) -> None:
    """Show every adapter version with its lineage; the one in service is starred."""
    from dialog_rl.registry import AdapterRegistry

    registry = AdapterRegistry(home)
    current, rows = registry.current(), registry.list()
    if as_json:
        listing = [
            {"version": r.version, "current": r.version == current, **r.lineage} for r in rows
        ]
        click.echo(json.dumps(listing, indent=2))
        return
    click.echo(f"{'*' if current == 'base' else ' '} base  (the model without an adapter)")
    for row in rows:
        mark = "*" if row.version == current else " "
        click.echo(f"{mark} {row.version}  {_lineage_line(row.lineage, row.verdict)}")


def _lineage_line(lineage: dict[str, Any], verdict: dict[str, Any] | None) -> str:
    """Say in a line what a version was made from and what the gate said."""
    judged = "not judged"
    if verdict is not None:
        judged = "ship" if verdict.get("ship") else "do not ship"
    feedback = str(lineage.get("feedback_sha256", "unknown"))[:8]
    return (
        f"{lineage.get('algo', 'imported')}, run {lineage.get('run_id', 'none')}, parent "
        f"{lineage.get('parent', 'unknown')}, feedback {feedback}, "
        f"verdict: {judged}"
    )


@adapters.command("promote")
@home_option
@click.argument("version")
def adapters_promote(home: Path, version: str) -> None:
    """Put a version in service; running chats pick it up with their next reply."""
    from dialog_rl.registry import AdapterRegistry

    AdapterRegistry(home).promote(version)
    click.echo(f"{version} is in service")


@adapters.command("rollback")
@home_option
def adapters_rollback(home: Path) -> None:
    """Go back to the version that was in service before."""
    from dialog_rl.registry import AdapterRegistry

    click.echo(f"{AdapterRegistry(home).rollback()} is in service again")


@adapters.command("remove")
@home_option
@click.argument("version")
def adapters_remove(home: Path, version: str) -> None:
    """Delete a version that is not in service."""
    from dialog_rl.registry import AdapterRegistry

    AdapterRegistry(home).remove(version)
    click.echo(f"{version} removed")


@click.group()
def runs() -> None:
    """List and remove training runs."""


@runs.command("list")
@home_option
def runs_list(home: Path) -> None:
    """Show every run with its state."""
    from dialog_rl.runs import list_runs

    found = list_runs(home)
    for run in found:
        click.echo(run.describe())
    if not found:
        click.echo(f"no runs in {home}; `dialog-rl train` makes one", err=True)


@runs.command("remove")
@home_option
@click.argument("run_id")
def runs_remove(home: Path, run_id: str) -> None:
    """Delete a run's folder; its adapter, if registered, stays."""
    from dialog_rl.runs import remove_run

    remove_run(home, run_id)
    click.echo(f"{run_id} removed")


@click.command()
@home_option
@click.argument("file", type=click.Path(path_type=Path))
def backup(home: Path, file: Path) -> None:
    """Copy the feedback store while it is in use."""
    from dialog_rl.store import FeedbackStore

    store = FeedbackStore(home / "feedback.db")
    try:
        store.backup(file)
    finally:
        store.close()
    click.echo(f"{file}: written")
