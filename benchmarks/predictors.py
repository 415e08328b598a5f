"""What foresees the forgetting that quantization gives back: rank correlations over finished runs.

    python benchmarks/predictors.py RUN... [--evaluated FOLDER] [--point model|middle|target] [--json FILE]

Each RUN is a folder of `quail fit` (config.yaml, results.json, model/). For every precision in its results whose
levels follow from the weights alone, target and unlearned model are compared as `quail analyze` does, the
gradient of the forget NLL is taken on the windows that the run evaluated, and every predictor is set beside
what came back by the run's own evaluation: 1 − kept NLL. The table says Spearman's rank correlation over all
(run, precision) pairs, with the interval of 1000 draws of whole runs, since the formats of one run are no
independent cases.

--evaluated is for runs that were evaluated afterwards, by `quail evaluate --out FOLDER/<run>`: what came
back is read there (benchmarks/survival.py makes OUT/runs/<name> and OUT/evaluated/<name>).
--point is where the gradient is taken: at the unlearned model (as `quail analyze` does), halfway to the target, or
at the target. Paths in the configs are relative to where `quail fit` was started: start this there, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr

from quail_lightning.comparison import (
    PREDICTORS,
    Questions,
    Tensors,
    compare,
    compared_parameters,
    key_for,
    roles_from_config,
    total_delivery,
    total_overlap,
    usable_formats,
)
from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.configuration.import_gate import class_in
from quail_lightning.data.window_records import spread
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmarks import MOST_WINDOWS, Benchmark
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.inference.nll_gradient import nll_gradient
from quail_lightning.models.checkpoint import load_config, load_model
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.quantization import available_precisions, load_quantizer
from quail_lightning.run.results import Estimate, read_results, read_whole

OVERLAP = "QUAIL's overlap, 4 bits, tensor-wise"
DRAWS = 1000
POINTS = {"model": 1.0, "middle": 0.5, "target": 0.0}  # share of the way from the target


class Case(NamedTuple):
    """One run at one precision.

    Attributes:
        run: its folder.
        precision: name.
        came_back: 1 − kept NLL, fraction.
        rise: of the mean forget NLL at 16 bits, nats a token.
        foreseen: predictor → figure; None where it has none.
    """

    run: str
    precision: str
    came_back: float
    rise: float
    foreseen: Mapping[str, float | None]


class Correlation(NamedTuple):
    """Of one predictor with what came back.

    Attributes:
        spearman: ρ; None where one of the two does not vary.
        low, high: bounds of its 95 % interval over draws of whole runs; None likewise.
        n: pairs.
    """

    spearman: float | None
    low: float | None
    high: float | None
    n: int


def main() -> None:
    options = _options()
    cases: list[Case] = []
    for run in options.runs:
        try:
            cases += cases_of(run, POINTS[options.point], options.evaluated)
        except InputError as problem:
            print(f"left out: {run}: {problem}", file=sys.stderr)
    if not cases:
        raise SystemExit("no run has a precision whose levels follow from the weights, and a kept NLL")
    found = correlations(cases)
    print("\n".join(table(found, cases)))
    if options.json is not None:
        content = {
            "point": options.point,
            "cases": [case._asdict() for case in cases],
            "spearman": {name: each._asdict() for name, each in found.items()},
        }
        options.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def cases_of(run: Path, point: float, evaluated: Path | None = None) -> list[Case]:
    """Every precision of a run that can be foreseen and was measured.

    Args:
        run: folder of ``quail fit``.
        point: where the gradient is taken, share of the way from target to unlearned model.
        evaluated: folder of later evaluations; None: the run's own.

    Raises:
        InputError: a file of the run, its target or its texts cannot be read.
    """
    came_back = returned(run, evaluated)
    wanted = [name for name in came_back if name in available_precisions()]
    formats = usable_formats({name: load_quantizer(name) for name in wanted})
    if not formats:
        return []
    config, model = read_yaml(run / "config.yaml"), run / "model"
    target = str(config["model"]["target"])
    most = config["evaluation"]["max_windows"] if evaluated is None else MOST_WINDOWS
    windows = forget_windows(run / "config.yaml", config, target, most)
    print(
        f"{run}: {len(windows)} windows, {', '.join(used.name for used in formats)}", file=sys.stderr, flush=True
    )
    questions = Questions((4,), ("tensor",), formats=formats)
    with WeightFiles(target) as before, WeightFiles(str(model)) as after:
        parameters = compared_parameters(roles_from_config(load_config(target)), before.shapes, after.shapes)
        quantized = [name for name, role in parameters.items() if role.quantized]
        unlearned, whole = load_model(str(model), torch.float32), load_model(target, torch.float32)
        nlls = [float(window_nlls(each, windows, 1).mean()) for each in (unlearned, whole)]
        place_between(unlearned, whole, point)
        slope = nll_gradient(unlearned, windows, quantized)
        gradient = Tensors(slope.weights, "the gradient")
        found = compare(before, after, parameters, questions, gradient=gradient)
    tensors, rise = found.within("quantized"), nlls[0] - nlls[1]
    overlap = total_overlap(tensors, key_for("minmax-floor", "tensor", 4, "quantized")).overlap
    cases = []
    for used in formats:
        delivery = total_delivery(tensors, used.name)
        figures = {each.name: each.of(delivery, rise) for each in PREDICTORS}
        cases.append(Case(str(run), used.name, came_back[used.name], rise, {OVERLAP: overlap} | figures))
    return cases


def returned(run: Path, evaluated: Path | None = None) -> dict[str, float]:
    """Precision → 1 − kept NLL of the run's model as it was evaluated last, where that is defined."""
    if evaluated is None:
        rows = [row for row in read_whole(run).last if row.model == "unlearned"]
    else:
        rows = [row for row in read_results(evaluated / run.name) if Path(row.model).parent.name == run.name]
    kept = {row.precision: row.metrics.get("kept_forgetting") for row in rows}
    return {name: 1 - each.value for name, each in kept.items() if isinstance(each, Estimate)}


def forget_windows(path: Path, config: Mapping[str, Any], target: str, most: int | None) -> torch.Tensor:
    """The windows whose NLL was evaluated, at most so many, [n, time]."""
    data = config["data"]
    given = {k: v for k, v in data["init_args"].items() if k not in ("tokenizer", "schedule", "seed")}
    benchmark = Benchmark(str(path), class_in(path, data["class_path"]), given, None)
    windows: torch.Tensor = benchmark.read(target, {}).training["forget"]
    return windows if most is None else spread(windows, most)


def place_between(model: torch.nn.Module, target: torch.nn.Module, point: float) -> None:
    """Move a model's weights back to ``point`` of the way from the target's."""
    if point != 1:
        with torch.no_grad():
            for own, other in zip(model.parameters(), target.parameters(), strict=True):
                own.copy_(torch.lerp(other, own, point))


def correlations(cases: Sequence[Case]) -> dict[str, Correlation]:
    """Predictor → rank correlation with what came back, over the cases where it has a figure."""
    return {name: correlation(cases, name) for name in cases[0].foreseen}


def correlation(cases: Sequence[Case], name: str) -> Correlation:
    """Of one predictor; the interval draws runs with replacement."""
    having = [case for case in cases if case.foreseen[name] is not None]
    by_run: dict[str, list[tuple[float, float]]] = {}
    for case in having:
        by_run.setdefault(case.run, []).append((float(case.foreseen[name] or 0.0), case.came_back))
    rho = _spearman([pair for pairs in by_run.values() for pair in pairs])
    if rho is None:
        return Correlation(None, None, None, len(having))
    draw, runs = np.random.default_rng(0), list(by_run.values())
    drawn = [
        _spearman([pair for number in draw.integers(len(runs), size=len(runs)) for pair in runs[number]])
        for _ in range(DRAWS)
    ]
    known = [each for each in drawn if each is not None]
    low, high = np.percentile(known, [2.5, 97.5]).tolist()
    return Correlation(rho, low, high, len(having))


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    foreseen, found = (set(each) for each in zip(*pairs, strict=True)) if pairs else (set(), set())
    if len(foreseen) < 2 or len(found) < 2:
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def table(found: Mapping[str, Correlation], cases: Sequence[Case]) -> list[str]:
    """Markdown: the strongest first."""
    formulas = {each.name: each.formula for each in PREDICTORS}
    runs, none = len({case.run for case in cases}), sum(case.came_back <= 0 for case in cases)
    lines = [
        f"Spearman's ρ with what came back (1 − kept NLL); {len(cases)} pairs of {runs} runs, "
        f"of which {none} with nothing that came back",
        "",
        "| predictor | formula | ρ | 95 % | n |",
        "|---|---|---|---|---|",
    ]
    for name, each in sorted(found.items(), key=lambda item: -abs(item[1].spearman or 0.0)):
        shown = ("–", "–")
        if each.spearman is not None:
            shown = (f"{each.spearman:+.2f}", f"{each.low:+.2f} … {each.high:+.2f}")
        lines.append(f"| {name} | {formulas.get(name, '')} | {shown[0]} | {shown[1]} | {each.n} |")
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `quail fit`")
    parser.add_argument("--evaluated", type=Path, help="folder of later evaluations, by the runs' names")
    parser.add_argument("--json", type=Path, help="file for every case and correlation")
    parser.add_argument("--point", choices=POINTS, default="model", help="where the gradient is taken")
    return parser.parse_args()


if __name__ == "__main__":
    main()
