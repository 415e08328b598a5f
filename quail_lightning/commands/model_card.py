"""The README.md beside a quantized checkpoint: what it is, how it was made, what is known about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.data.calibration import CalibrationRequest
from quail_lightning.errors import InputError
from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.quantization.architecture import WORTH_SAYING, described_share
from quail_lightning.results import Measure, ResultRow, Undefined, read_results

# of the formats that transformers does not load by itself; the kernel it chooses on a CPU may round differently
_LOADING = {
    "gptqmodel": (
        "Classic GPTQ format. transformers loads it with GPTQModel and optimum "
        "(`pip install 'quail-lightning[gptqmodel]'`); on a CPU, "
        '`quantization_config=GPTQConfig(bits=N, backend="torch")` gives the evaluated copy\'s logits exactly.'
    ),
    "autoawq": (
        "Classic AWQ format. transformers loads it with GPTQModel (`pip install 'quail-lightning[gptqmodel]'`); "
        "on a CPU, "
        '`quantization_config=AwqConfig(backend="torch_awq")` gives the evaluated copy\'s logits exactly.'
    ),
}


def model_card(
    model: str, provenance: Mapping[str, Any], made: Mapping[str, Any], calibration: CalibrationRequest | None
) -> str:
    """The card as Markdown.

    Args:
        model: the checkpoint that was quantized; results are looked for in its folder and the one above.
        provenance: what was noted beside it; empty where it is not one of ours.
        made: ``precision``, ``dtype``, ``quantizer`` (its config file), ``simulated``, the ``share`` of the body's
            weights that is quantized and, for AWQ and GPTQ, the ``backend``.
        calibration: what the quantizer was calibrated on; None where it needs nothing.
    """
    base = provenance.get("target") or model
    parts = [
        f"---\nlibrary_name: transformers\nbase_model: {json.dumps(str(base))}\ntags: [quantized]\n---",
        f"# {Path(model).name}, {made['precision']}",
        f"Base: `{base}`. Quantized from `{model}`, whose weights were cast to {made['dtype']} first.",
        f"## Method\n\n{_method(provenance)}",
        f"## Quantizer\n\n```yaml\n{made['quantizer'].strip()}\n```",
    ]
    rest = ", the rest kept in 16 bits" if made["share"] < WORTH_SAYING else ""
    parts.append(
        f"Quantized: {described_share(made['share'])}{rest}; embeddings, head, norms and biases never are."
    )
    if made["simulated"]:
        parts.append(
            "The grid is simulated: weights are rounded to it and stored in 16 or 32 bits, so the checkpoint is "
            "as large as the original."
        )
    if made.get("backend") in _LOADING:
        parts.append(_LOADING[made["backend"]])
    parts.append(f"Calibration: {'none' if calibration is None else calibration.describe()}.")
    if calibration is not None and calibration.source == "forget":
        parts.append("**Calibrated on the forget set**, deliberately: a study, not for deployment.")
    parts.append(f"## Metrics\n\n{_metrics(Path(model), made['precision'])}")
    return "\n\n".join(parts) + "\n"


def _method(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return "Unknown: the checkpoint has no provenance.json."
    if "terms" not in provenance:
        return f"Made by `{provenance.get('made_by', 'unknown')}`; see provenance.json."
    lines = [f"- {name}: `{json.dumps(term, default=str)}`" for name, term in provenance["terms"].items()]
    settings = {
        name: provenance.get(name) for name in ("weights", "schedule", "learning_rate", "weight_precision")
    }
    lines += [
        f"- {name}: `{json.dumps(value, default=str)}`" for name, value in settings.items() if value is not None
    ]
    lines.append(f"- epochs: {provenance.get('finished_epochs', 'unknown')}")
    return "Unlearned by `quail fit`; all settings in provenance.json.\n\n" + "\n".join(lines)


def _metrics(model: Path, precision: str) -> str:
    """The table of the last epoch's rows at 16 bits and at this precision, where the run left results."""
    folder = next((place for place in (model, model.parent) if (place / "results.json").is_file()), None)
    try:
        rows = [] if folder is None else [row for row in read_results(folder) if row.model == "unlearned"]
    except InputError as problem:
        return f"Not known: {problem.fact}."
    if not rows:
        return "Not known: no results.json of an unlearning run beside or above the model."
    last = max(row.epoch or 0 for row in rows)
    shown = [row for row in rows if (row.epoch or 0) == last and row.precision in ("bf16", "fp16", precision)]
    note = "Of the unlearned model after its last epoch, judged by the run that made it (95 % intervals)."
    if precision not in {row.precision for row in shown}:
        note += f" That run did not judge {precision}."
    return note + "\n\n" + _table(shown)


def _table(rows: list[ResultRow]) -> str:
    names = [name for name in labels() if any(name in row.metrics for row in rows)]
    head = [label_of(name).heading for name in names]
    lines = ["| precision | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for row in rows:
        cells = [_cell(row.metrics.get(name)) for name in names]
        lines.append(f"| {row.precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    if isinstance(measure, Undefined):
        return "–"
    return f"{measure.value:.4g} [{measure.low:.4g}, {measure.high:.4g}], n {measure.n}"
