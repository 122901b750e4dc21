"""Import, export and backup from the command line: exit codes, one-line reasons, nothing lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dialog_rl.cli import main

ROW = {"context": [{"role": "user", "content": "q"}], "reply": "a", "ratings": [1], "scale": [0, 1]}


def write(path: Path, *lines: object) -> str:
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{line}\n" for line in text))
    return str(path)


def test_bad_lines_are_named_the_good_are_kept_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = write(tmp_path / "mixed.jsonl", ROW, '{"reply":', ROW | {"ratings": [7]})
    home = ["--home", str(tmp_path / "home")]
    assert main(["import", *home, mixed]) == 1
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        f"{mixed}:2: broken JSON: Expecting value at column 10",
        f"{mixed}:3: ratings must lie within the scale 0 to 1, got 7",
    ]
    assert f"{mixed}: 1 kept, 0 already there, 2 refused" in shown.out
    good = write(tmp_path / "good.jsonl", ROW)
    assert main(["import", *home, good]) == 0
    assert f"{good}: 0 kept, 1 already there, 0 refused" in capsys.readouterr().out
    out = tmp_path / "out.jsonl"
    assert main(["export", *home, str(out)]) == 0
    (line,) = out.read_text().splitlines()
    assert {name: json.loads(line)[name] for name in ROW} == ROW
    assert main(["backup", *home, str(tmp_path / "copy.db")]) == 0
    assert (tmp_path / "copy.db").stat().st_size > 0


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path / "home")]
    assert main(["import", *home, str(tmp_path / "missing.jsonl")]) != 0
    shown = capsys.readouterr()
    assert "missing.jsonl" in shown.err
    assert len(shown.err.splitlines()) == 1
    assert "Traceback" not in shown.err


def test_the_store_and_the_corpus_load_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "trl", "peft", "datasets", "gradio", "numpy")
    code = (
        "import sys, dialog_rl.corpus, dialog_rl.store; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
