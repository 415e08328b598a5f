"""A config names classes of the expected type, of installed packages; whatever else it names is never run."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol, TypedDict

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch.optim import Optimizer

from quail_lightning.cli import main
from quail_lightning.command_line.argument_parser import SuggestingParser
from quail_lightning.commands import folds
from quail_lightning.configuration.allowed_code import code_allowed
from quail_lightning.configuration.import_gate import CodeRefusedError, import_class
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmarks import load_benchmark
from quail_lightning.evaluation.harness import HarnessTask, check_task
from quail_lightning.quantization import load_quantizer

EVIL = """
import pathlib
pathlib.Path({canary!r}).touch()
from lightning.pytorch import Callback, LightningDataModule
def run(*_, **__): pathlib.Path({canary!r}).touch()
class Evil(Callback):
    def __init__(self, *_, **__): run()
    def __call__(self): run()
class Data(LightningDataModule):
    def __init__(self, *_, **__): run()
class Quantizer:
    bits, granularity, needs_calibration, simulated, stored_bits, backend = 4, "none", False, True, 16, "none"
    def quantize(self, model, tokens): run()
    def targets(self, model): run()
"""


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that exists once code of the config's has run; its module lies where ``python -m`` would find it."""
    file = tmp_path / "canary"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(EVIL.format(canary=str(file)))
    (tmp_path / "evil_package").mkdir()  # without __init__.py
    (tmp_path / "evil_package/inner.py").write_text(EVIL.format(canary=str(file)))
    yield file
    for name in [name for name in sys.modules if name.startswith("evil")]:
        del sys.modules[name]


class Called(Protocol):
    def __call__(self, value: int) -> int: ...


class Keys(TypedDict):
    hook: Callable


@dataclass
class Inner:
    hook: Callable | None = None


class Fields:
    """One field of every kind that may take a name."""

    def __init__(
        self,
        bare: Callable | None = None,
        plain: Callable[[int], int] | None = None,
        anything: Callable[..., Any] | None = None,
        of_object: Callable[..., object] | None = None,
        or_text: str | Callable | None = None,
        text_first: Callable | str | None = None,
        several: Sequence[Callable] | None = None,
        one_or_several: list[Callable] | Callable | None = None,
        by_name: Mapping[str, Callable] | None = None,
        pair: tuple[int, Callable] | None = None,
        protocol: Called | None = None,
        keys: Keys | None = None,
        inner: Inner | None = None,
        optimizer: Callable[[Any], Optimizer] | None = None,
        a_class: type | None = None,
        any_class: type[Any] | None = None,
        a_callback_class: type[Callback] | None = None,
        module: ModuleType | None = None,
        callback: Callback | None = None,
        callbacks: list[Callback] | Callback | None = None,
        untyped=None,
        value: Any = None,
        an_object: object = None,
        values: dict[str, Any] | None = None,
        more: list[Any] | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name != "self" and value is not None}


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "canary"]}}
NAMES = [
    "evil.run",
    "evil.Evil",
    "evil.Evil.__call__",
    "evil_package.inner.run",
    "os.system",
    "builtins.exec",
    "runpy.run_path",
    "subprocess.Popen",
    "functools.partial",
    "torch.load",
    "torch.hub.load",
    "quail_lightning.cli.main",
    "quail_lightning.commands.folds.subprocess.Popen",  # by the name of a module that imports it
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "pip.__main__.sys",
    {"class_path": "evil.Evil"},
    {"class_path": "evil_package.inner.Evil"},
    POPEN,
    {"class_path": "quail_lightning.commands.folds.subprocess.Popen", "init_args": {"args": ["touch", "canary"]}},
    {"class_path": "functools.partial", "init_args": {"func": "evil.run"}},
    {"class_path": "builtins.open", "init_args": {"file": "canary", "mode": "w"}},
    {"class_path": "code.InteractiveConsole"},
]


def shaped(field, name):
    """A value for a field, as a config would give it."""
    if field in ("several", "one_or_several", "more"):
        return [name]
    if field in ("by_name", "values"):
        return {"a": name}
    if field == "pair":
        return [1, name]
    return {"hook": name} if field in ("keys", "inner") else name


FIELDS = [name for name in Fields.__init__.__annotations__ if name != "return"] + ["untyped"]


def parsed(config):
    parser = SuggestingParser(prog="quail")
    parser.add_class_arguments(Fields, "fields", fail_untyped=False)
    return parser.instantiate_classes(parser.parse_object({"fields": config})).fields.given


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_any_kind_runs_what_it_names(field, canary, capsys) -> None:
    for name in NAMES:
        try:
            given = parsed({field: shaped(field, name)})
        except SystemExit:
            said = capsys.readouterr().err
            assert said.startswith("error: ")
            continue
        # where any text or mapping may stand it stays one; nothing was imported, built or handed over
        assert json.loads(json.dumps(given[field], default=vars)) is not None, (field, name)
        assert not callable(given[field])
    assert not canary.exists()
    assert not [name for name in sys.modules if name.startswith("evil")]


def test_the_refusal_is_one_line_that_names_key_value_and_remedy(canary, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed({"callbacks": [{"class_path": "LambdaCallback", "init_args": {"setup": "evil.run"}}]})
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    for part in ("fields.callbacks: setup: ", "got 'evil.run'", "--allow-code"):
        assert part in said


def test_classes_of_the_expected_type_from_installed_packages_are_built() -> None:
    given = parsed(
        {
            "callback": {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"interval": "epoch"}},
            "callbacks": [{"class_path": "LambdaCallback"}, "quail_lightning.callbacks.KeepBest"],
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
            "a_callback_class": "lightning.pytorch.callbacks.Timer",
        }
    )
    assert [type(found).__name__ for found in given["callbacks"]] == ["LambdaCallback", "KeepBest"]
    assert given["optimizer"]([torch.nn.Parameter(torch.ones(1))]).defaults["lr"] == 0.5


def test_a_class_of_another_type_is_not_built(canary, capsys) -> None:
    with pytest.raises(SystemExit):
        parsed({"callback": {"class_path": "torch.optim.SGD"}})
    with pytest.raises(SystemExit):
        parsed({"optimizer": {"class_path": "lightning.pytorch.callbacks.Timer"}})


def test_with_the_flag_whatever_is_named_may_run(canary) -> None:
    with code_allowed():
        assert callable(parsed({"bare": "evil.run"})["bare"])
    assert canary.exists()


@pytest.mark.parametrize(
    "path", ["evil.Evil", "evil_package.inner.Evil", "json.JSONDecoder", "pip.__main__.x", "__main__.X"]
)
def test_what_is_not_installed_is_refused_before_it_is_imported(path, canary) -> None:
    with pytest.raises(CodeRefusedError):
        import_class(path)
    assert not canary.exists()


def test_a_folder_named_like_an_installed_package_is_not_that_package(canary, tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)  # another test may have imported the installed one
    (tmp_path / "wandb.py").write_text(EVIL.format(canary=str(canary)))
    with pytest.raises(CodeRefusedError):
        import_class("wandb.Evil")
    assert not canary.exists()


# --- whole commands ----------------------------------------------------------------------------------------


def hooked(name, **arguments):
    return {"class_path": f"lightning.pytorch.{name}", "init_args": arguments}


TRAINERS = [
    {"callbacks": [hooked("callbacks.LambdaCallback", setup="evil.run")]},
    {"callbacks": hooked("callbacks.LambdaCallback", on_fit_start="torch.load")},
    {"callbacks": [hooked("callbacks.ModelPruning", pruning_fn="l1_unstructured", apply_pruning="evil.run")]},
    {"callbacks": [hooked("callbacks.BackboneFinetuning", lambda_func="evil.run")]},
    {"callbacks": [hooked("callbacks.StochasticWeightAveraging", swa_lrs=0.1, avg_fn="evil.run")]},
    {"callbacks": [hooked("callbacks.ThroughputMonitor", batch_size_fn="evil.run")]},
    {"callbacks": "evil.Evil"},
    {"logger": POPEN},
    {"logger": hooked("loggers.CSVLogger", save_dir=POPEN)},
    {"plugins": [POPEN]},
    {"plugins": "evil.Evil"},
    {"profiler": {"class_path": "evil.Evil"}},
    {"strategy": hooked("strategies.DDPStrategy", ddp_comm_hook="evil.run")},
    {"strategy": hooked("strategies.DDPStrategy", ddp_comm_wrapper="evil.run")},
    {"strategy": hooked("strategies.DDPStrategy", checkpoint_io={"class_path": "evil.Evil"})},
    {"strategy": hooked("strategies.FSDPStrategy", auto_wrap_policy="evil.run")},
]
SECTIONS = [
    *({"trainer": trainer} for trainer in TRAINERS),
    {"model": {"hinge": {"class_path": "evil.Evil"}}},
    {"model": {"forget": "evil.Evil"}},
    {"model": {"reference": POPEN}},
    {"data": {"class_path": "evil.Data"}},
    {"data": "evil.Data"},
    {"prepare": {"class_path": "evil.Evil"}},
    {"evaluation": {"suite": {"class_path": "evil.Evil"}}},
]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_fit_refuses_a_config_that_names_a_program(section, canary, capsys) -> None:
    (canary.parent / "mine.yaml").write_text(yaml.safe_dump(section))
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "quickstart.yaml", "--config", "mine.yaml", "--print_config"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: ")
    assert not canary.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "given",
    [
        ["--trainer.callbacks+=evil.Evil"],
        ["--data.help=evil.Data"],
        ["--data=evil.Data", "--help"],
        ["--model.hinge=evil.Evil"],
        ["--allow_code=true", "--model.hinge=evil.Evil"],
        ["--allow-code=true", "--model.hinge=evil.Evil"],
    ],
    ids=str,
)
def test_options_of_the_command_line_pass_the_same_gate(given, canary, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", "quickstart.yaml", *given])
    assert not canary.exists()


def test_no_config_gives_the_flag(canary, monkeypatch, capsys) -> None:
    (canary.parent / "mine.yaml").write_text("allow_code: true\nallow-code: true\ndata: evil.Data\n")
    monkeypatch.setenv("PL_ALLOW_CODE", "true")
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for verb in ("fit", "finetune", "quantize"):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--config", "mine.yaml"])
        assert ended.value.code == 2
    assert not canary.exists()


def test_the_flag_reaches_the_processes_that_are_started(canary, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["quail"])
    started = []

    @contextmanager
    def dependent_process(command):
        started.append(command)
        yield SimpleNamespace(wait=lambda: 0)

    for flag in ([], ["--allow-code"]):
        with pytest.raises(SystemExit):  # there is no such checkpoint, which is found out after parsing
            main(["fit", "--config=quickstart.yaml", "--ckpt_path=nowhere", *flag])
        assert ("--allow-code" in sys.argv) == bool(flag)  # Lightning starts processes by it
        with code_allowed(bool(flag)), monkeypatch.context() as patch:
            patch.setattr(folds, "dependent_process", dependent_process)
            folds._execute(["fit"])
        assert ("--allow-code" in started[-1]) == bool(flag)
        assert "-P" in started[-1]


def test_a_fold_s_config_cannot_pass_as_the_flag(canary, capsys) -> None:
    (canary.parent / "--allow-code").write_text("data: evil.Data\n")
    with pytest.raises(SystemExit):
        main(["folds", "--fit=[--allow-code]", "--forget=[a]", "--start_from=target", "--out=out"])
    assert "cannot begin with -" in capsys.readouterr().err


def test_the_files_of_precisions_and_benchmarks_pass_the_gate(canary) -> None:
    for kind, load, name in (("quantizer", load_quantizer, "Quantizer"), ("benchmark", load_benchmark, "Data")):
        file = canary.parent / f"configs/{kind}/mine.yaml"
        file.parent.mkdir(parents=True)
        for path in (f"evil.{name}", f"evil_package.inner.{name}", "os.system", "evil.run"):
            file.write_text(f"class_path: {path}\n")
            with pytest.raises(InputError, match=rf"class_path of \S*mine\.yaml.*{path}.*--allow-code"):
                load("mine")
        assert not canary.exists()
        file.write_text(f"class_path: evil.{name}\n")
        with code_allowed():
            load("mine")
        assert canary.exists()
        canary.unlink()
        del sys.modules["evil"]


def test_modules_in_the_current_folder_are_not_taken_for_packages(canary) -> None:
    for name in ("yaml", "torch", "lightning", "jsonargparse", "difflib"):
        (canary.parent / f"{name}.py").write_text(EVIL.format(canary=str(canary)))
    finished = subprocess.run([sys.executable, "-m", "quail_lightning"], capture_output=True, text=True)
    assert finished.stdout.startswith("usage: quail VERB"), finished.stderr
    assert not canary.exists()


def test_the_harness_s_task_files_need_the_flag(tmp_path) -> None:
    with pytest.raises(InputError, match="--allow-code"):
        check_task(HarnessTask("mine", folder=str(tmp_path)))
