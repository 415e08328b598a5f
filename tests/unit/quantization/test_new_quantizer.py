"""A quantizer in a module of its own is counted, described and analyzed by what it says of itself."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
import yaml
from torch import Tensor

from quail_lightning import analyze, quantize
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, read_provenance
from quail_lightning.quantization import load_quantizer, quantized_linears, widest_copy
from quail_lightning.quantization.buckets import GridBuckets


@dataclass
class Halves:
    """Rounds to multiples of one half; stored at full size unless it is said to be packed."""

    packed: bool = False

    bits, granularity, needs_calibration, backend = 3, "tensor", False, "halves"

    @property
    def simulated(self) -> bool:
        return not self.packed

    @property
    def stored_bits(self) -> int:
        return 3 if self.packed else 16

    def targets(self, model) -> list[str]:
        return [f"{name}.weight" for name, _ in quantized_linears(model)]

    def quantize(self, model, calibration: Tensor | None = None):
        quantized = copy.deepcopy(model)
        with torch.no_grad():
            for _, linear in quantized_linears(quantized):
                linear.weight.copy_((2 * linear.weight).round() / 2)
        return quantized


class Gridded(Halves):
    """With levels that an analysis may ask for."""

    def buckets(self) -> GridBuckets:
        return GridBuckets(3, "tensor", None, "symmetric")


class Unfinished:
    """Lacks what callers ask."""

    bits, granularity, needs_calibration = 3, "tensor", False

    def targets(self, model) -> list[str]:
        return []

    def quantize(self, model, calibration=None):
        return model


@pytest.fixture
def precisions(tmp_path, monkeypatch, request):
    """halves, packed-halves, gridded and unfinished, below configs/quantizer where one stands."""
    from quail_lightning.configuration import allowed_code

    module = ModuleType("strangers_quantizers")
    for each in (Halves, Gridded, Unfinished):
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs/quantizer"
    folder.mkdir(parents=True)
    described = {
        "halves": ("Halves", {}),
        "packed-halves": ("Halves", {"packed": True}),
        "gridded": ("Gridded", {}),
        "unfinished": ("Unfinished", {}),
    }
    for name, (kind, options) in described.items():
        content = {"class_path": f"strangers_quantizers.{kind}", "init_args": options}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    with allowed_code.code_allowed(True):
        yield list(described)


def test_the_memory_plan_counts_what_it_says_it_stores(precisions, checkpoint) -> None:
    model = load_model(checkpoint, torch.bfloat16)
    wide, narrow = (widest_copy([load_quantizer(name)], model) for name in ("halves", "packed-halves"))
    assert (wide, narrow) == (16, 3)


def test_the_provenance_says_whether_it_is_simulated_and_what_made_it(precisions, checkpoint) -> None:
    for name, simulated in (("halves", True), ("packed-halves", False)):
        made = read_provenance(quantize(checkpoint, name, name))["quantized"]
        assert (made["simulated"], made["backend"]) == (simulated, "halves")


def test_it_is_analyzed_where_it_has_buckets_and_refused_where_it_has_none(precisions, checkpoint) -> None:
    content = analyze(checkpoint, checkpoint, bits=[4], formats=["gridded"]).as_json()
    assert [row["format"] for row in content["delivered"]] == ["gridded"]
    with pytest.raises(InputError, match="must follow from the weights alone; got 'halves'"):
        analyze(checkpoint, checkpoint, formats=["halves"])


def test_what_lacks_a_promise_is_refused_by_name(precisions) -> None:
    with pytest.raises(InputError, match=r"Unfinished.*is no quantizer: it lacks simulated, stored_bits, backend"):
        load_quantizer("unfinished")
