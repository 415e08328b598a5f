"""The logs that TOFU and open-unlearning publish, read as ours; and the benchmark's names of its aggregates."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quail_lightning.data.located import shape_of
from quail_lightning.errors import InputError
from quail_lightning.evaluation.answer_losses import PROBABILITY, ROUGE, SETS, TRUTH_RATIO, measure_name
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.tofu import QUALITY, UTILITY
from quail_lightning.run.results import Estimate, Measure

PARTS = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
"""Set → its part of a TOFU log."""

LISTS = {
    "answer": "avg_gt_loss",
    "paraphrase": "avg_paraphrased_loss",
    "wrong": "average_perturb_loss",
    "recall": "rougeL_recall",
}
"""What is read of a record → its name in a TOFU log."""

PREFIXES = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
"""Set → how open-unlearning's names of it begin, in ``TOFU_EVAL.json``."""

NAMED = {"forget": "Forget", "retain": "Retain", "real_authors": "Real Authors", "world_facts": "Real World"}
KINDS = {"ROUGE": ROUGE, "Prob.": PROBABILITY, "Truth Ratio": TRUTH_RATIO}

AGGREGATES = {
    f"{kind} {NAMED[of]}": measure_name(measure, of)
    for of in ("real_authors", "world_facts", "retain", "forget")
    for kind, measure in KINDS.items()
} | {"Model Utility": UTILITY, "Forget Quality": QUALITY}
"""The benchmark's name of an aggregate → ours of the measure."""


def aggregates(measures: Mapping[str, Measure]) -> dict[str, float]:
    """Figures by the benchmark's names; what has no value is absent."""
    found = {theirs: measures.get(ours) for theirs, ours in AGGREGATES.items()}
    return {name: measure.value for name, measure in found.items() if isinstance(measure, Estimate)}


def is_published_log(path: Path) -> bool:
    """Whether this is a log as TOFU or open-unlearning writes it: a file, or a folder with TOFU's four files."""
    return path.is_file() or (path / PARTS["forget"]).is_file()


def read_published_log(path: Path) -> BenchmarkLog:
    """A log of the benchmark's own script: ``eval_log_aggregated.json``, the folder of its four parts, or
    open-unlearning's ``TOFU_EVAL.json``.

    Returns:
        the log; its ``scores`` hold, of every set, ``answer``, ``paraphrase``, ``wrong`` (mean NLLs, nats a token)
        and ``recall`` (ROUGE-L, fraction) of each record.

    Raises:
        InputError: a key or record that is missing or no finite number, or lists of different records; naming it.
    """
    content = _folder(path) if path.is_dir() else _load(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds no log of TOFU", given=shape_of(content), allowed=", ".join(PARTS.values())
        )
    theirs = any(name.endswith("_Q_A_Prob") for name in content)
    read = _open_unlearning if theirs else _tofu
    return BenchmarkLog(scores={measure_name(PROBABILITY, of): read(path, content, of) for of in SETS})


def _tofu(path: Path, content: Mapping[str, Any], of: str) -> tuple[Mapping[str, Any], ...]:
    part = content.get(PARTS[of])
    if not isinstance(part, dict):
        raise InputError(f"{path} lacks {PARTS[of]!r}", given=shape_of(content), allowed=", ".join(PARTS.values()))
    lists: dict[str, Mapping[str, Any]] = {}
    for ours, name in LISTS.items():
        if name not in part:
            raise InputError(f"{path}: {PARTS[of]} lacks {name!r}", allowed=", ".join(LISTS.values()))
        lists[ours] = _by_record(part[name], f"{path}: {PARTS[of]}, {name}")
    return _rows(lists, {ours: f"{path}: {PARTS[of]}, {name}" for ours, name in LISTS.items()})


def _open_unlearning(path: Path, content: Mapping[str, Any], of: str) -> tuple[Mapping[str, Any], ...]:
    """Its files hold a metric's figure of each record; real authors and world facts have no paraphrase."""
    prefix = PREFIXES[of]
    true = f"{prefix}_Q_A_PARA_Prob" if of in ("forget", "retain") else f"{prefix}_Q_A_Prob"
    sources = {
        "answer": (f"{prefix}_Q_A_Prob", "avg_loss"),
        "paraphrase": (true, "avg_loss"),
        "wrong": (f"{prefix}_Q_A_PERT_Prob", "avg_loss"),
        "recall": (f"{prefix}_Q_A_ROUGE", "rougeL_recall"),
    }
    lists: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for ours, (name, field) in sources.items():
        found = content.get(name, {}).get("value_by_index") if isinstance(content.get(name), dict) else None
        if not isinstance(found, dict):
            raise InputError(f"{path} lacks {name!r} with 'value_by_index'", given=shape_of(content))
        places[ours] = f"{path}: {name}, {field}"
        lists[ours] = {}
        for record, row in found.items():
            if not isinstance(row, dict) or field not in row:
                raise InputError(f"{path}: {name}, record {record} lacks {field!r}", given=shape_of(row))
            lists[ours][record] = row[field]
    return _rows(lists, places)


def _by_record(found: Any, place: str) -> dict[str, Any]:
    """Record → value; an older log's list counts its records."""
    if isinstance(found, list):
        found = {str(number): value for number, value in enumerate(found)}
    if not isinstance(found, dict) or not found:
        raise InputError(f"{place} holds no records", given=shape_of(found))
    return found


def _rows(lists: Mapping[str, Mapping[str, Any]], places: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """One row a record, in the log's order; every list must have the same records."""
    records = lists["answer"]
    for ours, found in lists.items():
        if found.keys() != records.keys():
            differing = sorted(found.keys() ^ records.keys())
            raise InputError(
                f"{places[ours]} and {places['answer'].rpartition(', ')[2]} are of different records",
                given=f"{len(found)} and {len(records)}; record {differing[0]} stands in one of them alone",
            )
    several = {len(values) for values in lists["wrong"].values() if isinstance(values, list)}
    for record in records:
        for ours, found in lists.items():
            value, place = found[record], f"{places[ours]}, record {record}"
            values = value if ours == "wrong" else [value]
            if not isinstance(values, list) or not values:
                raise InputError(f"{place} is no list of losses", given=shape_of(value))
            for number in values:
                _check_number(number, place, ours)
            if ours == "wrong" and len(several) > 1 and len(values) != max(several):
                raise InputError(
                    f"{place} has {len(values)} losses, and other records have {max(several)}",
                    remedy="The benchmark's script cannot average such a log; evaluate the model again",
                )
    return tuple({ours: found[record] for ours, found in lists.items()} for record in records)


def _check_number(value: Any, place: str, ours: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{place} is no number", given=shape_of(value))
    if not math.isfinite(value):
        raise InputError(
            f"{place} is not finite", given=value, remedy="The model diverged; no figure can be made of this log"
        )
    if ours == "recall" and not 0 <= value <= 1:
        raise InputError(f"{place} is no fraction", given=value)


def _folder(path: Path) -> dict[str, Any]:
    return {name: _load(path / name) for name in _present(path)}


def _present(path: Path) -> Iterator[str]:
    return (name for name in PARTS.values() if (path / name).is_file())


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__})") from None
