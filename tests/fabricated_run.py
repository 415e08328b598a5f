"""A finished run as the package's own writers leave it, with figures that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.evidence import keep_evidence
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.run.record import add_end, add_start
from quail_lightning.run.results import Estimate, Measure, ResultRow, Undefined, write_results, write_scores

SETTINGS = {
    "records_sha256": "ab" * 32,
    "retrained": "checkpoints/retrained",
    "suite": {"batch_size": 8, "max_prompts": None},
    "max_windows": 32,
    "calibration": "64 windows",
    "arithmetic": "bfloat16",
}
GONE = Verdict("yes", "yes", "yes", "no", "yes", "forgotten; survives; not over-forgotten; utility kept")
BACK = Verdict("yes", "yes", "no", "no", "yes", "forgotten; CAME BACK; not over-forgotten; utility kept")


def config(**data: Any) -> dict[str, Any]:
    """Of a run on one corpus; ``data`` are arguments of the DataModule that differ."""
    arguments = {"corpus": "checkpoints/corpus", "batch_size": 4} | data
    return {
        "model": {"target": "checkpoints/target", "alpha": 1.0},
        "data": {"class_path": "quail_lightning.data.MuseDataModule", "init_args": arguments},
        "export": {"enabled": True, "folder": "model"},
    }


def rows(verbatim: float = 10.0) -> list[ResultRow]:
    """Three models at two precisions; the unlearned one's verbatim recall at 16 bits is given, at NF4 2 less."""

    def of(m1: float, m2: float, m3: float, m4: float, nll: float) -> dict[str, Measure]:
        return {
            "verbmem_forget": Estimate(m1, 24, m1 - 2, m1 + 1),
            "knowmem_forget": Estimate(m2, 38, m2 - 1, m2 + 3),
            "membership_auc": Estimate(0.5, 120, 0.4, 0.6),
            "privleak": Estimate(m3, 120, m3 - 10, m3 + 10),
            "knowmem_retain": Estimate(m4, 38, m4 - 4, m4),
            "nll_forget": Estimate(nll, 32, nll - 0.1, nll + 0.1),
        }

    survived: dict[str, Measure] = {
        "recovery_verbmem_forget": Estimate(0.03, 24, 0.0, 0.05),
        "recovery_verbmem_forget_capped": Estimate(0.02, 24, -0.01, 0.04),
        "recovery_knowmem_forget_capped": Undefined("nothing was forgotten of it"),
        "kept_forgetting": Estimate(0.98, 32, 0.9, 1.0),
    }
    return [
        ResultRow("target", "bf16", of(96, 90, -100, 95, 0.1)),
        ResultRow("target", "nf4", of(95, 89, -99, 94, 0.1)),
        ResultRow("retrained", "bf16", of(12, 5, 0, 95, 4.8)),
        ResultRow("retrained", "nf4", of(11, 5, 3, 94, 4.8)),
        ResultRow("unlearned", "bf16", of(77, 70, -60, 95, 1.0), epoch=1),
        ResultRow("unlearned", "nf4", of(76, 70, -60, 94, 1.0), epoch=1),
        ResultRow("unlearned", "bf16", of(verbatim, 6, -15, 92, 4.5), epoch=2),
        ResultRow("unlearned", "nf4", of(verbatim - 2, 7, -14, 90, 4.4) | survived, epoch=2),
    ]


def fabricate(
    folder: Path,
    *,
    evaluated: list[ResultRow] | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    settings: Mapping[str, Any] | None = None,
    configured: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    published: Mapping[str, object] | None = None,
    method: str = "quail",
    note: str = "",
) -> Path:
    """Write a run; whatever is not given is that of a good one."""
    found = rows() if evaluated is None else evaluated
    folder.mkdir(parents=True)
    add_start(folder, {"verb": "fit", "seed": 42, "resumed_from": None})
    said = {"bf16": GONE, "nf4": GONE} if verdicts is None else verdicts
    arithmetic = {"training": "bf16-mixed", "evaluation": "bfloat16"}
    write_results(folder, found, note, arithmetic, said, published)
    write_scores(folder, found, SETTINGS | dict(settings or {}))
    (folder / "config.yaml").write_text(yaml.safe_dump(configured or config()))
    (folder / "hparams.yaml").write_text(yaml.safe_dump({"method": method}))
    (folder / "model").mkdir()
    made: dict[str, Any] = {"finished_epochs": 2, "target": "checkpoints/target"}
    made |= {"target_sha256": {"model.safetensors": "cd" * 32}, "texts_sha256": {"forget": "ef" * 32}}
    made |= {"weights_sha256": {"model.safetensors": "01" * 32}}
    (folder / "model/provenance.json").write_text(json.dumps(made | dict(provenance or {})))
    add_end(folder, "finished")
    return folder


def keep_responses(folder: Path, said: str = "what it said", asked: int = 2) -> None:
    """Add responses of every model to a run; the unlearned model's are ``said``."""
    logs = {}
    for model, precision in (
        ("target", "bf16"),
        ("retrained", "bf16"),
        ("unlearned", "bf16"),
        ("unlearned", "nf4"),
    ):
        text = said if model == "unlearned" else f"{model} speaks"
        responses = tuple(Response(f"truth {n}", f"{text} {n}", f"prompt {n}") for n in range(asked))
        logs[model, precision] = BenchmarkLog({"verbmem_forget": responses})
    keep_evidence(folder, logs)


def log_losses(folder: Path) -> None:
    """Add TensorBoard's events of three steps."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step in range(3):
            for tag, value in (
                ("forget", -float(step)),
                ("hinge", 0.5),
                ("retain", 1.0 + step),
                ("forget_nll", 2.0),
            ):
                writer.add_scalar(f"train/{tag}", value, step)
