"""`quail analyze`: what became of the weights, and what quantization leaves of it (QUAIL, section V)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from quail_lightning.analysis.figures import draw_comparison, save_figures
from quail_lightning.analysis.tables import print_comparison
from quail_lightning.analysis.weight_shift import write_comparison
from quail_lightning.comparison import (
    Comparison,
    Questions,
    compare,
    compared_parameters,
    formats,
    roles_from_config,
)
from quail_lightning.durable import check_writable
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import check_whole, load_config
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.quantization import load_quantizer

NUMBERS = "analysis.json"


def analyze(reference: str, model: str, questions: Questions) -> Comparison:
    """Compare two checkpoints, piece by piece; neither is ever in memory as a whole.

    Args:
        reference: the target, a folder or a hub name.
        model: the model unlearned from it.
        questions: what to count.

    Raises:
        InputError: a checkpoint that is not whole, different architectures, NaN or infinity.
    """
    for name in (reference, model):
        check_whole(name, torch.bfloat16)
    with WeightFiles(reference) as before, WeightFiles(model) as after:
        roles = roles_from_config(load_config(str(before.folder)))
        parameters = compared_parameters(roles, before.shapes, after.shapes)
        values = 4 * sum(math.prod(before.shapes[name]) for name in parameters)
        with tqdm(total=values, unit="weight", unit_scale=True, leave=False) as bar:
            return compare(before, after, parameters, questions, bar.update)


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
        "--bits", type=int, nargs="+", default=[16, 8, 4], help="widths of the overlap table, 1 … 16"
    )
    parser.add_argument(
        "--granularities",
        type=Literal["global", "tensor"],
        nargs="+",
        default=["global", "tensor"],
        help="one step for the model, one for each tensor",
    )
    parser.add_argument(
        "--grids",
        type=Literal["minmax-floor", "minmax-round", "symmetric"],
        nargs="+",
        default=["minmax-floor"],
        help="formulas of the overlap table; minmax-floor is QUAIL's",
    )
    parser.add_argument(
        "--formats",
        type=str,
        nargs="*",
        default=["nf4", "fp4", "uniform4-group64"],
        help="precisions whose delivered shift is measured; none: the papers' figures only, much faster",
    )


def run(arguments: Any) -> None:
    """Carry the verb out."""
    out = Path(arguments.out) if arguments.out is not None else Path("logs/analysis", name_of(arguments.model))
    check_writable(out, "--out")
    if (out / NUMBERS).exists():
        raise InputError(f"{out} already holds an analysis", remedy="Name another folder by --out, or remove it")
    questions = Questions(
        arguments.bits,
        arguments.granularities,
        arguments.grids,
        formats({name: load_quantizer(name) for name in arguments.formats}),
    )
    found = analyze(arguments.reference, arguments.model, questions)
    print_comparison(found, questions)
    out.mkdir(parents=True, exist_ok=True)
    save_figures(draw_comparison(found, questions), out)
    names = {"reference": arguments.reference, "model": arguments.model}
    write_comparison(out / NUMBERS, found, questions, names)
    print(f"numbers and figures: {out}")


def name_of(model: str) -> str:
    """One folder's name that tells models apart: ``logs/news/version_0/model`` is ``news-version_0-model``."""
    path = Path(model)
    if path.is_dir():
        path = path.resolve()
        path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[-3:])
    parts = [part for part in path.parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[0] in ("logs", "checkpoints"):
        parts = parts[1:]
    return "-".join(parts) or "model"
