"""How much of the update each layer's weights deliver in the evaluated formats, from target and model on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_lightning.comparison.layer_figure import COLORS, MARKERS, number_layers, panels
from quail_lightning.errors import InputError
from quail_lightning.report.cells import Cell, Grid, Line
from quail_lightning.report.finished_run import FinishedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quail_lightning.comparison import Comparison, Delivery
    from quail_lightning.quantization import Quantizer

OVERLAP_BITS = 4  # the scan counts one grid at least; the page does not show it


@dataclass(frozen=True)
class LayerDelivery:
    """What the page says of it.

    Attributes:
        grid: a row a layer, share and cosine of each format; None where nothing could be measured.
        figures: the same, drawn, by what they show; none likewise. Each is narrow, for a phone.
        notes: which formats are left out, or why there is nothing.
    """

    grid: Grid | None
    figures: Mapping[str, Figure]
    notes: Sequence[str]


def delivered_by_layer(run: FinishedRun) -> LayerDelivery:
    """Compare the run's model with its target, piece by piece; where that cannot be done, say why.

    Both are read from disk, and must be what the run noted by their digests. No model is loaded.
    """
    if not (found := _folders(run)):
        return LayerDelivery(None, {}, [_missing(run)])
    target, model = found
    # here: a page of figures alone does without torch's and transformers' models
    from quail_lightning.models.checkpoint import weights_digest

    try:
        weights_digest(str(model))  # refuses weights that are not those that were saved
        known = run.provenance.get("target_sha256")
        if isinstance(known, dict) and known and weights_digest(str(target)) != known:
            return _nothing(f"the target {target} holds other weights than the run noted")
        names, left_out = _formats(run, target, model)
        if not names:
            return LayerDelivery(None, {}, left_out)
        return _measured(_compared(target, model, names), list(names), left_out)
    except InputError as problem:
        return _nothing(str(problem))


def _nothing(reason: str) -> LayerDelivery:
    return LayerDelivery(None, {}, [f"Not measured: {reason.rstrip('.')}."])


def _folders(run: FinishedRun) -> tuple[Path, Path] | None:
    target, model = run.target, run.model_folder
    return (Path(target), model) if target and Path(target).is_dir() and model.is_dir() else None


def _missing(run: FinishedRun) -> str:
    if not run.model_folder.is_dir():
        return "Not measured: the run saved no model, or it was removed."
    if not run.target:
        return "Not measured: the run did not note its target."
    return (
        f"Not measured: the target {run.target} is no folder here. Make the report where it is one; a relative "
        "path is meant from where the run was started."
    )


def _formats(run: FinishedRun, target: Path, model: Path) -> tuple[dict[str, Quantizer], list[str]]:
    """The evaluated precisions whose levels follow from the weights, and a sentence about the others."""
    import torch

    from quail_lightning.evaluation.precision import named_precision
    from quail_lightning.models.checkpoint import load_config
    from quail_lightning.quantization.fitted_ranges import levels_of

    is_wide = torch.float32 in (load_config(str(target)).dtype, load_config(str(model)).dtype)
    chosen: dict[str, Quantizer] = {}
    others, attacked = [], []
    for name in run.precisions:
        if name == run.sixteen_bits and not is_wide:
            continue  # as stored: all of it arrives
        try:
            precision = named_precision(name, sixteen_bits=run.sixteen_bits)
        except InputError:  # of another installation
            others.append(name)
            continue
        quantizer = precision.quantizer
        if precision.attacks:
            attacked.append(name)
        elif levels_of(quantizer) is not None:
            chosen[name] = quantizer
        else:
            others.append(name)
    left_out = []
    if others:
        left_out.append(f"{', '.join(others)}: left out, since its levels do not follow from the weights alone.")
    if attacked:
        left_out.append(f"{', '.join(attacked)}: left out, since an attack changes the weights first.")
    if not chosen and not left_out:
        left_out.append("Not measured: no quantized format was tested.")
    return chosen, left_out


def _compared(target: Path, model: Path, quantizers: Mapping[str, Quantizer]) -> Comparison:
    from quail_lightning.comparison import Questions, compare, compared_parameters, formats, roles_from_config
    from quail_lightning.models.checkpoint import load_config
    from quail_lightning.models.weight_files import WeightFiles
    from quail_lightning.terminal import Bar

    questions = Questions((OVERLAP_BITS,), ("tensor",), formats=formats(quantizers))
    with WeightFiles(str(target)) as before, WeightFiles(str(model)) as after:
        parameters = compared_parameters(roles_from_config(load_config(str(target))), before.shapes, after.shapes)
        quantized = {name: role for name, role in parameters.items() if role.quantized}
        values = 4 * sum(math.prod(before.shapes[name]) for name in quantized)
        with Bar(total=values, desc="comparing", unit="weight", unit_scale=True) as bar:
            return compare(before, after, quantized, questions, bar.update)


def _measured(found: Comparison, names: Sequence[str], notes: Sequence[str]) -> LayerDelivery:
    from quail_lightning.comparison import total_delivery

    layers = {str(number): tensors for number, tensors in found.layers().items()}
    rows = {
        place: {name: total_delivery(tensors, name) for name in names}
        for place, tensors in (layers | {"all": found.within("quantized")}).items()
    }
    lines = [
        Line("all layers" if place == "all" else f"layer {place}", _cells(row.values()))
        for place, row in rows.items()
    ]
    columns = [f"{name}: {measure}" for name in names for measure in ("arrives", "cosine")]
    grid = Grid("What arrives of the update, by layer; n is of weights", columns, lines)
    return LayerDelivery(grid, _draw({place: row for place, row in rows.items() if place != "all"}, names), notes)


def _cells(row: Any) -> list[Cell]:
    cells = []
    for total in row:
        share, cosine, count = total.along, total.cosine, str(total.buckets.count)
        unmoved = Cell("–", n=count, remark="nothing moved")
        cells.append(unmoved if share is None else Cell(f"{100 * share:.1f} %".replace("-", "−"), n=count))
        lost = Cell("–", n=count, remark="nothing arrives" if share is not None else "nothing moved")
        cells.append(lost if cosine is None else Cell(f"{cosine:.3f}".replace("-", "−"), n=count))
    return cells


def _draw(rows: Mapping[str, Mapping[str, Delivery]], names: Sequence[str]) -> dict[str, Figure]:
    layers = [int(place) for place in rows]
    figures = {}
    for title, measure in (("arrives, %", _percent), ("cosine", lambda total: total.cosine)):
        figure, (axis,) = panels(1, f"{title.split(',')[0]}, by layer", height=2.7)
        for name, color, marker in zip(names, COLORS * 9, MARKERS * 9, strict=False):
            values = [measure(row[name]) for row in rows.values()]
            axis.plot(
                layers, [math.nan if value is None else value for value in values], color=color, marker=marker,
                markersize=4, linewidth=1.2, label=f" {name}" if name.startswith("_") else name,
            )  # fmt: skip
        if title == "cosine":
            axis.set_ylim(min(0.0, axis.get_ylim()[0]), 1.05)
        axis.set_ylabel(title, fontsize=8)
        axis.set_xlabel("decoder layer", fontsize=8)
        number_layers(axis)
        figure.legend(loc="outside right center", fontsize=8)
        figures[title] = figure
    return figures


def _percent(total: Delivery) -> float | None:
    return None if total.along is None else 100 * total.along
