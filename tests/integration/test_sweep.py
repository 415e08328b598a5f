"""A whole sweep, killed in the middle and gone on with."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_quickstart import SMALL_QUICKSTART

from quail_lightning.storage.vouched import load_vouched

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow
SMALL = [*SMALL_QUICKSTART, "--trainer.max_epochs=2", "--model.stop=null"]
ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds


def test_a_sweep_that_is_ended_in_its_first_trial_goes_on_and_finds_what_its_runs_say(tmp_path):
    space = {"sampler": "grid", "options": {"model.alpha": {"values": [1.0, 20.0]}}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    sweep = ["sweep", "--config", "quickstart.yaml", "--space", "space.yaml", "--trials", "2", "--out", "s"]
    command = [sys.executable, "-m", "quail_lightning", *sweep, *SMALL]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as first:
        said = next((line for line in first.stdout if line.startswith("trial 0:")), "")
        assert said, "the first trial has begun"
        time.sleep(2)
        first.send_signal(signal.SIGTERM)
        assert first.wait(PATIENCE) == 128 + signal.SIGTERM
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE
    )
    assert again.returncode == 0, again.stdout + again.stderr
    with (tmp_path / "s/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    # the study's number 1 is the second attempt of trial 0
    assert [(row["trial"], row["state"]) for row in rows] == [("0", "done"), ("2", "done")]
    assert {float(row["model.alpha"]) for row in rows} == {1.0, 20.0}
    for row in rows:
        found = load_vouched(tmp_path / row["folder"] / "validation.json")
        best = min(found["epochs"], key=lambda entry: entry["shortfall"])
        gaps = [max(0, found["goal"] - nll["forget"]) for nll in best["nll"].values()]
        assert float(row["forgetting"]) == pytest.approx(max(gaps))
        assert int(row["epoch"]) == best["epoch"]
        assert (tmp_path / row["folder"] / f"best-epoch-{best['epoch']}").is_dir()
        trained = yaml.safe_load((tmp_path / row["folder"] / "config.yaml").read_text())
        assert trained["model"]["alpha"] == float(row["model.alpha"])
    winner = yaml.safe_load((tmp_path / "s/winner.yaml").read_text())
    best = min(rows, key=lambda row: float(row["shortfall"]))
    assert winner["model"]["alpha"] == float(best["model.alpha"])
    assert len(list((tmp_path / "checkpoints/reference-cache").iterdir())) == 1, "shared by all trials"
    targets = [
        json.loads((tmp_path / row["folder"] / "results.json").read_text())["rows"][0]["metrics"] for row in rows
    ]
    assert targets[0] == targets[1], "the target is measured once"
    assert any((tmp_path / "s/baselines/parts").iterdir())
