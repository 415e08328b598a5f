"""What is kept of a run's config."""

import errno
import json
import stat
from types import SimpleNamespace

import pytest
import yaml

from quail_lightning.command_line.lightning_cli import SaveConfigAndRecord, TrainerParser
from quail_lightning.errors import InputError
from quail_lightning.run.record import add_start, read_starts
from quail_lightning.storage.locks import released_afterwards


def save(folder, arguments, **options):
    parser = TrainerParser()
    parser.add_argument("--hub", type=dict, default={})
    parser.add_argument("--corpus", type=str)
    parser.add_argument("--seed_everything", type=int, default=42)
    callback = SaveConfigAndRecord(parser, parser.parse_args(arguments), save_to_log_dir=False, **options)
    strategy = SimpleNamespace(broadcast=lambda value: value)
    trainer = SimpleNamespace(
        loggers=[],
        log_dir=str(folder),
        default_root_dir="",
        is_global_zero=True,
        strategy=strategy,
        ckpt_path=None,
    )
    with released_afterwards():
        callback.setup(trainer, None, "fit")
    return callback


def outcome(folder):
    return json.loads((folder / "run.json").read_text())["starts"][-1].get("outcome")


def test_a_run_notes_how_it_ended_and_never_in_another_runs_folder(tmp_path, monkeypatch):
    callback = save(tmp_path / "run", [])
    assert outcome(tmp_path / "run") is None, "it is under way"
    callback.on_exception(None, None, KeyboardInterrupt())
    assert outcome(tmp_path / "run") == "interrupted"
    callback.on_exception(None, None, RuntimeError("diverged"))
    assert outcome(tmp_path / "run") == "failed"
    callback.teardown(None, None, "fit")
    assert outcome(tmp_path / "run") == "finished"
    other = SaveConfigAndRecord(TrainerParser(), callback.config)
    other._folder = tmp_path / "run"  # refused before it recorded its start
    other.on_exception(None, None, InputError("the folder holds another run"))
    assert outcome(tmp_path / "run") == "finished"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("quail_lightning.command_line.lightning_cli.add_end", full)
    callback.on_exception(None, None, RuntimeError())  # hides no error, and keeps no other callback from its turn


def test_the_config_and_the_command_keep_no_secret_and_are_private(tmp_path, monkeypatch):
    arguments = ["--hub={token: s3cret, name: x}", "--corpus=https://me:s3cret@host/data"]
    monkeypatch.setattr("sys.argv", ["quail", "fit", *arguments])
    save(tmp_path / "run", arguments)
    save(tmp_path / "run", arguments, config_filename="config-resumed.yaml", overwrite=True)
    for name in ("config.yaml", "config-resumed.yaml", "run.json"):
        path = tmp_path / "run" / name
        assert "s3cret" not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert kept["hub"] == {"token": "***", "name": "x"}
    assert kept["corpus"] == "https://***@host/data"
    assert not (tmp_path / "run/.lock").exists()


def test_another_runs_config_is_never_overwritten(tmp_path):
    save(tmp_path, [])
    with pytest.raises(InputError, match=r"config\.yaml is another run's"):
        save(tmp_path, [])


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(SystemExit(143), "interrupted"), (KeyboardInterrupt(), "interrupted"), (ValueError(), "failed")],
)
def test_a_run_that_was_told_to_end_is_noted_as_interrupted_and_not_as_failed(tmp_path, error, outcome) -> None:
    record = SaveConfigAndRecord.__new__(SaveConfigAndRecord)
    record._folder, record._recorded = tmp_path, True
    add_start(tmp_path, {"verb": "fit"})
    record.on_exception(None, None, error)
    assert read_starts(tmp_path)[-1]["outcome"] == outcome
