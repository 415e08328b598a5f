"""Other loggers get the scalars and options that TensorBoard gets, and the run's folder stays what it is."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_quickstart import SMALL_QUICKSTART
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quail_lightning.cli import main

SMALL = [*SMALL_QUICKSTART, "--trainer.max_epochs=1"]
CHECKPOINT = ["--checkpoint.enabled=true", "--export.enabled=false"]  # a second model would be in the way
SECRET = "hf_abcdefghij0123456789"
Point = tuple[str, int]  # tag, step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs lie, so that they share target, corpus and cache."""
    return tmp_path_factory.mktemp("loggers")


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["quail"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def fit(*arguments):
    """The run's folder."""
    main(["fit", "--config", "quickstart.yaml", *SMALL, *arguments])
    run = Path("logs/quickstart/latest").resolve()
    assert (run / "results.json").is_file()
    assert "--export.enabled=false" in arguments or (run / "model/model.safetensors").is_file()
    return run


def in_tensorboard(run: Path) -> dict[Point, float]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    assert {"train/forget", "train/hinge", "train/retain", "eval/nf4/nll_forget"} <= {tag for tag, _ in found}
    return found


def assert_same(found: dict[Point, float], expected: dict[Point, float]) -> None:
    assert found.keys() == expected.keys()
    for point, value in expected.items():
        close = math.isclose(found[point], value, rel_tol=1e-6, abs_tol=1e-7)  # TensorBoard keeps float32
        assert close or (math.isnan(value) and math.isnan(found[point])), point


def in_csv(file: Path) -> dict[Point, float]:
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return {
        (tag, int(row["step"])): float(value)
        for row in rows
        for tag, value in row.items()
        if value and tag != "step"
    }


def test_csv_holds_the_scalars_of_tensorboard_and_loses_none_of_a_run_that_goes_on(folder):
    run = fit("--config", "logger/csv.yaml", *CHECKPOINT)
    before = in_csv(run / "metrics.csv")
    assert_same(before, in_tensorboard(run))
    assert fit("--config", "logger/csv.yaml", "--ckpt_path=last", "--trainer.max_epochs=2") == run
    assert in_csv(run / "metrics-1.csv") == before
    assert_same(before | in_csv(run / "metrics.csv"), in_tensorboard(run))


def wandb_records(file: Path):
    """The records of an offline run, from LevelDB's log format: blocks of 32 KiB, pieces with a head of 7."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""  # W&B's own header
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if place + 7 + length > len(data):
            return  # under way
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its last piece
            yield Record.FromString(whole)
            whole = b""


def in_wandb(file: Path):
    """Scalars, options and names of one offline run, which W&B's process writes until a little after its end."""
    deadline = time.monotonic() + 60
    while not any(record.HasField("exit") for record in wandb_records(file)):
        assert time.monotonic() < deadline, "W&B did not write the run's end"
        time.sleep(0.2)
    found, options, names = {}, {}, set()
    for record in wandb_records(file):
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        step = items.pop("trainer/global_step", None)
        found |= {(tag, step): float(v) for tag, v in items.items() if not tag.startswith("_")}
        updated = [*record.config.update, *record.run.config.update]
        options |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in updated}
        names |= {record.run.display_name}
    return found, options, names


def test_wandb_holds_the_scalars_and_options_and_nothing_that_could_be_secret(folder):
    wandb = pytest.importorskip("wandb")
    sys.argv += ["fit", f"--own.token={SECRET}"]  # as a process sees its own command line
    run = fit("--config", "logger/wandb.yaml", *CHECKPOINT)
    wandb.finish()
    (place,) = Path("logs/wandb").glob("offline-run-*")
    (file,) = place.glob("*.wandb")
    found, options, names = in_wandb(file)
    assert_same(found, in_tensorboard(run))
    assert options["gamma"] == 1.0
    assert options["method"] == "quail"
    assert f"quickstart/{run.name}" in names
    started = json.loads((run / "run.json").read_text())["starts"][0]
    assert file.name == f"run-{started['trackers']['WandbLogger']}.wandb"
    assert not [record.run.host for record in wandb_records(file) if record.run.host]
    private = [SECRET, "what is said after three forget texts"]
    for path in place.rglob("*"):
        content = b"" if path.is_dir() else path.read_bytes()
        assert not [text for text in private if text.encode() in content], path
    assert not list(place.rglob("output.log"))

    assert fit("--config", "logger/wandb.yaml", "--ckpt_path=last", "--trainer.max_epochs=2") == run
    wandb.finish()
    (second,) = (path for path in Path("logs/wandb").glob("offline-run-*/*.wandb") if path != file)
    assert second.name == file.name
    assert_same(found | in_wandb(second)[0], in_tensorboard(run))


def test_mlflow_holds_the_scalars_and_options_and_takes_up_a_run_that_goes_on(folder):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    run = fit("--config", "logger/mlflow.yaml", *CHECKPOINT)
    client = mlflow.MlflowClient("sqlite:///logs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'quail'")
    (kept,) = client.search_runs([experiment.experiment_id])

    def found() -> dict[Point, float]:
        tags = client.get_run(kept.info.run_id).data.metrics
        points = [point for tag in tags for point in client.get_metric_history(kept.info.run_id, tag)]
        return {(point.key, point.step): point.value for point in points}

    assert_same(found(), in_tensorboard(run))
    assert kept.data.params["method"] == "quail"
    assert kept.info.run_name == f"quickstart/{run.name}"
    assert fit("--config", "logger/mlflow.yaml", "--ckpt_path=last", "--trainer.max_epochs=2") == run
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert_same(found(), in_tensorboard(run))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_without_its_package_a_fragment_passes_the_parser_and_a_run_is_refused_with_the_extra(name, folder):
    script = (
        f"import sys; sys.modules['{name}'] = None\n"
        "from quail_lightning.cli import main\n"
        "sys.argv = ['quail']\n"
        f"main(['fit', '--config', 'quickstart.yaml', '--config', 'logger/{name}.yaml', *{{}}])"
    )
    environment = os.environ | {"WANDB_MODE": "offline"}
    for options, status in (["--print_config"], 0), (SMALL, 2):
        done = subprocess.run(
            [sys.executable, "-c", script.format(options)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == status, done.stderr
    assert "quail-lightning[loggers]" in done.stderr
    assert "Traceback" not in done.stderr


def test_wandb_without_a_key_is_refused_before_anything_is_made(monkeypatch, tmp_path, capsys):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "quickstart.yaml", *SMALL, "--config", "logger/wandb.yaml"])
    assert ended.value.code == 2
    assert "WANDB_MODE=offline" in capsys.readouterr().err
    assert not {"logs", "checkpoints"} & {path.name for path in tmp_path.iterdir()}  # caches may be
