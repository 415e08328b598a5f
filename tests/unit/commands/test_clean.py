"""`quail clean` removes what this program wrote that text can be read back from, and nothing else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quail_lightning.cli import main
from quail_lightning.commands.leftovers import say_what_is_left
from quail_lightning.data.questions import EvaluationRecords, VerbatimPrompt
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.finished import FinishedMetrics
from quail_lightning.evaluation.metrics import METRICS, Asked
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.reference.manifest import Manifest, write_manifest
from quail_lightning.run.results import Estimate
from quail_lightning.run.training_state.manifest import write_manifest as write_checkpoint_manifest

PACKAGE = Path(__file__).parents[3]
CACHE = Path("checkpoints/reference-cache/0123456789abcdef")
STEP = Path("logs/news/quail-1/checkpoints/step-00000004")


def cache(folder=CACHE, finished=True):
    folder.mkdir(parents=True)
    (folder / "forget-00000.safetensors").write_bytes(b"hidden states")
    (folder / "head.safetensors").write_bytes(b"head")
    if finished:
        write_manifest(folder, {"format": 1}, Manifest(2, {}))


def evaluation(root="logs/evaluations"):
    store = FinishedMetrics(Path(root), {"model": "m"})
    nothing: Any = None
    asked = Asked(EvaluationRecords((VerbatimPrompt("a", "b"),)), {}, EvaluationSuite(), nothing, nothing)
    log = BenchmarkLog({"verbmem_forget": (Response("b", "c", "a"),)})
    store.write(METRICS[0], asked, {"verbmem_forget": Estimate(1.0, 1, 0.0, 2.0, (1.0,))}, log)
    store.gather({"verbatim": store.part_folder(METRICS[0], asked)})


def checkpoint(folder=STEP):
    folder.mkdir(parents=True)
    for name in ("state.json", "process-0.json", "tensors-00000.safetensors", "run.json"):
        (folder / name).write_text("{}")
    write_checkpoint_manifest(folder)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache()
    evaluation()
    checkpoint()
    for name in (
        "logs/news/quail-1/model/model.safetensors",
        "logs/news/quail-1/results.json",
        "my/notes.json",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("kept")
    return tmp_path


def files(folder="."):
    return {path.as_posix() for path in Path(folder).rglob("*") if path.is_file()}


KEPT = {
    "logs/news/quail-1/model/model.safetensors",
    "logs/news/quail-1/results.json",
    "my/notes.json",
}


def test_without_yes_everything_is_listed_and_nothing_is_touched(capsys):
    before = files()
    main(["clean"])
    listed = capsys.readouterr().out
    assert str(CACHE) in listed
    assert str(STEP) in listed
    assert listed.count("(evaluations)") == 2
    assert "Nothing was removed: add --yes" in listed
    assert files() == before


def test_with_yes_nothing_is_left_but_what_holds_no_text(capsys):
    main(["clean", "--yes"])
    assert capsys.readouterr().out.count("removed") == 4
    assert files() == KEPT
    assert not CACHE.exists()
    main(["clean", "--yes"])
    assert "Nothing of this program's" in capsys.readouterr().out


def test_kinds_and_folders_are_chosen():
    main(["clean", "--yes", "--kinds", "evaluations"])
    assert CACHE.is_dir()
    assert STEP.is_dir()
    assert not any("evaluations" in name for name in files())
    main(["clean", "logs/news", "--yes"])
    assert not STEP.exists()
    assert CACHE.is_dir()


def test_what_a_killed_run_left_half_written_goes_too(here):
    cache(CACHE.with_name("fedcba9876543210"), finished=False)
    (CACHE.with_name("fedcba9876543210") / ".tmpK09PME").write_bytes(b"safetensors' own")
    (CACHE / f".retain-00000.safetensors.{'a' * 32}.partial").write_bytes(b"half")
    part = Path(f"logs/evaluations/parts/.{'b' * 16}.{'c' * 32}.partial/verbmem_f")
    part.mkdir(parents=True)
    (part / "log.json").write_text("[]")
    half = STEP.with_name(".step-00000008.partial")
    half.mkdir()
    (half / "tensors-00000.safetensors").write_bytes(b"half")
    main(["clean", "--yes"])
    assert files() == KEPT


def test_what_others_wrote_stays_even_where_it_looks_alike(capsys):
    names = ("0123456789abcdef/photo.jpg", "0123456789abcdef/manifest.json", "checkpoints/step-00000001/mine.bin")
    for name in names:
        path = Path("logs/others", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    Path(CACHE, "mine.txt").write_text("mine")
    main(["clean", "--yes"])
    assert "beside 1 files of others, which stay" in capsys.readouterr().out
    assert files() == KEPT | {f"logs/others/{name}" for name in names} | {f"{CACHE}/mine.txt"}


def test_links_are_neither_followed_nor_believed(here, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    cache(outside / CACHE.name)
    (outside / "log.json").write_text("precious")
    Path("logs/linked").symlink_to(outside)
    Path("checkpoints/reference-cache/aaaaaaaaaaaaaaaa").symlink_to(outside / CACHE.name)
    (CACHE / "head.safetensors").unlink()
    (CACHE / "head.safetensors").symlink_to(outside / "log.json")
    STEP.joinpath("manifest.json").write_text(
        json.dumps({"format": 1, "files": {"../../../../../my/notes.json": {}}})
    )
    before = files(outside)
    main(["clean", "--yes"])
    assert files(outside) == before
    assert Path("my/notes.json").is_file()


HOLD = """
import sys
from pathlib import Path
from quail_lightning.storage.locks import hold
hold(Path(sys.argv[1]), "it", shared=sys.argv[1] != "logs/news/quail-1/.lock")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("lock", [str(CACHE), "logs/evaluations", "logs/news/quail-1/.lock"])
def test_what_a_run_uses_is_refused_and_the_rest_is_removed(lock, capsys):
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, "-c", HOLD, lock]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with pytest.raises(SystemExit) as ended:
            main(["clean", "--yes"])
        assert ended.value.code == 1
        said = capsys.readouterr()
        assert f"in use by process {process.pid}" in said.err
        assert "removed " in said.out
        kept = files() - KEPT - {lock}
        assert kept
        assert all(name.startswith(lock.removesuffix("/.lock")) for name in kept)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    main(["clean", "--yes"])
    assert files() <= KEPT | {lock}


def test_a_folder_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["clean", "nowhere", "--yes"])
    assert "there is no such folder" in capsys.readouterr().err
    assert CACHE.is_dir()


def test_the_line_at_a_runs_end_names_every_place_and_the_remedy(capsys):
    say_what_is_left([Path("logs/news/quail-1"), CACHE])
    (line,) = capsys.readouterr().out.splitlines()
    assert str(CACHE) in line
    assert str(STEP.parent) in line
    command = f"quail clean {STEP.parent} {CACHE} --yes"
    assert line.endswith(command)
    main(command.split()[1:])
    capsys.readouterr()
    say_what_is_left([Path("logs/news/quail-1"), CACHE])
    assert capsys.readouterr().out == ""
