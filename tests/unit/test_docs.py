"""The README and the guide name only what exists, and name everything a user may type."""

import re
from pathlib import Path

import click

from dialog_rl.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "CONTRIBUTING.md"]


def commands(
    group: click.Group, prefix: tuple[str, ...] = ()
) -> dict[tuple[str, ...], click.Command]:
    """Return every leaf command by its words."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        words = (*prefix, name)
        if isinstance(command, click.Group):
            found |= commands(command, words)
        else:
            found[words] = command
    return found


def flags(command: click.Command) -> set[str]:
    """Return every spelling of every option of a command."""
    spelled = {"--help"}
    for parameter in command.params:
        spelled |= {*parameter.opts, *parameter.secondary_opts}
    return spelled


def test_every_link_in_the_docs_leads_to_a_file() -> None:
    for page in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_file_map_of_the_readme_covers_every_top_level_package() -> None:
    readme = (ROOT / "README.md").read_text()
    for folder in (
        "reward_models",
        "dialog_rl",
        "dialog_rl/envs",
        "dialog_rl/train",
        "apps",
        "data",
        "tests",
        "docs",
        "benchmarks",
    ):
        assert f"]({folder})" in readme, folder


def test_every_command_in_the_docs_exists_with_its_flags() -> None:
    known = commands(cli)
    seen = 0
    for page in DOCS:
        for line in re.findall(r"^(?: {4}|\$ )dialog-rl ([^\n#]+)", page.read_text(), re.MULTILINE):
            words = line.split()
            match = next((w for w in (tuple(words[:2]), tuple(words[:1])) if w in known), None)
            assert match, f"{page.name}: dialog-rl {line}"
            used = {w.split("=")[0] for w in words if w.startswith("--")}
            assert used <= flags(known[match]), f"{page.name}: dialog-rl {line}"
            seen += 1
    assert seen >= 10


def test_the_guide_names_every_command() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    for words in commands(cli):
        assert f"dialog-rl {' '.join(words)}" in guide, words


def test_every_make_target_in_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in DOCS:
        for target in re.findall(r"^ {4}make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_test_that_the_guide_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "guide.md").read_text())
    assert len(named) >= 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
