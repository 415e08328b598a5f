import subprocess
import sys

import pytest

from quail_lightning.errors import InputError
from quail_lightning.quantization import Uniform, Unquantized, available_precisions, load_quantizer


def write(folder, name: str, text: str) -> None:
    (folder / "configs" / "quantizer").mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "quantizer" / f"{name}.yaml").write_text(text)


def test_the_stem_of_a_shipped_file_is_a_precision(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    quantizer = load_quantizer("uniform4-group64")
    assert isinstance(quantizer, Uniform)
    assert (quantizer.bits, quantizer.granularity, quantizer.group_size) == (4, "group", 64)
    assert isinstance(load_quantizer("bf16"), Unquantized)


def test_a_file_where_the_user_stands_is_a_precision(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mine", "class_path: quail_lightning.quantization.Uniform\ninit_args: {bits: 3}\n")
    assert load_quantizer("mine").bits == 3
    assert {"mine", "bf16"} <= set(available_precisions())


def test_an_unknown_name_lists_the_precisions_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"got 'nf44'\. Allowed: .*fp4.*uniform4-quail.*Did you mean nf4\?"):
        load_quantizer("nf44")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("int4", r"nf4 .*int4 grids awq4, gptq4 or uniform4-group64"),
        ("INT4", r"nf4 .*int4 grids"),
        ("4bit", r"nf4 .*int4 grids"),
        ("q4_k_s", r"q4_k_m, q4_0 or q8_0 \(GGUF"),
        ("w4a16", r"nf4 .*int4 grids"),
        ("gguf", r"q4_k_m, q4_0 or q8_0 \(GGUF, written for llama.cpp\)"),
        ("int3", r"nf4 .*quail_lightning\.quantization\.Uniform"),
        ("2-bit", r"quail_lightning\.quantization\.Uniform"),
        ("8bit", r"int8 .*smoothquant8 or gptq8"),
        ("fp8-dynamic", r"fp8\?"),
        ("e4m3", r"fp8\?"),
        ("float8", r"fp8\?"),
        ("fp8_e5m2", r"fp8 \(E4M3"),
        ("w8a8-fp8", r"fp8\?"),
        ("nvfp4a16", r"nvfp4"),
        ("NVFP4", r"nvfp4\?"),
        ("mxfp4a16", r"mxfp4"),
        ("w4a16-fp", r"nvfp4, mxfp4 or fp4"),
        ("e2m1", r"nvfp4, mxfp4 or fp4"),
        ("w8a8", r"int8 .*smoothquant8"),
        ("awq", r"awq4 or awq4-group64"),
        ("gptq", r"gptq4, gptq4-group64 or gptq8"),
        ("rtn", r"uniform4-group64"),
        ("float16", r"bf16 or fp16"),
        ("float32", r"fp32\?"),
        ("NF4", r"nf4\?"),
        ("awq4_group64", r"awq4-group64\?"),
    ],
)
def test_a_name_known_from_elsewhere_is_answered_with_what_is_here(name, meant) -> None:
    with pytest.raises(InputError, match=rf"no such precision; got '{name}'.*Did you mean .*{meant}"):
        load_quantizer(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class_path: quail_lightning.quantization.Uniform\ninit_args: {bits: 4, gruop_size: 64}", "gruop_size"),
        ("class_path: quail_lightning.quantization.Uniform\ninit_args: {bits: four}", "bits"),
        ("class_path: quail_lightning.quantization.Uniform\ninit_args: {bits: 4, grid: asymmetric}", "grid"),
        ("class_path: quail_lightning.quantization.Uniform\ninit_args: {}", "bits"),
        ("class_path: quail_lightning.quantization.Unquantized\nbits: 4", "bits"),
        ("class_path: quail_lightning.quantization.Unifrom", "Unifrom' is no class"),
        ("class_path: quail_lighting.quantization.Uniform", "No module named 'quail_lighting'"),
        ("class_path: Uniform", "'Uniform' is no class"),
        (
            "class_path: torch.nn.Linear\ninit_args: {in_features: 1, out_features: 1}",
            "no quantizer: it lacks bits",
        ),
        ("init_args: {bits: 4}", "no class_path"),
        ("- 4", "no class_path"),
        ("", "no class_path"),
        ("class_path: [", "does not describe a quantizer"),
    ],
)
def test_a_file_that_describes_no_quantizer_is_refused(tmp_path, monkeypatch, text: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "broken", text)
    with pytest.raises(InputError, match=words) as refusal:
        load_quantizer("broken")
    assert "broken.yaml" in str(refusal.value)


def test_a_value_that_the_quantizer_refuses_keeps_its_message(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "one", "class_path: quail_lightning.quantization.Uniform\ninit_args: {bits: 1}\n")
    with pytest.raises(InputError, match="bits must lie in 2 … 8; got 1"):
        load_quantizer("one")


def test_naming_a_precision_loads_neither_transformers_nor_bitsandbytes() -> None:
    program = (
        "import sys; from quail_lightning.quantization import load_quantizer; load_quantizer('nf4');"
        "print(sorted({'transformers', 'bitsandbytes', 'accelerate'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.stdout.strip(), finished.returncode) == ("[]", 0), finished.stderr
