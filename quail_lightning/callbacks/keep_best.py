"""Keep the model of the best epoch, chosen by validation figures and never by the reported records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from quail_lightning.callbacks.first_process import check_by_first_process
from quail_lightning.callbacks.progress_of_fit import is_epoch_over
from quail_lightning.data.protocol import data_of
from quail_lightning.data.validation_windows import validation_windows
from quail_lightning.data.window_records import spread
from quail_lightning.errors import InputError
from quail_lightning.evaluation.evaluator import on_copy
from quail_lightning.evaluation.precision import UNQUANTIZED, Precision
from quail_lightning.evaluation.selection import Likelihoods, delivered, shortfall
from quail_lightning.evaluation.validation_prompts import ValidationPrompts, validation_prompts
from quail_lightning.inference.encoding import positions
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.models.checkpoint import load_config, read_provenance
from quail_lightning.models.release import release_memory
from quail_lightning.models.rescue import save_or_rescue
from quail_lightning.models.sharded import is_sharded
from quail_lightning.quantization import (
    check_quantizers,
    check_shards,
    load_quantizer,
)
from quail_lightning.run.folder import run_folder
from quail_lightning.run.masking import masked
from quail_lightning.storage.vouched import read_vouched, write_vouched
from quail_lightning.unlearning.checks import check_export
from quail_lightning.unlearning.provenance import description

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HISTORY = "validation.json"


class KeepBest(Callback):
    """After every epoch: figures of validation windows at each precision, and the best model so far on disk.

    The windows hold nothing of a reported prompt; ``shortfall`` makes one number of their NLLs, which decides.
    Delivered forgetting and the completions of the windows' first halves are noted beside it. The best model so
    far lies in ``best-epoch-<n>`` in the run's folder, the figures of all epochs in ``validation.json``. An epoch
    that ``trainer.max_steps`` cuts short is not considered.

    Args:
        enabled: False does nothing.
        precisions: names of ``configs/quantizer/*.yaml`` that need no calibration; the worst of them counts.
        retrained: checkpoint trained without the forget set, whose forget NLL is the goal; or
        forget_nll: the goal itself, nats a token.
        max_windows: of each set, evenly spread; None for all.
        batch_size: windows or prompts at once.
        max_prompts: windows of each set whose first half is to be completed; 0 for none.
        stop_verbatim: training ends after the epoch in which the completions of forget prompts score no more than
            this (ROUGE-L F1 × 100) at every precision; None trains on.
    """

    def __init__(
        self,
        enabled: bool = False,
        precisions: Sequence[str] = ("bf16", "nf4"),
        retrained: str | None = None,
        forget_nll: float | None = None,
        max_windows: int | None = 64,
        batch_size: int = 8,
        max_prompts: int = 16,
        stop_verbatim: float | None = None,
    ) -> None:
        if enabled and retrained is None and forget_nll is None:
            raise InputError(
                "the best model is the one that forgot enough, and nothing says how much that is",
                remedy="Name best.retrained (or evaluation.retrained), or set best.forget_nll",
            )
        for name, value in {"max_windows": max_windows, "batch_size": batch_size}.items():
            if value is not None and value < 1:
                raise InputError(f"best.{name} must be at least 1", given=value)
        self.enabled, self.retrained, self.forget_nll = enabled, retrained, forget_nll
        if max_prompts < 0:
            raise InputError("best.max_prompts must not be negative", given=max_prompts)
        if stop_verbatim is not None and not (0 <= stop_verbatim <= 100 and max_prompts and enabled):
            raise InputError(
                "best.stop_verbatim is a score of 0 … 100 over validation prompts",
                given={"stop_verbatim": stop_verbatim, "max_prompts": max_prompts, "enabled": enabled},
                remedy="Set best.enabled to true and best.max_prompts to at least 1",
            )
        self.max_windows, self.batch_size, self.max_prompts = max_windows, batch_size, max_prompts
        self.stop_verbatim = stop_verbatim
        self.quantizers = {name: load_quantizer(name) for name in dict.fromkeys(precisions)}
        if calibrated := [name for name, quantizer in self.quantizers.items() if quantizer.needs_calibration]:
            raise InputError(
                "the best model is chosen by precisions that need no calibration", given=", ".join(calibrated)
            )
        if not enabled:
            self.quantizers = {}  # what is never made counts in no plan
        self._sixteen_bits = ""
        self.windows: dict[str, Tensor] = {}
        self.prompts: dict[str, ValidationPrompts] = {}
        self._tokenizer: Any = None
        self._target: dict[str, Likelihoods] = {}
        self._goal = 0.0
        self._history: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Choose the windows; refuse a run that has none."""
        if self.enabled and stage == "fit":
            self._sixteen_bits = UNQUANTIZED[pl_module.export_dtype]
            if pl_module.export.sharded:
                check_shards(self.quantizers, "best.precisions")
            check_quantizers(load_config(pl_module.target), self.quantizers, pl_module.export_dtype)
            data = data_of(trainer)
            sets = data.served.windows
            free = validation_windows(sets.forget, sets.retain, data.served.records, data.served.tokenizer)
            most = self.max_windows
            self.windows = {name: rows if most is None else spread(rows, most) for name, rows in free.items()}
            self._tokenizer = data.served.tokenizer
            # the best one so far stays until a better one is whole
            folder = run_folder(trainer) / "best-epoch"
            check_by_first_process(trainer, partial(check_export, pl_module, folder, copies=2))
            limit = positions(load_config(pl_module.target))
            self.prompts = {
                name: validation_prompts(spread(rows, self.max_prompts), data.served.tokenizer, limit)
                for name, rows in self.windows.items()
                if len(rows) and self.max_prompts
            }

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.enabled:
            return
        with isolate_rng():
            self._target = self._evaluate(pl_module.export.checkpoint_to_evaluate(pl_module.target))
            if self.forget_nll is not None or self.retrained is None:
                self._goal = float(self.forget_nll or 0.0)
            else:
                self._goal = self._nlls(pl_module.export.checkpoint_to_evaluate(self.retrained)).forget
        release_memory()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._take_up(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if is_epoch_over(trainer):
            self._consider(trainer, pl_module, trainer.current_epoch + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._take_up(trainer, pl_module)  # resumed after the last epoch, no training started

    def _take_up(self, trainer: Trainer, pl_module: Any) -> None:
        """Of a resumed run: the figures of the epochs before its checkpoint, and those still missing."""
        folder = run_folder(trainer)
        if not self.enabled or trainer.ckpt_path is None:
            return
        content = read_vouched(folder / HISTORY, "of the epochs before, only the best model's own figure is known")
        if content is None:
            self._history = _of_the_best_model(folder)
        else:
            if content["settings"] != json.loads(json.dumps(masked(self._settings()))):
                raise InputError(
                    f"the best model of {folder} was chosen by other figures",
                    given=masked(self._settings()),
                    allowed=content["settings"],
                    remedy="Resume with the same best section",
                )
            self._history = content["epochs"]
        self._history = [entry for entry in self._history if entry["epoch"] <= trainer.current_epoch]
        evaluated = trainer.strategy.broadcast([entry["epoch"] for entry in self._history])
        if trainer.current_epoch and trainer.current_epoch not in evaluated:
            self._consider(trainer, pl_module, trainer.current_epoch)
        elif self.stop_verbatim is not None and evaluated:  # a run that had ended by itself
            last = self._history[-1].get("verbatim", {}) if self._history else {}
            self._stop(trainer, trainer.strategy.broadcast(list(last.values())))

    def _consider(self, trainer: Trainer, pl_module: Any, epoch: int) -> None:
        if not self.enabled:
            return
        folder = run_folder(trainer)  # this and the copy are asked for by all processes
        with isolate_rng():
            evaluated = pl_module.export.copy_to_evaluate(pl_module.model)
            found = self._evaluate(evaluated)
            score = shortfall(found, self._target, self._goal)
            best = min((entry["shortfall"] for entry in self._history), default=float("inf"))
            is_best = trainer.strategy.broadcast(score < best)  # by the first process, which keeps the history
            best_model = None
            if is_best:
                best_model = pl_module.export.saved_copy(pl_module.model) if is_sharded(evaluated) else evaluated
            if trainer.is_global_zero:
                self._keep(folder, best_model, found, score, pl_module, epoch)
        self._stop(trainer, [values.verbatim for values in found.values()])
        del evaluated, best_model
        release_memory()
        trainer.strategy.barrier()

    def _stop(self, trainer: Trainer, verbatim: Iterable[Mapping[str, float]]) -> None:
        """End the training where the forget prompts' completions are unlike the text."""
        if self.stop_verbatim is not None:
            scores = [scored["forget"] for scored in verbatim]
            trainer.should_stop |= trainer.strategy.broadcast(max(scores, default=100.0) <= self.stop_verbatim)

    def _keep(
        self,
        folder: Any,
        model: PreTrainedModel | None,
        found: Mapping[str, Likelihoods],
        score: float,
        pl_module: Any,
        epoch: int,
    ) -> None:
        """Note the epoch's figures, and save its model where it is given as the best so far."""
        noted = {
            "verbatim": {precision: dict(values.verbatim) for precision, values in found.items()},
            "delivered": delivered(found, self._target, self._sixteen_bits),
        }
        self._history.append({"epoch": epoch, "shortfall": score, "nll": _nlls(found)} | noted)
        out = folder / f"best-epoch-{epoch}"
        if model is not None:
            shutil.rmtree(out, ignore_errors=True)  # of a run that was killed after this epoch
            described = description(pl_module) | {"finished_epochs": epoch, "shortfall": score}
            save_or_rescue(model, pl_module.tokenizer, out, described)
            for other in folder.glob("best-epoch-*"):
                if other != out:
                    shutil.rmtree(other)
            rank_zero_info(f"best so far: epoch {epoch}, shortfall {score:.4g} nats a token: {out}")
        content = {"settings": masked(self._settings()), "goal": self._goal, "target": _nlls(self._target)}
        write_vouched(folder / HISTORY, content | {"epochs": self._history})

    def _settings(self) -> dict[str, Any]:
        return {
            "precisions": list(self.quantizers),
            "retrained": self.retrained,
            "forget_nll": self.forget_nll,
            "windows": {name: len(rows) for name, rows in self.windows.items()},
            "max_prompts": self.max_prompts,
        }

    def _evaluate(self, model: PreTrainedModel) -> dict[str, Likelihoods]:
        return {
            name: on_copy(Precision(name, name, quantizer), model, self._nlls)
            for name, quantizer in self.quantizers.items()
        }

    def _nlls(self, model: PreTrainedModel) -> Likelihoods:
        given = {name: rows for name, rows in self.windows.items() if len(rows)}
        nlls = {name: window_nlls(model, rows, self.batch_size) for name, rows in given.items()}
        said = {name: asked.score(model, self._tokenizer, self.batch_size) for name, asked in self.prompts.items()}
        means = {name: float(values.mean()) for name, values in nlls.items()}
        forget = tuple(nlls["forget"].tolist())
        # without a retain set nothing is lost of it
        return Likelihoods(means["forget"], means.get("retain", 0.0), forget, said)


def _of_the_best_model(folder: Path) -> list[dict[str, Any]]:
    """Epoch and shortfall of the best model so far, as noted beside its weights; nothing where there is none."""
    noted = [read_provenance(path) or {} for path in folder.glob("best-epoch-*")]
    return [
        {"epoch": each["finished_epochs"], "shortfall": each["shortfall"]} for each in noted if "shortfall" in each
    ]


def _nlls(found: Mapping[str, Likelihoods]) -> dict[str, dict[str, float]]:
    return {precision: {"forget": values.forget, "retain": values.retain} for precision, values in found.items()}
