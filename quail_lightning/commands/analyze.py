"""`quail analyze`: what became of the weights, and what quantization leaves of it (QUAIL, section V)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from quail_lightning.analysis.figures import draw_comparison, save_figures
from quail_lightning.analysis.tables import comparison_tables, print_comparison
from quail_lightning.analysis.weight_shift import as_json
from quail_lightning.commands.device import named_device
from quail_lightning.comparison import (
    Comparison,
    Questions,
    SharedStep,
    compare,
    compared_parameters,
    roles_from_config,
)
from quail_lightning.comparison import formats as formats_of
from quail_lightning.conversion.located import located
from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import GridKind
from quail_lightning.models.checkpoint import check_whole, load_config
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.quantization import load_quantizer
from quail_lightning.run.libraries import loading_libraries
from quail_lightning.storage.durable import check_writable, write_json
from quail_lightning.terminal import Bar

if TYPE_CHECKING:
    from quail_lightning.commands.forget_slope import ForgetSlope
    from quail_lightning.evaluation.benchmarks import Benchmark

NUMBERS = "analysis.json"
FORMATS = ("nf4", "fp4", "uniform4-group64")
CAST = "bf16"  # one more, where a model holds more than 16 bits


@dataclass(frozen=True)
class Analysis:
    """What ``analyze`` found.

    Attributes:
        reference: the target.
        model: unlearned from it.
        comparison: the figures of every tensor.
        questions: that they answer.
        forget: the forget text under both models; None where none was named.
    """

    reference: str
    model: str
    comparison: Comparison
    questions: Questions
    forget: ForgetSlope | None = None

    @property
    def rise(self) -> float | None:
        """Of the forget NLL, nats a token; None where no forget text was named."""
        return None if self.forget is None else self.forget.rise

    def as_json(self) -> dict[str, Any]:
        """The tables' numbers, of the model, its layers and tensors: what ``analysis.json`` holds."""
        names = {"reference": self.reference, "model": self.model}
        text = {} if self.forget is None else {"forget_text": self.forget.as_json()}
        return names | text | as_json(self.comparison, self.questions, self.rise)

    def tables(self) -> list[Table]:
        """Weight change, bucket overlap and, where formats were asked for, the delivered shift, to be printed."""
        return comparison_tables(self.comparison, self.questions, rise=self.rise)


def analyze(
    reference: str | Path,
    model: str | Path,
    bits: Sequence[int] = Questions.bits,
    granularities: Sequence[SharedStep] = Questions.granularities,
    grids: Sequence[GridKind] = Questions.kinds,
    formats: str | Sequence[str] | None = None,
    benchmark: str | Benchmark | None = None,
    corpus: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Analysis:
    """Compare two checkpoints, piece by piece; neither is ever in memory as a whole, but with a forget text.

    Args:
        reference: the target, a folder or a hub name.
        model: the model unlearned from it.
        bits: widths of the overlap table, 1 … 16.
        granularities: one step for the model, one for each tensor.
        grids: formulas of the overlap table; ``minmax-floor`` is QUAIL's.
        formats: precisions whose delivered shift is measured; an empty list: the papers' figures alone, much
            faster. None: NF4, FP4, int4 groups and, of a checkpoint stored in float32, the cast to bfloat16.
        benchmark: whose forget text the prediction goes by, too, a stem of ``configs/benchmark/*.yaml`` as of
            ``evaluate``; each model is then loaded in float32, and a gradient of its quantized weights is held.
        corpus: folder in the benchmark's layout.
        data: other options of the benchmark's data, such as ``{"forget": "my.txt"}`` of ``own``.
        device: that runs the models: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        InputError: what cannot be asked, a checkpoint that is not whole, different architectures, NaN or infinity.
    """
    given = dict(data or {}) | ({} if corpus is None else {"corpus": str(corpus)})
    if benchmark is None and given:
        raise InputError("--data and --corpus are of a benchmark", given=given, remedy="Name --benchmark own, say")
    where = named_device(device)
    reference, model = located([str(reference), str(model)])
    if formats is None:
        is_wide = torch.float32 in (load_config(reference).dtype, load_config(model).dtype)
        formats = (*FORMATS, CAST) if is_wide else FORMATS
    quantizers = {name: load_quantizer(name) for name in ([formats] if isinstance(formats, str) else formats)}
    questions = Questions(bits, granularities, grids, formats_of(quantizers))
    if benchmark is not None and not questions.formats:
        raise InputError("a forget text predicts what formats deliver, and there is none", remedy="Name --formats")
    for name in (reference, model):
        check_whole(name, torch.bfloat16 if benchmark is None else torch.float32)
    windows = None
    if benchmark is not None:
        import quail_lightning.commands.forget_slope as of_text  # here: it imports lightning

        windows = of_text.forget_windows(benchmark, model, given)
    with WeightFiles(reference) as before, WeightFiles(model) as after:
        roles = roles_from_config(load_config(str(before.folder)))
        parameters = compared_parameters(roles, before.shapes, after.shapes)
        forget = None
        if windows is not None:
            quantized = {name: before.shapes[name] for name, role in parameters.items() if role.quantized}
            with Bar() as bar:
                forget = of_text.forget_slope(reference, model, windows, quantized, where, bar.show)
        values = 4 * sum(math.prod(before.shapes[name]) for name in parameters)
        slope = None if forget is None else forget.gradient
        with Bar(total=values, desc="comparing", unit="weight", unit_scale=True) as bar:
            found = compare(before, after, parameters, questions, bar.update, gradient=slope)
    return Analysis(reference, model, found, questions, forget)


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("--reference", type=str, required=True, help="the target: a folder or a hub name")
    parser.add_argument("--model", type=str, required=True, help="the model unlearned from it")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder of numbers and figures; default: logs/analysis/<model>",
    )
    parser.add_argument(
        "--bits", type=int, nargs="+", default=list(Questions.bits), help="widths of the overlap table, 1 … 16"
    )
    parser.add_argument(
        "--granularities",
        type=SharedStep,
        nargs="+",
        default=list(Questions.granularities),
        help="one step for the model, one for each tensor",
    )
    parser.add_argument(
        "--grids",
        type=GridKind,
        nargs="+",
        default=list(Questions.kinds),
        help="formulas of the overlap table; minmax-floor is QUAIL's",
    )
    parser.add_argument(
        "--formats",
        type=str,
        nargs="*",
        help="precisions whose delivered shift is measured; empty: the papers' figures only, much faster; "
        f"default: {', '.join(FORMATS)} and, of float32 checkpoints, {CAST}",
    )
    parser.add_argument(
        "--benchmark",
        type=str | None,
        default=None,
        help="stem of configs/benchmark/*.yaml: what quantization gives back is predicted by its forget text, too",
    )
    parser.add_argument("--corpus", type=str | None, default=None, help="folder in the benchmark's layout")
    parser.add_argument("--data", type=dict[str, Any], default={}, help="other options of the benchmark's data")
    parser.add_argument(
        "--device", type=str, default="auto", help="of the forget text: auto, cpu, cuda, cuda:1, ..."
    )


def run(arguments: Any) -> None:
    """Carry the verb out."""
    out = Path(arguments.out) if arguments.out is not None else Path("logs/analysis", name_of(arguments.model))
    check_writable(out, "--out")
    if (out / NUMBERS).exists():
        raise InputError(f"{out} already holds an analysis", remedy="Name another folder by --out, or remove it")
    with loading_libraries():
        import_module("transformers.modeling_layers")
        import_module("matplotlib.figure")
    options = ["reference", "model", "bits", "granularities", "grids", "formats"]
    options += ["benchmark", "corpus", "data", "device"]
    found = analyze(**{name: getattr(arguments, name) for name in options})
    print_comparison(found.comparison, found.questions, found.rise)
    out.mkdir(parents=True, exist_ok=True)
    save_figures(draw_comparison(found.comparison, found.questions), out)
    write_json(out / NUMBERS, found.as_json())
    print(f"numbers and figures: {out}")


def name_of(model: str) -> str:
    """One folder's name that tells models apart: ``logs/news/ga/model`` is ``news-ga-model``."""
    path = Path(model)
    if path.is_dir():
        path = path.resolve()
        path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[-3:])
    parts = [part for part in path.parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[0] in ("logs", "checkpoints"):
        parts = parts[1:]
    return "-".join(parts) or "model"
