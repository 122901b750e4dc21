"""The bundled files are found in a clone and can be replaced; the examples in docstrings hold."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import dialog_rl.bundled
import dialog_rl.decode
from dialog_rl.bundled import (
    bundled_model_path,
    default_system_prompt,
    heldout_dialogues,
    train_dialogues,
)
from dialog_rl.errors import DataError


def test_dialogues_and_system_prompt_are_found_in_a_clone() -> None:
    assert default_system_prompt() == default_system_prompt().strip() != ""
    for dialogues in (heldout_dialogues(), train_dialogues()):
        assert {message["role"] for message in dialogues[0]["messages"]} >= {"user", "assistant"}


def test_the_environment_names_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIALOG_RL_BUNDLED_MODEL", "/some/where")
    assert bundled_model_path() == Path("/some/where")


def test_a_missing_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DIALOG_RL_BUNDLED_MODEL", raising=False)
    for folder in ("_PACKAGE", "_CLONE"):
        monkeypatch.setattr(dialog_rl.bundled, folder, tmp_path)
    with pytest.raises(DataError, match="--model_name_or_path"):
        bundled_model_path()


def test_finding_the_bundled_files_loads_no_torch() -> None:
    code = "import sys, dialog_rl.bundled as b; b.default_system_prompt(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(dialog_rl.decode, extraglobs={"torch": dialog_rl.decode.torch})
    assert result.attempted > 0
    assert result.failed == 0
