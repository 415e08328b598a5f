"""Sustainability and scalability: one fit a fold."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from quail_lightning.cli import main
from quail_lightning.commands.folds import BASELINES, FoldPlan, run_folds
from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.errors import InputError
from quail_lightning.run.results import Estimate, ResultRow, write_results
from quail_lightning.storage.locks import released_afterwards

PACKAGE = Path(__file__).parents[3]


@pytest.fixture
def fits():
    """A `quail fit` that only leaves what one leaves, and what it was called with."""
    calls = []

    def fit(arguments):
        calls.append(arguments)
        given = dict(part.removeprefix("--").split("=", 1) for part in arguments if "=" in part)
        folder = Path(given["run_folder"])
        value = Estimate(float(len(calls)), 1, 0.0, 0.0)
        rows = [ResultRow("target", "bf16", {"verbmem_forget": value})]
        rows += [ResultRow("unlearned", "bf16", {"verbmem_forget": value}, epoch) for epoch in (1, 2)]
        write_results(folder, rows)
        (folder / "model").mkdir()
        (folder / "model/model.safetensors").write_bytes(bytes(len(calls)))
        return 0

    fit.calls = calls
    return fit


def plan(tmp_path, start_from="previous", options=()):
    return FoldPlan(
        ("news.yaml",), ("sust/forget_1", "sust/forget_2", "sust/forget_3"), start_from, options, tmp_path / "s"
    )


def test_sustainability_starts_each_fold_from_the_one_before(tmp_path, fits):
    rows = run_folds(plan(tmp_path), fits)
    starts = [[part for part in call if part.startswith("--model.start")] for call in fits.calls]
    assert starts == [
        [],
        [f"--model.start={tmp_path}/s/fold_1/model"],
        [f"--model.start={tmp_path}/s/fold_2/model"],
    ]
    forgotten = [part for call in fits.calls for part in call if part.startswith("--data.forget")]
    assert forgotten == [f"--data.forget=[sust/forget_{fold}]" for fold in (1, 2, 3)]
    assert [(row.model, row.epoch) for row in rows] == [
        ("target", None),
        *((f"fold {fold}: sust/forget_{fold}", 2) for fold in (1, 2, 3)),
    ]


def test_scalability_starts_every_fold_from_the_target(tmp_path, fits):
    run_folds(plan(tmp_path, "target", ("data.corpus=X",)), fits)
    assert not any(part.startswith("--model.start") for call in fits.calls for part in call)
    assert all("--data.corpus=X" in call for call in fits.calls)


def test_finished_folds_are_kept_and_an_interrupted_one_starts_anew(tmp_path, fits):
    def interrupted(arguments):
        if "fold_2" in arguments[-2] + arguments[-1]:
            folder = tmp_path / "s/fold_2"
            folder.mkdir()
            (folder / "config.yaml").write_text("half")
            return 1
        return fits(arguments)

    with pytest.raises(InputError, match="fold 2 ended with exit status 1"):
        run_folds(plan(tmp_path), interrupted)
    assert len(fits.calls) == 1
    run_folds(plan(tmp_path), fits)
    assert len(fits.calls) == 3
    assert not (tmp_path / "s/fold_2/config.yaml").exists()
    run_folds(plan(tmp_path), fits)
    assert len(fits.calls) == 3


HOLD = """
import sys
from pathlib import Path
from quail_lightning.storage.locks import hold, lock_in
hold(lock_in(Path(sys.argv[1])), "it")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "held", ["s", "s/fold_1"], ids=["another call runs", "the fold of a killed one still runs"]
)
def test_a_second_call_never_deletes_under_a_living_one(tmp_path, fits, held):
    def interrupted(arguments):
        (tmp_path / "s/fold_1").mkdir()
        (tmp_path / "s/fold_1/config.yaml").write_text("half")
        return 1

    with released_afterwards(), pytest.raises(InputError, match="fold 1 ended with exit status 1"):
        run_folds(plan(tmp_path), interrupted)
    command = [sys.executable, "-c", HOLD, str(tmp_path / held)]
    other = subprocess.Popen(command, cwd=PACKAGE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with released_afterwards(), pytest.raises(InputError, match=f"in use by process {other.pid}"):
            run_folds(plan(tmp_path), fits)
    finally:
        other.kill()
        other.communicate()
    assert (tmp_path / "s/fold_1/config.yaml").exists()
    assert not fits.calls
    with released_afterwards():
        run_folds(plan(tmp_path), fits)
    assert len(fits.calls) == 3


def test_secrets_among_the_options_are_neither_kept_nor_in_the_way(tmp_path, fits, capsys):
    for token in ("s3cret", "an0ther"):
        run_folds(plan(tmp_path, options=(f"data.token={token}",)), fits)
    assert len(fits.calls) == 3, "another token is no other run"
    assert "--data.token=s3cret" in fits.calls[0]
    assert "s3cret" not in capsys.readouterr().out + (tmp_path / "s/fold_1.json").read_text()


@pytest.mark.parametrize("mark", ["{", "[]", '{"arguments": 3}'])
def test_a_finished_fold_whose_mark_is_damaged_is_refused_and_kept(tmp_path, fits, mark):
    run_folds(plan(tmp_path), fits)
    (tmp_path / "s/fold_1.json").write_text(mark)
    with pytest.raises(InputError, match=r"fold 1 .* finished.*fold_1\.json was damaged"):
        run_folds(plan(tmp_path), fits)
    assert (tmp_path / "s/fold_1/model").is_dir()


def test_a_fold_made_otherwise_or_from_another_model_is_refused(tmp_path, fits):
    run_folds(plan(tmp_path), fits)
    with pytest.raises(InputError, match=r"fold 1 .* other arguments"):
        run_folds(plan(tmp_path, options=("model.alpha=2",)), fits)
    (tmp_path / "s/fold_1/model/model.safetensors").write_bytes(b"changed")
    with pytest.raises(InputError, match=r"fold 2 .* from another model"):
        run_folds(plan(tmp_path), fits)


def test_a_folder_that_is_no_fold_is_left_alone(tmp_path, fits):
    (tmp_path / "s/fold_1").mkdir(parents=True)
    (tmp_path / "s/fold_1/mine").write_text("x")
    with pytest.raises(InputError, match="no fold of ours"):
        run_folds(plan(tmp_path), fits)
    assert (tmp_path / "s/fold_1/mine").exists()


@pytest.mark.parametrize("name", shipped_names("folds"))
def test_every_shipped_fold_config_passes_both_parsers(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["folds", "--config", name, "--print_config"])
    assert ended.value.code in (None, 0)
    capsys.readouterr()
    described = yaml.safe_load(find_config(name).read_text())
    out = described.pop("out")
    shared = FoldPlan(
        tuple(described["fit"]), tuple(described["forget"]), described["start_from"], (), tmp_path / out
    )
    with pytest.raises(SystemExit) as ended:
        main([*shared.arguments(2), "--print_config"])
    assert ended.value.code in (None, 0)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["init_args"]["forget"] == [described["forget"][1]]
    assert (printed["model"]["start"] is None) == (described["start_from"] == "target")


def test_options_of_the_wrong_form_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["folds", "--config", "folds/news_sust.yaml", "--options", "data.corpus", "FOLDER"])
    assert "section.key=value" in capsys.readouterr().err


def test_an_interrupted_fold_goes_on_from_its_checkpoint_and_other_arguments_start_it_anew(tmp_path, fits):
    def interrupted(arguments):
        (tmp_path / "s/fold_1/checkpoints/step-00000004").mkdir(parents=True)
        return 1

    seen = []

    def go_on(arguments):
        seen.append((arguments[-1], (tmp_path / "s/fold_1/checkpoints").exists()))
        return 1

    for options in ((), ("model.alpha=2",)):
        for execute in (interrupted, go_on):
            with pytest.raises(InputError, match="fold 1 ended"):
                run_folds(plan(tmp_path, options=options), execute)
    assert seen[0] == ("--ckpt_path=last", True)
    assert seen[1] == ("--ckpt_path=last", True)
    with pytest.raises(InputError, match="fold 1 ended"):
        run_folds(plan(tmp_path, options=("model.alpha=3",)), go_on)
    last, kept = seen[2]
    assert last.startswith("--run_folder")
    assert not kept, "other arguments do not go on from it"


def test_baselines_show_only_what_every_fold_measures_alike(tmp_path, fits):
    def fit(arguments):
        status = fits(arguments)
        fold = len(fits.calls)
        # what another batch size rounds otherwise is the same figure
        same, own = Estimate(90 + fold / 100, 1, 80.0, 95.0), Estimate(float(fold), 1, 0.0, 0.0)
        rows = [ResultRow(name, "bf16", {"verbmem_forget": same, "nll_forget": own}) for name in BASELINES]
        rows.append(ResultRow("unlearned", "bf16", {"nll_forget": own}, 1))
        write_results(tmp_path / f"s/fold_{fold}", rows)
        return status

    rows = run_folds(plan(tmp_path), fit)
    assert [row.metrics["verbmem_forget"].value for row in rows[:2]] == [90.01, 90.01]
    assert [row.model for row in rows[:2]] == list(BASELINES)
    assert all(set(row.metrics) == {"verbmem_forget"} for row in rows[:2])
    assert [row.metrics["nll_forget"].value for row in rows[2:]] == [1.0, 2.0, 3.0]
