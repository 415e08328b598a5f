"""MUSE's log layout: the responses and per-record scores that every figure can be computed from again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quail_lightning.data.located import shape_of
from quail_lightning.errors import InputError
from quail_lightning.evaluation.attacks import ATTACKS, FURTHER, SPLITS
from quail_lightning.storage.durable import write_json
from quail_lightning.storage.privacy import private_folder

RESPONSE_PARTS = {"verbmem_f": "verbmem_forget", "knowmem_f": "knowmem_forget", "knowmem_r": "knowmem_retain"}
"""Folder of the log → metric."""

MEMBERSHIP_PART = "privleak"
SCORES = "scores"  # key of a part that holds neither responses nor splits


@dataclass(frozen=True)
class Response:
    """What a model said, and what it should have said; both as they are scored.

    Attributes:
        truth: already cut to the length that counts (M1).
        response: already cut at the stops (M2, M4).
        prompt: what was asked; empty where the log does not hold it.
    """

    truth: str
    response: str
    prompt: str = ""


@dataclass
class BenchmarkLog:
    """One model's log, filled in part by part. A part that is not there was not run.

    Attributes:
        responses: metric (``verbmem_forget``, ``rwku_fb``, ...) → its responses.
        membership: split → attack scores of each text; None where there is none.
        scores: measure → what other metrics read of each record, as they name it (losses of answers, ...).
    """

    responses: dict[str, tuple[Response, ...]] = field(default_factory=dict)
    membership: Mapping[str, tuple[Mapping[str, float], ...]] | None = None
    scores: dict[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)


def holds_log(folder: Path) -> bool:
    """Whether ``read_log`` finds a part there."""
    return any(folder.glob("*/log.json"))


def read_log(folder: Path) -> BenchmarkLog:
    """Read ``verbmem_f``, ``knowmem_f``, ``knowmem_r``, ``privleak`` and probes, each from its ``log.json``.

    Raises:
        InputError: no such folder, no such file in it, broken JSON (file, line), a record without the
            columns that are scored (file, record, columns).
    """
    if not folder.is_dir():
        raise InputError(f"no log folder {folder}", remedy="Name the folder that holds knowmem_f/log.json")
    found = {path.parent.name: path for path in sorted(folder.glob("*/log.json"))}
    named = [part for part in (*RESPONSE_PARTS, *found) if part in found and part != MEMBERSHIP_PART]
    loaded = {part: _load(found[part]) for part in dict.fromkeys(named)}
    scored = [part for part, content in loaded.items() if isinstance(content, dict) and SCORES in content]
    scores = {part: _scores(found[part], loaded[part][SCORES]) for part in scored}
    responses = {
        RESPONSE_PARTS.get(part, part): _responses(found[part], rows)
        for part, rows in loaded.items()
        if part not in scored
    }
    path = folder / MEMBERSHIP_PART / "log.json"
    membership = _membership(path) if path.is_file() else None
    if not responses and not scores and membership is None:
        looked = ", ".join(f"{part}/log.json" for part in (*RESPONSE_PARTS, MEMBERSHIP_PART))
        raise InputError(f"{folder} holds no log", allowed=f"at least one of {looked}")
    return BenchmarkLog(responses, membership, scores)


def write_log(folder: Path, log: BenchmarkLog) -> None:
    """Write the parts that the log has, in the layout that ``read_log`` takes; each file whole or not at all.

    They hold texts, so their owner alone may read them.

    Responses to what MUSE does not ask (RWKU's probes) go to ``<metric>/log.json``, in the same form, and other
    scores to ``<measure>/log.json``, as an object with the list ``scores``.
    """
    names = {metric: part for part, metric in RESPONSE_PARTS.items()}
    for metric, responses in log.responses.items():
        rows = [{"prompt": row.prompt, "gt": row.truth, "response": row.response} for row in responses]
        _write(folder, names.get(metric, metric), rows)
    for measure, scores in log.scores.items():
        _write(folder, measure, {SCORES: [dict(row) for row in scores]})
    if log.membership is not None:
        content = {split: [dict(row) for row in rows] for split, rows in log.membership.items()}
        _write(folder, MEMBERSHIP_PART, content)


def _write(folder: Path, part: str, content: Any) -> None:
    write_json(private_folder(folder / part, folder) / "log.json", content, private=True)


def _scores(path: Path, rows: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: {SCORES} must be a list of objects", given=shape_of(rows))
    return tuple(rows)


def _responses(path: Path, rows: Any) -> tuple[Response, ...]:
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} must hold a list of records", given=type(rows).__name__ if rows else "nothing")
    for number, row in enumerate(rows):
        _check_columns(path, f"record {number}", row, ("gt", "response"), str)
    return tuple(
        Response(row["gt"], row["response"], str(row.get("prompt", row.get("question", "")))) for row in rows
    )


def _membership(path: Path) -> dict[str, tuple[Mapping[str, float], ...]]:
    content = _load(path)
    if not isinstance(content, dict) or not set(SPLITS) & set(content):
        # what other keys it has is not said: they may be text
        given = None if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path} must hold an object of splits", given=given, allowed=", ".join(SPLITS))
    scores: dict[str, tuple[Mapping[str, float], ...]] = {}
    for split in SPLITS:
        rows = content.get(split, [])
        if not isinstance(rows, list):
            raise InputError(f"{path}: {split} must be a list of records", given=type(rows).__name__)
        # an attack that no record of the split has was not run; one that only some have is a damaged log
        held = {name for row in rows if isinstance(row, dict) for name in row}
        known = [name for name in (*ATTACKS, *FURTHER) if name in held]
        for number, row in enumerate(rows):
            _check_columns(path, f"{split} record {number}", row, known or ATTACKS, int | float)
        if rows:
            scores[split] = tuple({name: float(row[name]) for name in known} for row in rows)
    return scores


def _check_columns(path: Path, place: str, row: Any, wanted: tuple[str, ...] | list[str], kind: Any) -> None:
    wrong = [name for name in wanted if not isinstance(row, dict) or not isinstance(row.get(name), kind)]
    if wrong:
        raise InputError(
            f"{path}: {place} lacks {', '.join(map(repr, wrong))}, or holds something else there",
            given=shape_of(row),
            allowed="texts" if kind is str else "numbers",
        )


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path} is not valid JSON: {place}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
