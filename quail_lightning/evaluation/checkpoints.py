"""Judge saved models at their deployment precisions; nothing is trained, and nothing finished is run twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quail_lightning.bounded_yaml import read_yaml
from quail_lightning.config_files import find_config
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.encoding import positions
from quail_lightning.evaluation.finished import FinishedMetrics, parts
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.models.arithmetic import arithmetic_name
from quail_lightning.models.checkpoint import check_whole, load_config, load_model, weights_digest
from quail_lightning.quantization import Quantizer, check_quantizers, load_quantizer
from quail_lightning.results import Measure
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PUBLISHED_PRECISIONS = {"4bit": "fp4", "8bit": "int8"}
"""The failure paper's name of a precision → what its code runs: bitsandbytes' defaults."""

DECIDING = (".json", ".jinja", ".model", ".txt")
"""Files of configs, tokenizers and chat templates."""

Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass(frozen=True)
class Precision:
    """One deployment format.

    Attributes:
        name: as it was asked for, and as rows show it.
        config: stem of ``configs/quantizer/<config>.yaml``.
        quantizer: of that file.
    """

    name: str
    config: str
    quantizer: Quantizer

    @property
    def dtype(self) -> torch.dtype:
        """The 16-bit dtype that the model is loaded in before it is quantized."""
        return torch.float16 if self.config == "fp16" else torch.bfloat16


def load_precisions(names: Sequence[str], protocol: str) -> list[Precision]:
    """The quantizers of the names, each once.

    Under ``published``, ``4bit`` is bitsandbytes' FP4 and ``8bit`` its int8.

    Raises:
        InputError: no such precision; ``4bit`` or ``8bit`` under another protocol.
    """
    found = []
    for name in dict.fromkeys(names):
        config = PUBLISHED_PRECISIONS.get(name, name)
        if config != name and protocol != "published":
            raise InputError(
                f"precision {name!r} says what it is under --protocol published only",
                allowed=f"{config} (what the published code runs), nf4, ...",
            )
        shown = name if config == name else f"{name} ({config})"
        found.append(Precision(shown, config, load_quantizer(config)))
    return found


@dataclass(frozen=True)
class Judged:
    """One model at one precision.

    Attributes:
        measures: of all parts.
        folder: their log, in MUSE's layout.
        reused: parts that had been finished before.
    """

    measures: dict[str, Measure]
    folder: Path
    reused: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointJudge:
    """Runs a suite on saved models.

    Attributes:
        suite: what is run.
        benchmark: its name.
        root: where finished metrics are kept.
        device: where models are run.
        calibration: what AWQ, GPTQ and SmoothQuant are calibrated on.
    """

    suite: EvaluationSuite
    benchmark: str
    root: Path
    device: torch.device
    calibration: CalibrationRequest
    _cut: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, model: str, records: EvaluationRecords, precisions: Sequence[Precision]) -> dict[str, float]:
        """Refuse what the model cannot be judged with, before a weight is loaded; see ``check_quantizers``."""
        check_whole(model, torch.bfloat16)
        config = load_config(model)
        self.suite.check(records, {}, load_tokenizer(model), config)
        shares = check_quantizers(config, {precision.name: precision.quantizer for precision in precisions})
        if any(precision.quantizer.needs_calibration for precision in precisions):
            self._calibration_tokens(model)
        return shares

    def judge(
        self, model: str, records: EvaluationRecords, precisions: Sequence[Precision], progress: Progress
    ) -> dict[str, Judged]:
        """Precision → what was measured. The model is loaded only where something is left to run.

        Args:
            model: folder or hub name.
            records: checked.
            precisions: one quantized copy exists at a time.
            progress: called with what is running, what is done and the total.
        """
        digests = checkpoint_digests(model)
        loaded: dict[torch.dtype, PreTrainedModel] = {}
        judged = {}
        for precision in precisions:
            store = FinishedMetrics(self.root, self._about(model, digests, precision))
            measures: dict[str, Measure] = {}
            open_parts, reused, folders = [], [], {}
            for part, only in parts(records):
                if (found := self._finished(store, part, only)) is not None:
                    known, folders[part] = found
                    measures |= known
                    reused.append(part)
                else:
                    open_parts.append((part, only))
            if open_parts:
                if precision.dtype not in loaded:
                    loaded.clear()
                    whole: Any = load_model(model, precision.dtype)
                    loaded[precision.dtype] = whole.to(self.device)
                shown = self._calibration_tokens(model) if precision.quantizer.needs_calibration else None
                with step(f"quantizing {model} to {precision.name}"):
                    copy = precision.quantizer.quantize(loaded[precision.dtype], shown)
                tokenizer = load_tokenizer(model)
                for part, only in open_parts:
                    log = BenchmarkLog()

                    def show(metric: str, done: int, total: int, name: str = precision.name) -> None:
                        progress(f"{name} · {metric}", done, total)

                    measured = self.suite.evaluate(copy, tokenizer, only, {}, None, show, log)
                    settings = self.suite.deciding(part)
                    store.write(part, only, settings, measured, log)
                    folders[part] = store.part_folder(part, only, settings)
                    measures |= measured
                del copy
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            judged[precision.name] = Judged(measures, store.gather(folders), tuple(reused))
        return judged

    def _finished(
        self, store: FinishedMetrics, part: str, only: EvaluationRecords
    ) -> tuple[dict[str, Measure], Path] | None:
        """Measures of a part and where they lie. All attacks hold the reported one."""
        for suite in (self.suite, replace(self.suite, attacks="all")):
            settings = suite.deciding(part)
            if (known := store.read(part, only, settings)) is not None:
                return known, store.part_folder(part, only, settings)
        return None

    def _calibration_tokens(self, model: str) -> Tensor:
        """Cut once for all precisions of a model."""
        if model not in self._cut:
            limit = positions(load_config(model))
            self._cut[model] = calibration_tokens(self.calibration, load_tokenizer(model), limit)
        return self._cut[model]

    def arithmetic(self, precision: Precision) -> str:
        """In what a model is computed at a precision here."""
        return arithmetic_name(precision.dtype, self.device)

    def _about(self, model: str, digests: Mapping[str, str], precision: Precision) -> dict[str, Any]:
        calibrated: dict[str, Any] = {}
        if precision.quantizer.needs_calibration:
            # a file's text may change, its name need not
            shown = self._calibration_tokens(model).numpy().tobytes()
            calibrated = {"calibration": asdict(self.calibration) | {"sha256": hashlib.sha256(shown).hexdigest()}}
        return {
            "model": dict(digests),
            "precision": precision.config,
            "arithmetic": self.arithmetic(precision),
            "quantizer": read_yaml(find_config(f"quantizer/{precision.config}.yaml")),
            "benchmark": self.benchmark,
        } | calibrated


def checkpoint_digests(model: str) -> dict[str, str]:
    """What tells a checkpoint from any other: weights, tokenizer and configs of a folder; a hub name's commit."""
    digests = weights_digest(model)
    folder = Path(model)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in DECIDING and path.is_file() and path.name != "provenance.json":
                digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests
