"""A run is read whole, or refused by what is wrong with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fabricated_run import fabricate

from quail_lightning.errors import InputError
from quail_lightning.report.finished_run import read_run, read_runs
from quail_lightning.run.record import add_start


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(fabricate(tmp_path / "run", note="cut from windows"))
    assert run.precisions == ["bf16", "nf4"]
    assert run.sixteen_bits == "bf16"
    row = run.row("unlearned", "nf4")
    assert row is not None
    assert (row.epoch, row.metrics["verbmem_forget"].value) == (2, 8.0), "of the last epoch"  # type: ignore[union-attr]
    assert run.row("unlearned", "fp4") is None
    assert run.results.note == "cut from windows"
    assert run.results.verdicts["nf4"]["survives"] == "yes"
    assert run.settings["max_windows"] == 32
    assert run.provenance["finished_epochs"] == 2
    assert run.method == "quail"
    assert run.starts[-1]["outcome"] == "finished"


def no_run(folder: Path) -> None:
    (folder / "run.json").unlink()


def two_runs_below(folder: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(folder, folder.parent / "kept" / name)
    shutil.rmtree(folder)
    (folder.parent / "kept").rename(folder)


def no_mark(folder: Path, outcome: str | None = None) -> None:
    """As a run that was killed, or that failed, before its model was saved."""
    shutil.rmtree(folder / "model")
    edit(folder / "run.json", lambda content: content["starts"][-1].pop("outcome"))
    if outcome:
        edit(folder / "run.json", lambda content: content["starts"][-1].update(outcome=outcome))


def another_start(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    add_start(folder, {"seed": 42})


def only_target(folder: Path) -> None:
    edit(folder / "results.json", lambda c: c.update(rows=[r for r in c["rows"] if r["model"] == "target"]))


REFUSED = {
    "no folder": (shutil.rmtree, "does not exist", "folder of a run"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("")), "is a file", "folder of a run"),
    "no run": (no_run, r"is no run: it has no run\.json", "folder of a run"),
    "a folder of runs": (two_runs_below, "is no run", "Name one of the runs in it: a, b"),
    "killed": (no_mark, "was killed, or has not ended", "--ckpt_path last"),
    "failed": (lambda f: no_mark(f, "failed"), "failed: figures", "run it again"),
    "interrupted": (lambda f: no_mark(f, "interrupted"), "was interrupted", "run it again"),
    "gone on with": (another_start, "was killed, or has not ended", "--ckpt_path last"),
    "not evaluated": (lambda f: (f / "results.json").unlink(), "evaluated nothing", "quail test"),
    "damaged results": (lambda f: (f / "results.json").write_text("{"), r"results\.json cannot be read", ""),
    "no unlearned model": (only_target, "no row of the unlearned model", "Copy"),
    "a note that is none": (lambda f: edit(f / "results.json", lambda c: c.update(note=3)), "is damaged", ""),
    "edited scores": (
        lambda f: edit(f / "scores.json", lambda c: c.update(rows=[])),
        "scores.json was edited",
        "",
    ),
    "damaged record": (lambda f: (f / "run.json").write_text('{"starts": []}'), "lists no start", "Copy"),
    "no config": (lambda f: (f / "config.yaml").unlink(), r"config\.yaml cannot be read", "Copy"),
    "config that is none": (lambda f: (f / "config.yaml").write_text("a: ["), "not YAML", "Copy"),
    "damaged provenance": (lambda f: (f / "model/provenance.json").write_text("{"), "not JSON", "Copy"),
    "a published figure that is none": (
        lambda f: edit(f / "results.json", lambda c: c.update(published={"source": "s", "figures": [{}]})),
        r"results\.json cannot be read \(it is damaged\)",
        "",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_finished_run_is_refused_with_a_remedy(what: str, tmp_path: Path) -> None:
    damage, fact, remedy = REFUSED[what]
    folder = fabricate(tmp_path / "run")
    damage(folder)
    with pytest.raises(InputError, match=fact) as refused:
        read_run(folder)
    assert str(folder) in str(refused.value)
    assert remedy in str(refused.value)


def test_a_run_of_an_earlier_version_is_finished_where_its_model_was_saved(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run")
    edit(folder / "run.json", lambda content: content["starts"][-1].pop("outcome"))
    assert read_run(folder).precisions == ["bf16", "nf4"]
    edit(folder / "model/provenance.json", lambda content: content.update(cut_short="disk full"))
    with pytest.raises(InputError, match="was killed"):
        read_run(folder)


def test_a_run_whose_folder_another_process_holds_is_still_running(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run")
    script = (
        "import sys, fcntl, time\nfile = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, folder / ".lock"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=r"is still running\. Wait until it has ended"):
            read_run(folder)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert read_run(folder).precisions, "a lock that nobody holds says nothing"


def test_all_folders_that_are_refused_are_named_at_once(tmp_path: Path) -> None:
    good = fabricate(tmp_path / "good")
    (tmp_path / "link").symlink_to(good)
    names = [str(good), str(tmp_path / "link"), str(tmp_path / "missing")]
    with pytest.raises(InputError) as refused:
        read_runs(names)
    assert "named twice" in str(refused.value)
    assert f"{tmp_path}/missing does not exist" in str(refused.value)
