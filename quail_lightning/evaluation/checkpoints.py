"""Evaluate saved models at their deployment precisions; nothing is trained, and nothing finished is run twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quail_lightning.attacks import Texts, described_chain
from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.configuration.files import find_config
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.evaluation.attackers import attack_texts
from quail_lightning.evaluation.benchmarks import BenchmarkData
from quail_lightning.evaluation.evaluator import Evaluated, Evaluator, Progress
from quail_lightning.evaluation.finished import FinishedMetrics
from quail_lightning.evaluation.metrics import METRICS, Asked
from quail_lightning.evaluation.precision import AS_STORED, Precision, named_precision, widest
from quail_lightning.evaluation.serving import Serving
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.inference.encoding import positions
from quail_lightning.models.arithmetic import arithmetic_name
from quail_lightning.models.checkpoint import load_config, load_model, weights_digest
from quail_lightning.quantization import check_quantizers, remarks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PUBLISHED_PRECISIONS = {"4bit": "fp4", "8bit": "int8"}
"""The failure paper's name of a precision → what its code runs: bitsandbytes' defaults."""

DECIDING = (".json", ".jinja", ".model", ".txt")
"""Files of configs, tokenizers and chat templates."""


def load_precisions(names: Sequence[str], protocol: str) -> list[Precision]:
    """The precisions of the names, each once; what is quantized is made from the widest that is not.

    Under ``published``, ``4bit`` is bitsandbytes' FP4 and ``8bit`` its int8.

    Raises:
        InputError: no such precision; ``4bit`` or ``8bit`` under another protocol.
    """
    found: list[tuple[str, str]] = []
    for name in dict.fromkeys(names):
        config = PUBLISHED_PRECISIONS.get(name, name)
        if config != name and protocol != "published":
            raise InputError(
                f"precision {name!r} says what it is under protocol published only",
                allowed=f"{config} (what the published code runs), nf4, ...",
            )
        shown = name if config == name else f"{name} ({config})"
        found.append((config, shown))
    base = widest([named_precision(*each) for each in found])
    made = [named_precision(*each, sixteen_bits=base.config) for each in found]
    return [each if each.is_plain else replace(each, dtype=base.dtype) for each in made]


@dataclass(frozen=True)
class CheckpointEvaluation:
    """Evaluates saved models.

    Attributes:
        suite: what is run.
        benchmark: its name.
        root: where finished metrics are kept.
        device: where models are run.
        calibration: what AWQ, GPTQ and SmoothQuant are calibrated on.
        serving: what answers prompts in the place of models whose folder it can load; None: nothing does.
    """

    suite: EvaluationSuite
    benchmark: str
    root: Path
    device: torch.device
    calibration: CalibrationRequest
    serving: Serving | None = None
    _cut: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self, model: str, data: BenchmarkData, precisions: Sequence[Precision]) -> dict[str, float]:
        """Refuse what the model cannot be evaluated with, before a weight is loaded; see ``check_quantizers``."""
        config, asked = load_config(model), self._asked(model, data)
        self.suite.check(data.records, data.windows, load_tokenizer(model), config)
        if not any(metric.is_asked(asked) for metric in METRICS):
            raise InputError(
                f"benchmark {self.benchmark!r} leaves nothing to measure",
                given=data.records.note or None,
                remedy="Name its corpus (--corpus), or tasks (--forget_tasks.tasks, --utility.tasks)",
            )
        made = {each.name: each.quantizer for each in precisions if each.config != AS_STORED}
        shares = check_quantizers(config, made) if made else {}
        self._texts(model, data, precisions)
        if any(precision.quantizer.needs_calibration for precision in precisions):
            self._calibration_tokens(model)
        if served := self._served(model, precisions):
            self._check_served(model, data, served)
        return shares

    def remarks(self, model: str, precisions: Sequence[Precision]) -> str:
        """What its precisions say of a model that ``check`` let pass."""
        made = {each.name: each.quantizer for each in precisions if each.config != AS_STORED}
        return remarks(load_config(model), made) if made else ""

    def evaluate(
        self, model: str, data: BenchmarkData, precisions: Sequence[Precision], progress: Progress
    ) -> dict[str, Evaluated]:
        """Precision → what was measured. The model is loaded only where something is left to run.

        Args:
            model: folder or hub name.
            data: checked.
            precisions: one quantized copy exists at a time.
            progress: called with what is running, what is done and the total.
        """
        asked, texts = self._asked(model, data), self._texts(model, data, precisions)
        stores = self._stores(model, precisions, texts)
        calibrated = any(precision.quantizer.needs_calibration for precision in precisions)

        def load(dtype: torch.dtype) -> PreTrainedModel:
            whole = load_model(model, dtype)
            torch.nn.Module.to(whole, self.device)  # transformers' own refuses some formats
            return whole

        evaluator = Evaluator(precisions, self._calibration_tokens(model) if calibrated else None, texts)
        engines = {
            each.name: partial(self.serving.opened, model, each.dtype, asked)
            for each in self._served(model, precisions)
            if self.serving is not None
        }
        return evaluator.evaluate(load, asked, progress, stores, engines)

    def engine(self, model: str, precision: Precision) -> str:
        """What answers prompts for a model at a precision: ``own`` or ``vllm``."""
        return "vllm" if self._served(model, [precision]) else "own"

    def _asked(self, model: str, data: BenchmarkData) -> Asked:
        return Asked(data.records, data.windows, self.suite, load_tokenizer(model), load_config(model))

    def _served(self, model: str, precisions: Sequence[Precision]) -> list[Precision]:
        return [each for each in precisions if self.serving is not None and self.serving.serves(model, each)]

    def _check_served(self, model: str, data: BenchmarkData, served: Sequence[Precision]) -> None:
        """Where responses are left to be asked for, the server that was named must have the model."""
        assert self.serving is not None
        asked, stores = self._asked(model, data), self._stores(model, served, {})  # what is attacked is not served
        by_responses = [metric for metric in METRICS if metric.by_responses and metric.is_asked(asked)]
        if any(store.read(metric, asked) is None for store in stores.values() for metric in by_responses):
            self.serving.check_named(model, asked)

    def _texts(self, model: str, data: BenchmarkData, precisions: Sequence[Precision]) -> Texts:
        return attack_texts(precisions, data.training, load_tokenizer(model), load_config(model))

    def _stores(self, model: str, precisions: Sequence[Precision], texts: Texts) -> dict[str, FinishedMetrics]:
        digests, served = checkpoint_digests(model), self._served(model, precisions)
        engine = None if self.serving is None else self.serving.about
        return {
            each.name: FinishedMetrics(
                self.root, self._about(model, digests, each, texts), engine if each in served else None
            )
            for each in precisions
        }

    def _calibration_tokens(self, model: str) -> Tensor:
        """Cut once for all precisions of a model."""
        if model not in self._cut:
            limit = positions(load_config(model))
            self._cut[model] = calibration_tokens(self.calibration, load_tokenizer(model), limit)
        return self._cut[model]

    def arithmetic(self, precision: Precision) -> str:
        """In what a model is computed at a precision here."""
        return arithmetic_name(precision.dtype, self.device)

    def _about(self, model: str, digests: Mapping[str, str], precision: Precision, texts: Texts) -> dict[str, Any]:
        described = described_precision(precision, texts, partial(self._calibration_tokens, model))
        if "calibration" in described:
            described["calibration"] |= asdict(self.calibration)
        return described | {
            "model": dict(digests),
            "arithmetic": self.arithmetic(precision),
            "benchmark": self.benchmark,
        }


def checkpoint_digests(model: str) -> dict[str, str]:
    """What tells a checkpoint from any other: weights, tokenizer and configs of a folder; a hub name's commit."""
    digests = weights_digest(model)
    folder = Path(model)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in DECIDING and path.is_file() and path.name != "provenance.json":
                digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def described_precision(precision: Precision, texts: Texts, calibration: Callable[[], Tensor]) -> dict[str, Any]:
    """What of a precision decides the figures at it, fit for JSON: quantizer, attacks, calibration.

    Args:
        precision: at which a model is evaluated.
        texts: that attacks train on.
        calibration: gives the [windows, time] tokens, and is asked for them only where the quantizer sees some.
    """
    stored = precision.config == AS_STORED  # what its config says is among the checkpoint's digests
    found: dict[str, Any] = {
        "precision": precision.config,
        "quantizer": None if stored else read_yaml(find_config(f"quantizer/{precision.config}.yaml")),
    }
    if precision.attacks:
        found["attacks"] = described_chain(precision.attacks, texts)
    if precision.quantizer.needs_calibration:
        # a file's text may change, its name need not
        found["calibration"] = {"sha256": hashlib.sha256(calibration().numpy().tobytes()).hexdigest()}
    return found
