"""Evaluate the model at every deployment precision when an epoch ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from quail_lightning.callbacks.kept_baselines import Stores, baseline_stores
from quail_lightning.callbacks.kept_by_export import kept_by_export, told
from quail_lightning.callbacks.progress_of_fit import is_epoch_over
from quail_lightning.callbacks.run_setting import run_setting
from quail_lightning.callbacks.tensorboard import log_evaluation, log_samples, log_start
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.opening import describe_opening
from quail_lightning.data.protocol import UnlearningData, data_of
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.data.window_records import spread
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite, published_auc_retrain
from quail_lightning.evaluation.attackers import attack_bits, attack_texts, described_attacks, refuse_sharded
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.conclusions import add_derived, add_privleak, conclude
from quail_lightning.evaluation.evaluator import Evaluator
from quail_lightning.evaluation.evidence import evidence_table, keep_evidence
from quail_lightning.evaluation.metrics import Asked
from quail_lightning.evaluation.precision import UNQUANTIZED, attacked_names, named_precision
from quail_lightning.evaluation.published import as_json, compare, published_row
from quail_lightning.evaluation.published_table import print_comparison
from quail_lightning.evaluation.table import print_results
from quail_lightning.evaluation.verdict import Verdict
from quail_lightning.inference.encoding import positions
from quail_lightning.models.arithmetic import arithmetic_name
from quail_lightning.models.checkpoint import load_config
from quail_lightning.quantization import (
    Quantizer,
    check_quantizers,
    check_shards,
    partly_quantized,
    remarks,
)
from quail_lightning.run.folder import refuse_other_run, run_folder
from quail_lightning.run.results import Estimate, Measure, ResultRow, read_scores, write_results, write_scores
from quail_lightning.storage.vouched import digest
from quail_lightning.terminal import Bar
from quail_lightning.unlearning.sharding import shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class QuantizedEvaluation(Callback):
    """Target, retrained and unlearned model × precisions × metrics, what came back, and a verdict.

    The target and the retrained model are evaluated once, before training. One quantized copy exists at a time;
    the module, its mode and all random states are left as they were. Several processes each quantize a copy of
    their own and share the batches of prompts, texts and windows; the figures are those of one process. Under
    FSDP2 a model that does not fit one device at 16 bits is evaluated in shards (``sharded``). The figures go to
    every logger as ``eval/<precision>/<metric>``, to the terminal as a table, and to ``results.json`` and
    ``results.csv`` in the run's folder.

    Args:
        precisions: names of ``configs/quantizer/*.yaml`` and ``configs/attack/*.yaml``, and chains of them
            (``prune30+nf4``); that of ``model.export_dtype`` (``bf16``) is evaluated in any case, since the others
            are made from it and compared with it.
        every_n_epochs: evaluate after every so many epochs, and after the last one.
        retrained: checkpoint trained without the forget set; without it there is no PrivLeak (but for
            MUSE's own targets, whose published AUC serves).
        suite: batch sizes and limits.
        max_windows: forget and retain windows whose NLL is taken, evenly spread; None for all.
        calibration: what AWQ, GPTQ and SmoothQuant are calibrated on; the target's, the retrained and the
            unlearned model's copies all on the same tokens.
        sharded: under FSDP2, leave the 16-bit model spread over the devices in the evaluation, and make quantized
            copies weight by weight from its shards: slower, and no device ever holds the model in 16 bits. Null
            does so on accelerators where a whole copy would not fit one. Not for precisions that are calibrated.
        published: row of the papers' tables that the last figures are set beside, such as ``failure/news/ga_gdr``;
            left out, and said so, where the run's setting is not the row's.
        baselines: folder in which what is measured of target and retrained model is kept for other runs, with what
            they said; null measures them anew. Not with several processes.
    """

    def __init__(
        self,
        precisions: Sequence[str] = ("bf16", "nf4", "fp4", "int8"),
        every_n_epochs: int = 1,
        retrained: str | None = None,
        suite: EvaluationSuite = EvaluationSuite(),  # noqa: B008 (frozen)
        max_windows: int | None = 64,
        calibration: CalibrationRequest = CalibrationRequest(),  # noqa: B008 (frozen)
        sharded: bool | None = None,
        published: str | None = None,
        baselines: str | None = None,
    ) -> None:
        if every_n_epochs < 1:
            raise InputError("evaluation.every_n_epochs must be at least 1", given=every_n_epochs)
        if max_windows is not None and max_windows < 1:
            raise InputError("evaluation.max_windows must be at least 1, or null for all", given=max_windows)
        self.precisions = {name: named_precision(name) for name in dict.fromkeys(precisions)}
        self.every_n_epochs, self.retrained = every_n_epochs, retrained
        self.suite, self.max_windows, self.calibration = suite, max_windows, calibration
        self.sharded, self.baselines = sharded, baselines
        self.published = None if published is None else published_row(published)
        self.rows: list[ResultRow] = []
        self._sixteen_bits = "bf16"
        self._arithmetic = ""
        self._auc_retrain: float | Estimate | None = None
        self._evaluated_epoch: int | None = None
        self._calibration_tokens: Tensor | None = None
        self._texts: dict[str, Tensor] = {}  # that attacks train on
        self._said: dict[tuple[str, str], BenchmarkLog] = {}  # by model and precision, lately
        self._shares: dict[str, float] = {}  # of the body's weights, that each precision quantizes
        self._remarks = ""

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """Precision → what makes its copy."""
        return {name: each.quantizer for name, each in self.precisions.items()}

    @property
    def attack_bits(self) -> int:
        """Bits a weight that the costliest attack takes beside the model; 0 where there is none."""
        return attack_bits(self.precisions.values())

    # --- when ------------------------------------------------------------------------------------------

    def check_run_folder(self, trainer: Trainer) -> None:
        """Refuse a folder that holds another run; one whose own checkpoint goes on is no other run.

        Raises:
            InputError: naming the folder.
        """
        folder = run_folder(trainer)  # asked by all processes
        if trainer.is_global_zero:
            refuse_other_run(folder, trainer.ckpt_path)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check everything that can be checked without a weight."""
        if stage not in ("fit", "test"):
            return
        self.check_run_folder(trainer)
        self._put_unquantized_first(pl_module.export_dtype)
        self._arithmetic = arithmetic_name(pl_module.export_dtype, trainer.strategy.root_device)
        self.check_sharded(trainer)
        for checkpoint in filter(None, (pl_module.target, self.retrained)):
            shares = check_quantizers(load_config(str(checkpoint)), self.quantizers, pl_module.export_dtype)
            self._shares = self._shares or shares  # the target's, which comes first
        self._remarks = remarks(load_config(pl_module.target), self.quantizers, pl_module.export_dtype)
        if pl_module.export.sharded:
            self._check_shards()
        data = data_of(trainer)
        if self.retrained and load_tokenizer(self.retrained).get_vocab() != data.served.tokenizer.get_vocab():
            raise InputError(
                f"the retrained model {self.retrained!r} has another tokenizer than the target",
                given=pl_module.target,
                remedy="Fine-tune both from one base",
            )
        for checkpoint in filter(None, (pl_module.target, self.retrained)):
            self.suite.check(
                data.served.records, self._windows(data), data.served.tokenizer, load_config(str(checkpoint))
            )
        if self._calibrated():
            limit, sets = positions(load_config(pl_module.target)), data.served.windows._asdict()
            self._calibration_tokens = calibration_tokens(self.calibration, data.served.tokenizer, limit, sets)
        sets, config = data.served.windows._asdict(), load_config(pl_module.target)
        self._texts = attack_texts(self.precisions.values(), sets, data.served.tokenizer, config)
        self._check_published(trainer, pl_module)

    def _check_published(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the published figures out where they are of another setting."""
        if self.published is None:
            return
        if differing := self.published.differing(run_setting(pl_module, trainer, self.suite)):
            rank_zero_info(f"The figures of {self.published.name} are not shown: {'; '.join(differing)}.")
            self.published = None

    def _put_unquantized_first(self, dtype: torch.dtype) -> None:
        name = self._sixteen_bits = UNQUANTIZED[dtype]
        others = [other for of, other in UNQUANTIZED.items() if of != dtype and of.itemsize >= dtype.itemsize]
        if misnamed := [other for other in others if other in self.precisions]:
            raise InputError(f"precision {misnamed[0]!r} is not the model's export_dtype", allowed=name)
        self.precisions = {each: named_precision(each, sixteen_bits=name) for each in (name, *self.precisions)}

    def check_sharded(self, trainer: Trainer) -> None:
        """Refuse to evaluate shards where there are none, or by what needs a whole model.

        Raises:
            InputError: naming what is in the way.
        """
        if not self.sharded:
            return
        if not shards(trainer):
            raise InputError(
                "a sharded evaluation needs FSDP2, which spreads the model over several devices",
                given="evaluation.sharded: true",
                remedy="Add --config trainer/fsdp.yaml, or leave evaluation.sharded at null",
            )
        self._check_shards()

    def _check_shards(self) -> None:
        refuse_sharded(self.precisions.values())
        check_shards(self.quantizers, "evaluation.precisions")
        self.suite.check_shards()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate_baselines(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_up(trainer, pl_module, trainer.current_epoch)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate_baselines(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        finished = trainer.current_epoch + 1
        if finished % self.every_n_epochs == 0:
            self._evaluate_unlearned(trainer, pl_module, finished)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._evaluated_epoch != trainer.current_epoch and not trainer.interrupted:
            self._evaluate_unlearned(trainer, pl_module, trainer.current_epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._evaluated_epoch != trainer.current_epoch:  # resumed after the last epoch, no training ended
            self._take_up(trainer, pl_module, trainer.current_epoch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate_unlearned(trainer, pl_module, None)

    # --- what ------------------------------------------------------------------------------------------

    def _take_up(self, trainer: Trainer, pl_module: Any, finished: int) -> None:
        """Of a resumed run: keep what was evaluated before its checkpoint, and evaluate what was due after it."""
        if trainer.ckpt_path is None:
            return
        self.rows = [row for row in self.rows if row.epoch is None or row.epoch <= finished]
        evaluated = [row for row in self.rows if row.epoch == finished]
        if evaluated:
            self._evaluated_epoch = finished
            if is_epoch_over(trainer):  # what this step logged was purged
                verdicts = self._verdicts({row.precision: dict(row.metrics) for row in evaluated})
                log_evaluation(trainer, pl_module, evaluated, self._baselines(), verdicts)
        is_due = finished % self.every_n_epochs == 0 or finished == trainer.max_epochs
        if is_due and self._evaluated_epoch != finished and finished:
            self._evaluate_unlearned(trainer, pl_module, finished)

    def _settings(self, trainer: Trainer) -> dict[str, object]:
        records = data_of(trainer).served.records
        attacks = described_attacks(self.precisions.values(), self._texts)
        return {
            "records_sha256": digest(repr(records)),
            "precisions": sorted(self.precisions),
            "calibration": self.calibration.describe(),
            "retrained": self.retrained,
            "suite": asdict(self.suite) | self.suite.read_from_files(),
            "max_windows": self.max_windows,
            "arithmetic": self._arithmetic,
        } | ({"attacks": attacks} if attacks else {})

    def _evaluate_baselines(self, trainer: Trainer, pl_module: Any) -> None:
        self.rows, self._evaluated_epoch = [], None
        self._auc_retrain = published_auc_retrain(pl_module.target)
        folder = run_folder(trainer)
        if trainer.ckpt_path is not None and trainer.state.fn == "fit":
            self.rows = read_scores(folder, self._settings(trainer))
        if self.rows:
            for row in self.rows:
                auc = row.metrics.get("membership_auc")
                if (row.model, row.precision) == ("retrained", self._sixteen_bits) and isinstance(auc, Estimate):
                    self._auc_retrain = auc
            return
        for name, checkpoint in (("retrained", self.retrained), ("target", pl_module.target)):
            if checkpoint is None:
                continue
            with isolate_rng():
                load = partial(pl_module.export.checkpoint_to_evaluate, checkpoint)
                measured = self._evaluate(name, load, trainer, self._stores(checkpoint, pl_module))
            if name == "retrained":
                auc = measured[self._sixteen_bits].get("membership_auc")
                if isinstance(auc, Estimate):
                    self._auc_retrain = auc
            add_privleak(measured, self._auc_retrain)
            add_derived(measured, self._baseline("retrained"))
            evaluated = [ResultRow(name, precision, metrics) for precision, metrics in measured.items()]
            self.rows = evaluated + self.rows  # the target, evaluated last, is shown first
        log_start(trainer, pl_module, self.rows, self._sixteen_bits)
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            write_scores(folder, self.rows, self._settings(trainer))

    def _evaluate_unlearned(self, trainer: Trainer, pl_module: Any, epoch: int | None) -> None:
        with isolate_rng():
            copy = partial(pl_module.export.copy_to_evaluate, pl_module.model)
            measured = self._evaluate("unlearned", copy, trainer)
            whole, target = measured[self._sixteen_bits], self._baseline("target")[self._sixteen_bits]
            windows = self._windows(data_of(trainer))["forget"]
            whole |= kept_by_export(pl_module, windows, self.suite.batch_size, whole, target)
        add_privleak(measured, self._auc_retrain)
        add_derived(measured, self._baseline("retrained"))
        self._evaluated_epoch = epoch
        verdicts = self._verdicts(measured)
        evaluated = [ResultRow("unlearned", precision, metrics, epoch) for precision, metrics in measured.items()]
        log_evaluation(trainer, pl_module, evaluated, self._baselines(), verdicts)
        latest = self._baselines() + evaluated
        self.rows += evaluated
        folder = run_folder(trainer)  # asked by all processes
        if trainer.is_global_zero:
            kept = told(whole.get("kept_by_export"), pl_module.export_cast)
            note = " ".join(filter(None, [self._note(data_of(trainer)), kept]))
            shown = [(name, self._sixteen_bits) for name in ("target", "retrained", "unlearned")]
            shown += [("unlearned", precision) for precision in measured if precision != self._sixteen_bits][:1]
            is_last = epoch in (None, trainer.max_epochs) or trainer.should_stop
            said = evidence_table({key: self._said[key] for key in shown if is_last and key in self._said})
            # first: it is there to be read where the files cannot be written
            title = f"after epoch {epoch}" if epoch is not None else "test"
            print_results(latest, title, note, verdicts, said)
            trained = {} if epoch is None else {"training": str(trainer.precision)}
            beside = self._set_beside(latest) if is_last else None
            write_results(folder, self.rows, note, trained | {"evaluation": self._arithmetic}, verdicts, beside)
            write_scores(folder, self.rows, self._settings(trainer))
            keep_evidence(folder, self._said)
            before = [(name, self._sixteen_bits) for name in ("target", "retrained")]
            asked = [*before, *(("unlearned", precision) for precision in measured)]
            log_samples(trainer, {key: self._said[key] for key in asked if key in self._said}, folder)

    def _set_beside(self, rows: Sequence[ResultRow]) -> dict[str, object] | None:
        """Print the published figures beside the run's; for the results, or None where there are none."""
        if self.published is None:
            return None
        compared = compare(self.published, rows)
        print_comparison(self.published, compared)
        return as_json(self.published, compared)

    def _baselines(self) -> list[ResultRow]:
        return [row for row in self.rows if row.model != "unlearned"]

    def _verdicts(self, measured: dict[str, dict[str, Measure]]) -> dict[str, Verdict]:
        """Precision → verdict; the survival measures are added to the figures."""
        attacked = attacked_names(self.precisions.values())
        baselines = (self._baseline("target"), self._baseline("retrained"))
        return conclude(measured, *baselines, self._sixteen_bits, attacked)

    def _baseline(self, name: str) -> dict[str, Mapping[str, Measure]]:
        return {row.precision: row.metrics for row in self.rows if row.model == name}

    def _evaluate(
        self, name: str, make: Callable[[], PreTrainedModel], trainer: Trainer, finished: Stores = None
    ) -> dict[str, dict[str, Measure]]:
        """precision → metrics of one 16-bit model, one quantized copy at a time."""
        data = data_of(trainer)
        config = load_config(trainer.lightning_module.target)  # type: ignore[arg-type]
        asked = Asked(data.served.records, self._windows(data), self.suite, data.served.tokenizer, config)
        bar = Bar(desc=name, disable=not trainer.is_global_zero)

        def show(what: str, done: int, total: int) -> None:
            bar.show(f"{name} · {what}", done, total)

        # one model serves them all, in whatever dtype it is exported
        precisions = [replace(each, dtype=torch.bfloat16) for each in self.precisions.values()]
        evaluator = Evaluator(precisions, self._calibration_tokens, self._texts)
        with torch.inference_mode(False):  # `test` switches it on, and what is made in it is never trained
            found = evaluator.evaluate(lambda dtype: make(), asked, show, finished)
        bar.close()
        self._said |= {(name, precision): evaluated.log for precision, evaluated in found.items()}
        return {precision: evaluated.measures for precision, evaluated in found.items()}

    def _stores(self, checkpoint: str, pl_module: Any) -> Stores:
        given = self.precisions.values(), pl_module.export_dtype, self._arithmetic
        return baseline_stores(
            self.baselines, checkpoint, pl_module.target, *given, self._calibration_tokens, self._texts
        )

    def _note(self, data: UnlearningData) -> str:
        """What a reader of the figures must know."""
        calibrated = self._calibrated()
        notes = [
            data.served.records.note,
            describe_opening(data.served.tokenizer),
            f"Calibration of {', '.join(calibrated)}: {self.calibration.describe()}." if calibrated else "",
            partly_quantized(self._shares),
            self._remarks,
        ]
        return " ".join(filter(None, notes))

    def _calibrated(self) -> list[str]:
        return [name for name, quantizer in self.quantizers.items() if quantizer.needs_calibration]

    def _windows(self, data: UnlearningData) -> dict[str, Tensor]:
        most = self.max_windows
        return {
            name: windows if most is None else spread(windows, most)
            for name, windows in data.served.windows._asdict().items()
            if len(windows)  # a corpus may have no retain set
        }
