"""The driver of docs/results/verdicts.md."""

import json
from pathlib import Path

import pytest
import verdicts

from quail_lightning.cli import main

ROOT = Path(__file__).parents[2]


def test_the_table_has_a_line_a_precision_and_leaves_out_runs_that_are_missing(tmp_path):
    for name, found in (
        ("ga", {"bf16": ("yes", "no"), "nf4": ("yes", "in part")}),
        ("nf4", {"nf4": ("no", "no")}),
    ):
        said = {
            precision: {"known": known, "utility": utility, "text": f"{name} in words"}
            for precision, (known, utility) in found.items()
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"rows": [], "verdicts": said}))
    _, _, *lines = verdicts.table(tmp_path)
    assert lines == [
        "| GA alone, likewise | bf16 | yes |  |  |  | no | ga in words |",
        "|  | nf4 | yes |  |  |  | in part | ga in words |",
        "| QUAIL, its nf4 folder as deployed | nf4 | no |  |  |  | no | nf4 in words |",
    ]


def test_the_page_lists_the_commands_that_the_driver_runs():
    page = (ROOT / "docs/results/verdicts.md").read_text("utf-8")
    listed = [line for line in page.splitlines() if line.startswith("- `python -m quail_lightning ")]
    assert listed == [*verdicts.listed(Path("logs/verdicts"), quick=False)]


@pytest.mark.parametrize("name", verdicts.RUNS)
def test_every_command_passes_the_parser(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for quick in (False, True):
        (command,) = verdicts.commands(Path("logs/verdicts"), quick)[name]
        with pytest.raises(SystemExit) as ended:
            main([*command, "--print_config"])
        assert ended.value.code in (None, 0)
        assert f"version: {name}" in capsys.readouterr().out
