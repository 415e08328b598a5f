"""What `quail doctor` says of a machine: nothing that was not looked at."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from quail_lightning.commands import examined_machine
from quail_lightning.commands.examined_machine import (
    EXTRAS,
    devices,
    extras,
    formats,
    kernels,
    room,
    tried_format,
    versions,
)
from quail_lightning.commands.findings import Finding, as_json
from quail_lightning.models.arithmetic import OVERRIDE
from quail_lightning.models.memory import available_memory, main_memory
from quail_lightning.models.tiny import tiny_llama

ROOT = Path(__file__).parents[3]


def named(findings):
    return {each.name: each for each in findings}


@pytest.fixture(scope="module")
def model():
    return tiny_llama(vocab_size=64, width=256, layers=1, positions=32, mlp_width=256).eval().to(torch.bfloat16)


def test_versions_are_those_that_are_installed():
    found = named(versions())
    assert found["torch"].value == version("torch")
    assert not [each for each in found.values() if each.state == "blocks"]


def test_a_requirement_that_is_not_met_blocks_and_says_which_version_is_needed(monkeypatch):
    monkeypatch.setattr(
        examined_machine, "requires", lambda name: ["torch>=99", "rich", "gone; extra == 'x'", "nosuch>=2"]
    )
    found = {each.name: each for each in versions()[-2:]}
    assert found["torch"].state == found["nosuch"].state == "blocks"
    assert ">=99" in found["torch"].value
    assert found["nosuch"].remedy == 'pip install "nosuch>=2"'


def test_every_optional_part_of_the_project_is_looked_for():
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert EXTRAS.keys() == optional.keys() - {"dev"}
    brought = {"autoawq": "awq", "zstandard": "zstandard", "lm-eval": "lm_eval", "mlflow-skinny": "mlflow"}
    for name, modules in EXTRAS.items():
        packages = [Requirement(line).name for line in optional[name]]
        assert {*modules} <= {brought.get(package, package.replace("-", "_")) for package in packages}


def test_a_missing_part_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(examined_machine, "find_spec", lambda name: None if name == "wandb" else find_spec("json"))
    found = named(extras())
    assert found["loggers"] == Finding(
        "optional", "loggers", "wandb not installed", "absent", "pip install 'quail-lightning[loggers]'"
    )
    assert all(each.state == "ok" for name, each in found.items() if name != "loggers")


def test_free_memory_is_below_all_of_it():
    assert 0 < (available_memory() or 1) <= main_memory()
    assert re.search(r"free of [\d.,]+ [GM]iB", named(room())["main memory"].value)


def test_a_disk_without_room_blocks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert named(room())["logs/"].state == "ok"
    monkeypatch.setattr(examined_machine, "free_room", lambda folder: 2**20)
    assert named(room())["logs/"].state == "blocks"


@pytest.mark.parametrize(("chosen", "native"), [("stored", "native"), ("float32", "emulated")])
def test_arithmetic_is_what_the_models_compute_in(monkeypatch, chosen, native):
    monkeypatch.setenv(OVERRIDE, chosen)
    found = named(devices())
    assert found["bfloat16 products"].value.startswith(native)
    assert ("evaluation bfloat16" in found["arithmetic"].value) == (chosen == "stored")
    monkeypatch.setenv(OVERRIDE, "int3")
    assert named(devices())[OVERRIDE].state == "blocks"


@pytest.mark.parametrize("name", ["bf16", "nf4", "int8", "uniform4-group64", "fp8"])
def test_a_format_is_really_tried(name, model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert re.fullmatch(r"works \(.*, tried on a tiny model\)", tried_format(name, model).value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_format_that_cannot_be_tried_cheaply_says_so(model):
    assert "not tried" in tried_format("gptq4", model).value


class Broken:
    needs_calibration, backend = False, "kernels"

    def __init__(self, error=None):
        self.error = error

    def targets(self, model):
        return []

    def quantize(self, model):
        if self.error is not None:
            raise self.error

        class Copy(torch.nn.Module):
            dtype, device = torch.float32, torch.device("cpu")

            def forward(self, tokens):
                return SimpleNamespace(logits=torch.full((1, 8, 4), torch.nan))

        return Copy()


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        (
            Broken(OSError("no kernel image for this device\nadvice")),
            "kernels fails here: OSError: no kernel image for this device",
        ),
        (Broken(), "a tiny model's logits are not finite in it"),
    ],
)
def test_a_format_whose_kernels_fail_or_give_no_numbers_does_not_work(monkeypatch, model, quantizer, said):
    monkeypatch.setattr("quail_lightning.quantization.load_quantizer", lambda name: quantizer)
    found = tried_format("nf4", model)
    assert (found.state, found.value) == ("absent", said)


def test_every_precision_has_a_line(monkeypatch):
    monkeypatch.setattr("quail_lightning.quantization.available_precisions", lambda: ["bf16", "gptq4"])
    assert [each.name for each in formats()] == ["bf16", "gptq4"]


def test_llama_cpps_library_is_found_where_its_package_is():
    there = find_spec("xllamacpp") is not None
    assert kernels()[0].state == ("ok" if there else "absent")


def test_the_first_tables_need_neither_torch_nor_transformers():
    script = (
        "import sys\n"
        "from quail_lightning.command_line.doctor import extras, room, versions\n"
        "versions(), room(), extras()\n"
        "print(*({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not shown.stdout.split()


def test_json_says_whether_something_blocks():
    ok, bad = Finding("a", "x", "1"), Finding("b", "y", "2", "blocks", "mend it")
    assert as_json([ok])["ok"]
    told = as_json([ok, bad])
    assert not told["ok"]
    assert told["sections"]["b"] == [{"name": "y", "value": "2", "state": "blocks", "remedy": "mend it"}]
