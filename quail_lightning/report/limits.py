"""What the figures of a run do not say: samples, formats, arithmetic, what was not measured."""

from __future__ import annotations

from quail_lightning.errors import InputError
from quail_lightning.evaluation.precision import THEN, named_precision
from quail_lightning.report.finished_run import FinishedRun
from quail_lightning.report.metric_choice import gaps
from quail_lightning.run.results import Estimate


def limits_of(run: FinishedRun) -> list[str]:
    """One sentence or two a limit, the most general first."""
    found = [
        "These are measurements of samples, by the metrics named above. They show that the text was not found by "
        "these means; they do not prove that it cannot be got out by others.",
        "Intervals are 95 % bootstrap intervals over the records asked. They do not hold what another seed of the "
        "training would change.",
        _sample(run),
        *_formats(run),
    ]
    if not any(row.model == "retrained" for row in run.results.last):
        found.append(
            "There was no retrained model, one that never saw the text: what such a model would score is not "
            "known, nor whether enough, or too much, was forgotten."
        )
    found += [f"{gap}." for gap in gaps(run.results.last)]
    return found


def _sample(run: FinishedRun) -> str:
    sizes = [
        measure.n
        for row in run.results.last
        if row.model == "unlearned"
        for measure in row.metrics.values()
        if isinstance(measure, Estimate)
    ]
    if not sizes:
        return "No figure has a value."
    return f"Figures rest on {min(sizes)} to {max(sizes)} records each; the tables name n."


def _formats(run: FinishedRun) -> list[str]:
    found = []
    if run.precisions == [run.sixteen_bits]:
        found.append("No quantized format was tested, so nothing is known of what a deployed 4-bit model says.")
    simulated, unknown, attacked = [], [], []
    for name in run.precisions:
        try:
            precision = named_precision(name, sixteen_bits=run.sixteen_bits)
        except InputError:  # of another installation
            unknown.append(name)
            continue
        if precision.quantizer.simulated:
            simulated.append(name)
        if precision.attacks:
            attacked.append(name)
    if simulated:
        found.append(
            f"{', '.join(simulated)}: simulated, weights were rounded to the format's levels and computed with at "
            "full width. An engine's own kernels may round otherwise."
        )
    if attacked:
        found.append(
            f"{', '.join(attacked)}: after an attack, joined to what follows by {THEN}; others are possible."
        )
    if unknown:
        found.append(f"{', '.join(unknown)}: not known to this installation, so whether simulated cannot be told.")
    arithmetic = run.results.arithmetic.get("evaluation")
    if arithmetic:
        found.append(
            f"Evaluated in {arithmetic} arithmetic on the machine below; other hardware may move single answers."
        )
    return found
