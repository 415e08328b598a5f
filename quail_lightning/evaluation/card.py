"""The README.md beside a saved model: how it was made and what was measured of it; never what it was to forget."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from quail_lightning.conversion.described import described_grid
from quail_lightning.data.text_digests import TEXTS
from quail_lightning.errors import InputError
from quail_lightning.evaluation.metrics import label_of, labels
from quail_lightning.evaluation.precision import UNQUANTIZED
from quail_lightning.run.results import Measure, ResultRow, Undefined, read_results, read_verdicts


def unlearned_card(name: str, folder: Path, provenance: Mapping[str, Any]) -> str:
    """The card of a model that ``quail fit`` made, as Markdown with Hugging Face's metadata.

    Args:
        name: of the model.
        folder: of the run, where its results lie.
        provenance: what is noted beside the model.
    """
    stored, library = f"Weights are stored as {provenance.get('export_dtype')}", "transformers"
    if "base" in provenance:
        stored, library = f"This is a LoRA adapter for `{provenance['base']}`, not a whole model", "peft"
    return "\n\n".join(
        [
            f"---\nlibrary_name: {library}\npipeline_tag: text-generation\ntags: [unlearning]\n---",
            f"# {name}",
            f"Base: `{provenance.get('target')}`. {stored}.",
            *filter(None, [described_origin(provenance)]),
            f"## Method\n\n{described_method(provenance)}",
            f"## Results\n\n{described_results(folder)}\n",
        ]
    )


def described_origin(provenance: Mapping[str, Any]) -> str:
    """On which grids the weights lay that a model was made from, where they came from a GGUF file; else empty."""
    target = provenance.get("target_converted_from") or {}
    if not (grid := described_grid(target.get("types", {}))):
        return ""
    return f"The base was converted from the GGUF file `{target['file']}`. {grid}"


def described_method(provenance: Mapping[str, Any]) -> str:
    """How a model was made, as a Markdown list."""
    if not provenance:
        return "Unknown: the checkpoint has no provenance.json."
    made_from = _described_sources(provenance)
    if "terms" not in provenance:
        return f"Made by `{provenance.get('made_by', 'unknown')}`; see provenance.json.{made_from}"
    lines = [f"- {name}: `{json.dumps(term, default=str)}`" for name, term in provenance["terms"].items()]
    settings = {
        name: provenance.get(name) for name in ("weights", "schedule", "learning_rate", "weight_precision")
    }
    lines += [
        f"- {name}: `{json.dumps(value, default=str)}`" for name, value in settings.items() if value is not None
    ]
    lines.append(f"- epochs: {provenance.get('finished_epochs', 'unknown')}")
    return "Unlearned by `quail fit`; all settings in provenance.json.\n\n" + "\n".join(lines) + made_from


def _described_sources(provenance: Mapping[str, Any]) -> str:
    """The digests of texts and target, shortened; nothing where none was noted."""
    named: dict[str, str | None] = {f"{name} text": value for name, value in provenance.get(TEXTS, {}).items()}
    weights = provenance.get("target_sha256", {})
    named |= {f"target's {name}": value for name, value in list(weights.items())[:1]}
    if not named:
        return ""
    shown = [f"{name} {f'`{value[:12]}`' if value else 'none'}" for name, value in named.items()]
    rest = f" and {len(weights) - 1} further files" if len(weights) > 1 else ""
    return f"\n\nMade from (SHA-256, whole in provenance.json): {', '.join(shown)}{rest}."


def described_results(folder: Path | None, precisions: Collection[str] | None = None) -> str:
    """Verdicts and figures of a run's last epoch beside those of target and retrained model, as Markdown.

    Args:
        folder: of the run; None where it is not known.
        precisions: shown, beside the 16-bit one; None for all.
    """
    try:
        rows = [] if folder is None else read_results(folder)
        verdicts = {} if folder is None else read_verdicts(folder)
    except InputError as problem:
        return f"Not known: {problem.fact}."
    last = max((row.epoch or 0 for row in rows if row.model == "unlearned"), default=None)
    if last is None:
        return "Not known: no results.json of an unlearning run beside or above the model."
    wanted = {row.precision for row in rows} if precisions is None else {*precisions, *UNQUANTIZED.values()}
    shown = [
        row for row in rows if row.precision in wanted and (row.model != "unlearned" or (row.epoch or 0) == last)
    ]
    said = [f"- **{precision}**: {each['text']}" for precision, each in verdicts.items() if precision in wanted]
    note = "After the last epoch, evaluated by the run that made it (95 % intervals)."
    if missing := [name for name in precisions or () if name not in {row.precision for row in rows}]:
        note += f" That run did not evaluate {', '.join(missing)}."
    return "\n\n".join(filter(None, ["\n".join(said), note, _table(shown)]))


def _table(rows: Sequence[ResultRow]) -> str:
    measured = dict.fromkeys(name for row in rows for name in row.metrics)
    names = [name for name in dict.fromkeys([*labels(measured), *measured]) if name in measured]
    head = [label_of(name).heading for name in names]
    lines = ["| model | precision | " + " | ".join(head) + " |", "|---" * (len(head) + 2) + "|"]
    for row in rows:
        cells = [_cell(row.metrics.get(name)) for name in names]
        lines.append(f"| {row.model} | {row.precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    if isinstance(measure, Undefined):
        return "–"
    return f"{measure.value:.4g} [{measure.low:.4g}, {measure.high:.4g}], n {measure.n}"
