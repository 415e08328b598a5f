"""A started server's output: one file for each folder, though the models of all runs have one name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from quail_lightning.errors import RunError
from quail_lightning.evaluation.serving import Serving, VllmOptions


def test_folders_of_one_name_have_logs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, logs = tmp_path / "vllm", tmp_path / "evaluations/vllm"
    program.write_text("#!/bin/sh\necho $2\nexit 3\n")
    program.chmod(0o755)
    serving = Serving(VllmOptions(), str(program), logs)
    folders = [tmp_path / run / "model" for run in ("first", "second")]
    asked: Any = None  # the server ends before anything is asked
    for folder in folders:
        folder.mkdir(parents=True)
        with (
            pytest.raises(RunError, match=rf"ended with status 3.*{folder}"),
            serving.opened(str(folder), torch.bfloat16, asked),
        ):
            pytest.fail("it never listened")
    told = {path.read_text().strip(): path.name for path in logs.iterdir()}
    assert set(told) == set(map(str, folders))
    assert all(name.startswith("model-") and name.endswith(".log") for name in told.values())
    # another way to the same folder leads to the same file
    monkeypatch.chdir(tmp_path / "first")
    with pytest.raises(RunError), serving.opened(os.curdir + "/model", torch.bfloat16, asked):
        pytest.fail("it never listened")
    assert {path.read_text().strip(): path.name for path in logs.iterdir()} == told
