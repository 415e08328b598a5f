"""In which dtype is multiplied, and who decides."""

import pytest
import torch
from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.models import arithmetic
from quail_lightning.models.arithmetic import (
    arithmetic_name,
    compute_dtype,
    device_type,
    emulation_notice,
    hold_for_computing,
    training_precision,
)


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.delenv(arithmetic.OVERRIDE, raising=False)
    arithmetic._has_instructions.cache_clear()
    yield
    arithmetic._has_instructions.cache_clear()


def processor(monkeypatch, onednn, **capabilities):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("onednn", "capabilities", "native"),
    [
        (True, {"architecture": "x86_64", "avx512_bf16": True}, True),
        (True, {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
        (True, {"architecture": "x86_64", "avx512_f": True}, False),  # AVX-512 without BF16: oneDNN emulates
        (False, {"architecture": "x86_64", "avx2": True}, False),
        (False, {"architecture": "x86_64", "avx512_bf16": True}, False),  # ONEDNN_MAX_CPU_ISA=AVX2
        (True, {"architecture": "aarch64"}, True),
        (False, {"architecture": "aarch64"}, False),
    ],
)
def test_torch_says_what_the_processor_multiplies(onednn, capabilities, native, monkeypatch):
    processor(monkeypatch, onednn, **capabilities)
    assert compute_dtype(torch.bfloat16, "cpu") == (torch.bfloat16 if native else torch.float32)
    assert training_precision("cpu") == ("bf16-mixed" if native else "32-true")
    assert (emulation_notice("bf16-mixed", "cpu") is None) == native
    assert emulation_notice("32-true", "cpu") is None


@pytest.mark.parametrize("faster", [True, False])
def test_where_torch_says_nothing_a_product_is_timed_once(faster, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    timed = []
    monkeypatch.setattr(arithmetic, "_is_as_fast_as_float32", lambda *_: timed.append(1) or faster)
    for _ in range(3):
        assert compute_dtype(torch.bfloat16, "cpu") == (torch.bfloat16 if faster else torch.float32)
    assert timed == [1]


@pytest.mark.parametrize(("seconds", "faster"), [(0.01, True), (0.02, True), (0.3, False)])
def test_emulated_products_are_told_from_fast_ones_by_their_time(seconds, faster, monkeypatch):
    # a product in bfloat16 takes so long and one in float32 0.01 s, but for the first of each
    passed = [9.0, *[seconds] * 3, 9.0, *[0.01] * 3]
    ticks = iter([tick for taken in passed for tick in (0.0, taken)])
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: next(ticks))
    assert arithmetic._is_as_fast_as_float32(torch.bfloat16, torch.device("cpu")) == faster


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_only_16_bit_dtypes_are_widened(dtype, monkeypatch):
    monkeypatch.setenv(arithmetic.OVERRIDE, "float32")
    assert compute_dtype(dtype, "cpu") == dtype
    assert compute_dtype(torch.float16, "cpu") == compute_dtype(torch.bfloat16, "cpu") == torch.float32


def test_the_environment_overrides_and_is_checked(monkeypatch):
    monkeypatch.setenv(arithmetic.OVERRIDE, "stored")
    assert compute_dtype(torch.float16, "cpu") == torch.float16
    assert arithmetic_name(torch.bfloat16, "cpu") == "bfloat16"
    monkeypatch.setenv(arithmetic.OVERRIDE, "float32")
    assert arithmetic_name(torch.bfloat16, "cpu") == "float32 (weights stored as bfloat16)"
    monkeypatch.setenv(arithmetic.OVERRIDE, "fast")
    with pytest.raises(InputError, match=r"QUAIL_ARITHMETIC.*'fast'.*float32, stored"):
        compute_dtype(torch.bfloat16, "cpu")


def test_the_device_is_the_one_that_lightning_takes():
    assert device_type("cpu") == "cpu"
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    assert device_type("auto") == ("cpu" if found is None else found.type)


def test_held_weights_keep_values_and_remember_their_dtype(monkeypatch):
    monkeypatch.setenv(arithmetic.OVERRIDE, "float32")
    model = nn.Linear(8, 8).bfloat16()
    before = model.weight.clone()
    hold_for_computing(model, "cpu")
    assert (model.weight.dtype, model.weight.stored_dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(model.weight.bfloat16(), before)
    wide = hold_for_computing(nn.Linear(8, 8), "cpu")
    assert not hasattr(wide.weight, "stored_dtype")
