"""Unlearning as a LightningModule: forget and retain steps by manual optimization."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from quail_lightning.batch import ForgetRetainBatch, TokenBatch
from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.functional.token_likelihood import IGNORED, token_log_likelihood
from quail_lightning.models.checkpoint import check_fits, load_config, load_model
from quail_lightning.objectives import Predictions, Term, term_weights
from quail_lightning.objectives.weighting import Weighting
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.reference import CachedLogits, Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Side = Literal["forget", "retain"]

PRECISIONS = {"bf16-mixed": 2, "32-true": 4}
"""Supported ``trainer.precision`` → bytes of one logit."""

RECORDED_PACKAGES = ("quail-lightning", "torch", "transformers", "lightning")


class UnlearningModule(LightningModule):
    """L = w_f · L_forget + w_r · L_retain + γ · L_hinge on a causal language model.

    One AdamW serves every step. With separate forget and retain steps (``alternate``, ``epoch``) its
    normalization makes the size of a step nearly independent of the loss's weight, and the shared momentum
    carries each kind's direction into the other's step: there α shifts the balance far less than the same α
    under ``joint``, where both gradients are summed before the optimizer sees them.

    Args:
        target: checkpoint that knows the forget set, a folder or a hub name; the reference for the hinge.
        forget: forget term.
        retain: retain term; None trains on the forget set alone.
        hinge: hinge term on the forget set; None leaves it out.
        start: checkpoint to start from (or to evaluate); None is the target itself.
        weighting: ``additive`` (1, α, γ) or ``convex`` (α, 1 − α, γ).
        alpha: larger keeps more of the retain set (additive) or forgets more (convex, in [0, 1]).
        gamma: weight of the hinge; larger pushes the forget logits further from the target's.
        schedule: ``alternate`` makes a forget step, then a retain step; ``joint`` one step on the sum (the
            published code); ``epoch`` all forget batches, then all retain batches (QUAIL, Algorithm 1).
        learning_rate: constant, as in both papers.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip_norm: largest gradient norm of an optimizer step; None does not clip.
        micro_batch_size: windows a forward and backward pass; gradients accumulate over a batch's passes to
            exactly the whole batch's gradient. None takes the batch at once.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        weight_precision: ``float32`` masters, or ``bf16-nearest``: bfloat16 weights rounded to nearest after
            every update, as the papers trained, which loses updates below half an ulp.
        trainable: ``all`` weights, or only the ``quantized`` ones (linear layers of the body).
        reference: where the target's logits come from; None is ``CachedLogits()``.
        export_dtype: dtype of what is saved, evaluated and quantized.
    """

    def __init__(
        self,
        target: str,
        forget: Term,
        retain: Term | None = None,
        hinge: Term | None = None,
        start: str | None = None,
        weighting: Weighting = "additive",
        alpha: float = 1.0,
        gamma: float = 1.0,
        schedule: Schedule = "alternate",
        learning_rate: float = 1e-5,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: float | None = 1.0,
        micro_batch_size: int | None = None,
        gradient_checkpointing: bool = False,
        weight_precision: Literal["float32", "bf16-nearest"] = "float32",
        trainable: Literal["all", "quantized"] = "all",
        reference: Reference | None = None,
        export_dtype: Literal["bfloat16", "float16"] = "bfloat16",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weights = term_weights(weighting, alpha, gamma)
        for name, value in (("learning_rate", learning_rate), ("clip_norm", clip_norm)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"model.{name} must be a positive number", given=value)
        if not 0 <= weight_decay < math.inf:
            raise InputError("model.weight_decay must be 0 or a positive number", given=weight_decay)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise InputError("model.micro_batch_size must be at least 1 window", given=micro_batch_size)
        if weighting == "convex" and retain is None:
            raise InputError("weighting 'convex' shares α between forget and retain, and there is no retain term")
        self.target, self.start = target, start
        self.forget, self.retain, self.hinge = forget, retain, hinge
        self.schedule = schedule
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, (betas[0], betas[1])
        self.clip_norm, self.micro_batch_size = clip_norm, micro_batch_size
        self.gradient_checkpointing, self.trainable = gradient_checkpointing, trainable
        self.weight_dtype = {"float32": torch.float32, "bf16-nearest": torch.bfloat16}[weight_precision]
        self.export_dtype: torch.dtype = getattr(torch, export_dtype)
        self.reference: Reference = CachedLogits() if reference is None else reference
        self.model: PreTrainedModel | None = None
        self.tokenizer: Any = None

    # --- before training -------------------------------------------------------------------------------

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuse arithmetic that this module does not do right.

        Raises:
            InputError: half precision scales losses, which clipping here does not undo; the ``true`` precisions
                cast the rotary frequencies along with the weights.
        """
        if trainer.precision not in PRECISIONS:
            raise InputError(
                "trainer.precision is not supported",
                given=trainer.precision,
                allowed=", ".join(PRECISIONS),
                remedy="For bfloat16 weights set model.weight_precision: bf16-nearest",
            )

    def setup(self, stage: str) -> None:
        """Refuse what cannot work, before any weight is loaded."""
        self.check_trainer(self.trainer)
        self.tokenizer = load_tokenizer(self.target)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for checkpoint in {self.target, self.start or self.target}:
            config = load_config(checkpoint)
            check_fits(config, self.tokenizer, data.max_len)
        if stage == "fit" and self._needs_reference():
            vocabulary = config.get_text_config().vocab_size
            self.reference.check(data.windows.forget, vocabulary, PRECISIONS[self.trainer.precision])

    def configure_model(self) -> None:
        if self.model is not None:
            return
        self.model = load_model(self.start or self.target, self.weight_dtype)
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if self.trainable == "quantized":
            self.model.requires_grad_(False)
            for _, linear in quantized_linears(self.model):
                linear.weight.requires_grad_(True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(
            trained, lr=self.learning_rate, weight_decay=self.weight_decay, betas=self.betas
        )

    def on_fit_start(self) -> None:
        assert self.model is not None
        self.model.train()  # checkpoints are loaded in evaluation mode
        if self._needs_reference():
            target: nn.Module = load_model(self.target, self.weight_dtype)
            target = target.to(self.device).requires_grad_(False)
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.reference.prepare(target, data.windows.forget, self._forward, self._micro(data.batch_size))

    # --- the step --------------------------------------------------------------------------------------

    def training_step(self, batch: ForgetRetainBatch, batch_idx: int) -> None:
        sides: list[tuple[Side, TokenBatch]] = []
        if batch.forget is not None:
            sides.append(("forget", batch.forget))
        if batch.retain is not None and self.retain is not None:
            sides.append(("retain", batch.retain))
        if not sides:  # a retain batch of the epoch schedule, and no retain term
            return
        if self.schedule == "joint":
            losses = self._optimizer_step(sides, "grad_norm")
        else:
            losses = {}
            for side in sides:
                losses |= self._optimizer_step([side], f"grad_norm_{side[0]}")
        factors = {"forget": self.weights.forget, "retain": self.weights.retain, "hinge": self.weights.hinge}
        losses["total"] = sum(factors[name] * value for name, value in losses.items() if name in factors)
        losses["lr"] = self._optimizer().param_groups[0]["lr"]
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        shown = {name: value for name, value in losses.items() if name in factors}
        self.log_dict(shown, prog_bar=True, logger=False)

    def _optimizer_step(self, sides: list[tuple[Side, TokenBatch]], norm_name: str) -> dict[str, Any]:
        """Accumulate the gradients of all sides, then step once; the unweighted losses and the norm."""
        optimizer = self._optimizer()
        losses: dict[str, Any] = {}
        for side, batch in sides:
            for part, share in self._parts(batch):
                values = self._losses(side, part)
                weighted = sum(getattr(self.weights, name) * value for name, value in values.items())
                self.manual_backward(share * weighted)
                for name, value in values.items():
                    losses[name] = losses.get(name, 0.0) + share * value.detach()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        if self.clip_norm is not None:
            trained = [p for p in self.parameters() if p.grad is not None]
            clip_grads_with_norm_(trained, self.clip_norm, norm)
        optimizer.step()
        optimizer.zero_grad()  # the evaluation at the epoch's end needs the memory
        return losses | {norm_name: norm}

    def _optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def _losses(self, side: Side, batch: TokenBatch) -> dict[str, Tensor]:
        logits = self._forward(self.model, batch.input_ids)[:, :-1]
        predictions = Predictions(logits, batch.labels[:, 1:])
        if side == "retain":
            assert self.retain is not None
            return {"retain": self.retain.loss(predictions)}
        if self._needs_reference():
            predictions = predictions._replace(reference=self.reference.logits(batch)[:, :-1])
        losses = {"forget": self.forget.loss(predictions)}
        if self.hinge is not None:
            losses["hinge"] = self.hinge.loss(predictions)
        return losses

    def _parts(self, batch: TokenBatch) -> Iterator[tuple[TokenBatch, float]]:
        """Micro-batches, each with its share of the batch's real tokens."""
        size = self._micro(len(batch.input_ids))
        total = (batch.labels[:, 1:] != IGNORED).sum()
        for start in range(0, len(batch.input_ids), size):
            part = TokenBatch(*(tensor[start : start + size] for tensor in batch))
            yield part, float((part.labels[:, 1:] != IGNORED).sum() / total)

    def _needs_reference(self) -> bool:
        return any(term is not None and term.needs_reference for term in (self.forget, self.hinge))

    def _micro(self, batch_size: int) -> int:
        return min(batch_size, self.micro_batch_size or batch_size)

    def _forward(self, model: nn.Module | None, input_ids: Tensor) -> Tensor:
        """Logits [batch, time, vocabulary] in the training step's arithmetic; windows have no padding."""
        assert model is not None
        with self.trainer.precision_plugin.forward_context():
            return model(input_ids=input_ids, use_cache=False).logits

    # --- judging and saving ----------------------------------------------------------------------------

    def validation_step(self, batch: ForgetRetainBatch, batch_idx: int) -> None:
        self._log_nll("val", batch)

    def test_step(self, batch: ForgetRetainBatch, batch_idx: int) -> None:
        self._log_nll("test", batch)

    def _log_nll(self, stage: str, batch: ForgetRetainBatch) -> None:
        for side, tokens in (("forget", batch.forget), ("retain", batch.retain)):
            if tokens is not None:
                logits = self._forward(self.model, tokens.input_ids)[:, :-1]
                nll = -token_log_likelihood(logits, tokens.labels[:, 1:]).mean()
                self.log(f"{stage}/nll_{side}", nll, batch_size=len(tokens.input_ids), on_epoch=True)

    def export_model(self) -> PreTrainedModel:
        """A copy of the model as it is deployed: weights cast to ``export_dtype``, evaluation mode.

        Buffers (rotary frequencies) keep their dtype, as they do when the saved checkpoint is loaded.
        """
        assert self.model is not None
        # parameters enter the copy already cast: a copy in float32 first would cost twice the memory
        cast: dict[int, Any] = {
            id(p): nn.Parameter(p.detach().to(self.export_dtype, copy=True), requires_grad=False)
            for p in self.model.parameters()
        }
        exported = copy.deepcopy(self.model, cast)
        exported.config.dtype = self.export_dtype
        if self.gradient_checkpointing:
            exported.gradient_checkpointing_disable()
        return exported.eval()

    def describe(self) -> dict[str, Any]:
        """What made this model, for the provenance beside the saved weights."""
        terms = {"forget": self.forget, "retain": self.retain, "hinge": self.hinge}
        return {
            "made_by": "quail fit",
            "target": self.target,
            "start": self.start,
            "terms": {name: _described(term) for name, term in terms.items() if term is not None},
            "weights": self.weights._asdict(),
            "schedule": self.schedule,
            "optimizer": "AdamW",
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "betas": list(self.betas),
            "clip_norm": self.clip_norm,
            "weight_dtype": str(self.weight_dtype),
            "export_dtype": str(self.export_dtype),
            "trainable": self.trainable,
            "versions": {name: version(name) for name in RECORDED_PACKAGES},
        }


def _described(term: Term) -> dict[str, Any]:
    return {"class": type(term).__qualname__} | vars(term)
