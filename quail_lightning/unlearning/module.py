"""Unlearning as a LightningModule: forget and retain steps by manual optimization."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

import quail_lightning.unlearning.adapter_checks as adapter_checks
import quail_lightning.unlearning.checks as checks
from quail_lightning.data.batch import ForgetRetainBatch, TokenBatch
from quail_lightning.data.forget_retain import Schedule
from quail_lightning.data.protocol import data_of
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.functional.token_likelihood import counted
from quail_lightning.models.activations import check_head
from quail_lightning.models.casting import Cast, Rounding
from quail_lightning.models.checkpoint import load_config
from quail_lightning.models.sharded import inside, is_sharded
from quail_lightning.objectives import Term, Weights, term_weights
from quail_lightning.objectives.weighting import Weighting
from quail_lightning.reference import CachedStates, FrozenOutputs, Reference, Side, Sizes
from quail_lightning.run.folder import run_folder
from quail_lightning.unlearning.adapter import Adapter, refuse_other_states, trained_alone
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.alternates import check_alternates
from quail_lightning.unlearning.arithmetic import StepArithmetic
from quail_lightning.unlearning.dual import Dual, Multiplier, check_dual
from quail_lightning.unlearning.export import Export, chosen_cast
from quail_lightning.unlearning.fitting import MemoryOptions, check_device_memory, evaluates_shards
from quail_lightning.unlearning.generic_labels import GenericLabels
from quail_lightning.unlearning.guards import explained_memory
from quail_lightning.unlearning.learning_rate import LearningRate, chosen_rate
from quail_lightning.unlearning.losses import SHOWN, Floor, term_losses
from quail_lightning.unlearning.optimizer_step import take_step
from quail_lightning.unlearning.optimizers import AdamStates, WeightPrecision, adamw, check_installed, weight_dtype
from quail_lightning.unlearning.perturbation import Perturbation, check_perturbation
from quail_lightning.unlearning.preparation import prepare, requests
from quail_lightning.unlearning.provenance import sources
from quail_lightning.unlearning.ridge_edit import LayerEdits, RidgeEdit, check_ridge_edit
from quail_lightning.unlearning.saliency import Saliency, SaliencyMap, write_saliency
from quail_lightning.unlearning.sharpness import Sam, check_sam
from quail_lightning.unlearning.sophia import Sophia, SophiaG, check_sophia
from quail_lightning.unlearning.stopping import Goals, Stop, look_where_due
from quail_lightning.unlearning.task_vector import TaskVector
from quail_lightning.unlearning.trainable import Trainable, train_only
from quail_lightning.unlearning.whole_sets import mean_nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UnlearningModule(LightningModule):
    """L = w_f · L_forget + w_r · L_retain + γ · L_hinge on a causal language model.

    One optimizer serves every step; separate steps on the sets are weighted after clipping (``step_weights``).

    Args:
        target: checkpoint that knows the forget set, a folder or a hub name; what the terms compare with.
        forget: forget term.
        retain: retain term; None trains on the forget set alone.
        hinge: hinge term on the forget set; None leaves it out.
        start: checkpoint to start from (or to evaluate); None: the target.
        weighting: ``additive`` (1, α, γ) or ``convex`` (α, 1 − α, γ).
        alpha: larger keeps more of the retain set (additive) or forgets more (convex, in [0, 1]).
        gamma: weight of the hinge; larger pushes the forget set's outputs further from the target's.
        schedule: ``alternate``: a forget step, then a retain step; ``joint``: one step on the sum (the published
            code); ``epoch``: all forget batches, then all retain batches (QUAIL, Algorithm 1).
        learning_rate: constant, as in both papers; ``auto`` chooses it for the model's size (``automatic_rate``).
        weight_decay: decoupled.
        betas: of AdamW, or of Sophia.
        clip_norm: largest gradient norm of an optimizer step; None does not clip.
        micro_batch_size: windows a pass; gradients accumulate to exactly the whole batch's. None: the batch.
        loss_chunk: tokens whose float32 logits are held at once; None chooses by ``chunk_tokens``.
        defer_gradient_sync: under FSDP2, bring gradients together after a step's last pass alone: less
            communication, and a whole gradient's memory on each device.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        weight_precision: ``float32`` masters; ``bf16-stochastic``: small updates are kept in the mean, at half the
            memory; ``bf16-nearest``: as the papers trained, which loses updates below half an ulp.
        adam_states: ``full`` or ``8bit`` moments, or ``offloaded`` ones in main memory.
        sophia: second-order steps in the place of AdamW's; None for AdamW.
        sam: sharpness-aware minimization in the forget steps; None for none.
        perturbation: gradients are taken at weights rounded to a format (``RandomFormats``) or made noisy
            (``WeightNoise``); None: at the weights themselves.
        dual: bounds the retain loss: its weight moves from α as the bound is broken or kept; None: it stays α.
        trainable: ``all`` weights; only the ``quantized`` ones (linear layers of the body); or patterns of names.
        adapter: train a LoRA adapter, the weights themselves frozen; not with ``trainable`` or ``saliency``.
        saliency: SURE's choice of modules, within what is quantized; None trains what ``trainable`` says.
        adversary: perturbs hidden states in the forget steps (latent adversarial training); None for none.
        generic_labels: learn generic labels in place of the forget windows' own tokens (Who's Harry Potter).
        task_vector: evaluate and save the target moved against what was trained.
        ridge_edit: evaluate and save of the trained change of a few layers what the forget set sees.
        stop: forgetting ends a window at a time, where its NLL has reached this many nats a token, or with
            ``retrained`` most of the way to that of ``retrained`` (else of holdout text, see ``yardstick``);
            training ends after an epoch in which hardly anything was left to do. None trains on.
        retrained: checkpoint trained without the forget set; ``stop`` reads it.
        reference: where the target's outputs come from; None is ``CachedStates()``.
        export_dtype: dtype of what is saved, evaluated and quantized.
        export_rounding: how wider weights are cast to it, see ``Cast``. None: ``stochastic`` where the start is a
            16-bit checkpoint, ``nearest`` otherwise.
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
        learning_rate: LearningRate = 1e-5,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: float | None = 1.0,
        micro_batch_size: int | None = None,
        loss_chunk: int | None = None,
        defer_gradient_sync: bool = False,
        gradient_checkpointing: bool = False,
        weight_precision: WeightPrecision = "float32",
        adam_states: AdamStates = "full",
        sophia: Sophia | None = None,
        sam: Sam | None = None,
        perturbation: Perturbation | None = None,
        dual: Dual | None = None,
        trainable: Trainable = "all",
        adapter: Adapter | None = None,
        saliency: Saliency | None = None,
        adversary: LatentAdversary | None = None,
        generic_labels: GenericLabels | None = None,
        task_vector: TaskVector | None = None,
        ridge_edit: RidgeEdit | None = None,
        stop: Stop | None = None,
        retrained: str | None = None,
        reference: Reference | None = None,
        export_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        export_rounding: Rounding | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weights = term_weights(weighting, alpha, gamma)
        checks.check_numbers(learning_rate, clip_norm, weight_decay, betas, micro_batch_size, loss_chunk)
        checks.check_combination(weighting, retain, trainable, saliency, weight_decay)
        checks.check_generic_labels(generic_labels, forget, adversary)
        checks.check_stop(stop, forget, adversary)
        adapter_checks.check_options(adapter, trainable, saliency, weight_precision)
        check_installed(weight_precision, adam_states)
        check_sophia(sophia, weight_precision, adam_states)
        check_sam(sam, weight_precision)
        check_dual(dual, retain, weighting)
        check_perturbation(perturbation, sam, adapter, reference)
        elsewhere = {"adapter": adapter, "saliency": saliency, "task_vector": task_vector}
        check_ridge_edit(ridge_edit, trainable, elsewhere)
        self.target, self.start = target, start
        self.forget, self.retain, self.hinge = forget, retain, hinge
        self.weighting, self.alpha, self.gamma, self.schedule = weighting, alpha, gamma, schedule
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, (betas[0], betas[1])
        self.clip_norm, self.micro_batch_size, self.loss_chunk = clip_norm, micro_batch_size, loss_chunk
        self.defer_gradient_sync, self.gradient_checkpointing = defer_gradient_sync, gradient_checkpointing
        self.weight_precision: WeightPrecision = weight_precision
        self.adam_states: AdamStates = adam_states
        self.sophia, self.sam, self.perturbation, self.dual = sophia, sam, perturbation, dual
        self.trainable, self.saliency = trainable, saliency
        self.adapter, self.strict_loading = adapter, adapter is None  # a checkpoint holds the adapter alone
        self.adversary, self.generic_labels = adversary, generic_labels
        self.task_vector, self.ridge_edit = task_vector, ridge_edit
        self.stop, self.retrained = stop, retrained
        self.export_dtype: torch.dtype = getattr(torch, export_dtype)
        self.export_rounding = export_rounding
        self.reference: Reference = CachedStates() if reference is None else reference
        self.rounded_references: dict[str, Reference] = {}  # format → of the equally rounded target
        self.rounded_to: str | None = None  # the format of the step's perturbed weights
        self.model: PreTrainedModel | None = None
        self.tokenizer: Any = None
        self.saliency_map: SaliencyMap | None = None
        self.measured_steps: dict[str, float] = {}
        self.sources: dict[str, Any] = {}  # digests, on the process that saves
        self.gradient_masks: dict[Tensor, Tensor] = {}  # of salient heads
        self.generic_targets: Tensor | None = None  # generic labels of the forget windows
        self.goals: Goals | None = None  # of the forget windows
        self.layer_edits: LayerEdits | None = None
        self.multiplier = None if dual is None else Multiplier(alpha)
        self.trained = False  # by this module; a task vector is negated once

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuse arithmetic and strategies that this module does not do right; see ``checks``."""
        checks.check_precision(trainer.precision)
        checks.check_strategy(trainer.strategy, self.generic_labels, self.hinge, self.adam_states, self.ridge_edit)
        adapter_checks.check_run(self.adapter, trainer, self.generic_labels, self.hinge)

    def setup(self, stage: str) -> None:
        """Refuse what cannot work, before any weight is loaded."""
        self.check_trainer(self.trainer)
        self.tokenizer = load_tokenizer(self.target)
        compared = (self.retrained,) if self.stop == "retrained" and self.retrained and stage == "fit" else ()
        checks.check_whole_models(self, self.trainer, *compared)
        data = data_of(self.trainer)
        checks.check_checkpoints({self.target, self.start or self.target}, self.tokenizer, data.max_len)
        if stage == "fit":
            text = load_config(self.target).get_text_config()
            checks.check_parts(self, data.served.trained.retain, text.num_hidden_layers)
            check_alternates(self.forget, self.adversary, data.served.trained.forget)
            if asked := requests(self, text.num_hidden_layers):
                sizes = Sizes(text.vocab_size, text.hidden_size)
                self.reference.check(asked, sizes, self.arithmetic.head_dtype)
            self.learning_rate = chosen_rate(self.learning_rate, self.memory_options)
            if self.trainer.is_global_zero:  # now: files may change while training
                self.sources = sources(self.target, self.start, data)
            for notice in checks.notices(self, data):
                rank_zero_info(notice)
            reads_logits = any("logits" in request.frozen for request in asked.values())
            check_device_memory(self.memory_options, self.trainer, reads_logits)

    def configure_model(self) -> None:
        if self.model is not None:
            return
        self.model = model = self.arithmetic.load(self.start or self.target)
        # shards are gathered in the dtype that autocast wants
        with self.trainer.precision_plugin.forward_context() if is_sharded(model) else nullcontext():
            check_head(model, partial(inside, model))
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if self.adapter is None:
            train_only(self.model, self.trainable)
        if self.trainer.state.fn == "fit":
            with torch.device("cpu"):  # Lightning's context would make every new tensor on the accelerator
                prepare(self, self.model)
                if self.adapter is not None:  # now: all that is compared with was taken of the base alone
                    self.adapter.inject(self.model, self.target)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.adapter is not None:
            checkpoint["state_dict"] = trained_alone(self, checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.adapter is not None:
            refuse_other_states(self, checkpoint["state_dict"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self.sophia is not None:
            return SophiaG(trained, self.sophia, float(self.learning_rate), self.weight_decay, self.betas)
        return adamw(
            trained,
            weight_precision=self.weight_precision,
            states=self.adam_states,
            learning_rate=float(self.learning_rate),
            weight_decay=self.weight_decay,
            betas=self.betas,
        )

    def on_fit_start(self) -> None:
        assert self.model is not None
        self.model.train()  # checkpoints are loaded in evaluation mode
        self.trained = True
        folder = run_folder(self.trainer)  # asked by all processes
        if self.saliency_map is not None and self.trainer.is_global_zero:
            write_saliency(self.saliency_map, folder)

    def training_step(self, batch: ForgetRetainBatch, batch_idx: int) -> None:
        sides: list[tuple[Side, TokenBatch]] = []
        if batch.forget is not None and not (self.goals is not None and self.goals.is_over):
            sides.append(("forget", self.relabelled(batch.forget)))
        if batch.retain is not None and self.retain is not None:
            sides.append(("retain", batch.retain))
        if not sides:  # a retain batch of the epoch schedule, and no retain term; or nothing is left to forget
            return
        assert self.model is not None
        with explained_memory(self.memory_options, self.model.config, batch, self.trainer):
            if self.schedule == "joint":
                losses = take_step(self, sides, "grad_norm")
            else:
                losses = {}
                for side in sides:
                    losses |= take_step(self, [side], f"grad_norm_{side[0]}")
        weights = self.current_weights._asdict()
        losses["total"] = sum(weights[name] * value for name, value in losses.items() if name in weights)
        losses["lr"] = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        if self.dual is not None and self.multiplier is not None:
            retain = float(losses["retain"]) if "retain" in losses else None
            epoch, ends_epoch = self.current_epoch, self.trainer.is_last_batch
            losses["dual"] = self.multiplier.after_batch(self.dual, retain, epoch, ends_epoch)
        if self.goals is not None:
            losses["at_goal"] = self.goals.reached
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log_dict({SHOWN[name]: losses[name] for name in SHOWN if name in losses}, prog_bar=True, logger=False)

    @property
    def current_weights(self) -> Weights:
        """Of the terms, with the dual variable where there is one."""
        return self.weights if self.multiplier is None else self.weights._replace(retain=self.multiplier.value)

    def losses(
        self, side: Side, terms: Mapping[str, Term], batch: TokenBatch, floor: Floor | None = None
    ) -> dict[str, Tensor]:
        """Of terms on a batch of a set, each a mean over it."""
        assert self.model is not None
        reads = any(term.needs.frozen for term in terms.values())
        reference = self.reference if self.rounded_to is None else self.rounded_references[self.rounded_to]
        frozen = reference.outputs(side, batch.rows()) if reads else FrozenOutputs()
        computed, shifts = (self.arithmetic.forward, self.arithmetic.head_dtype), None
        if side == "forget" and self.adversary is not None:
            shifts = self.adversary.attack(self.model, batch, *computed, self.loss_chunk)
        return term_losses(self.model, terms, batch, frozen, *computed, shifts, self.loss_chunk, floor)

    def terms(self, side: Side) -> dict[str, Term]:
        """Those that act on a set, by name."""
        both = {"retain": self.retain} if side == "retain" else {"forget": self.forget, "hinge": self.hinge}
        return {name: term for name, term in both.items() if term is not None}

    def relabelled(self, batch: TokenBatch) -> TokenBatch:
        """Forget windows with the labels that are learned in place of their tokens, where there are any."""
        if self.generic_targets is None:
            return batch
        return batch._replace(labels=self.generic_targets[batch.window.cpu()].to(batch.labels.device))

    def windows_a_pass(self, batch_size: int) -> int:
        """Of a batch of so many."""
        return min(batch_size, self.micro_batch_size or batch_size)

    @property
    def arithmetic(self) -> StepArithmetic:
        """How the step computes."""
        return StepArithmetic(self.trainer, self.weight_precision, self.adapter)

    def on_train_start(self) -> None:  # a checkpoint inside an epoch is older than the look that its step leads to
        self._look_where_due(ends_epoch=False)

    def on_train_batch_end(self, outputs: Any, batch: ForgetRetainBatch, batch_idx: int) -> None:
        self._look_where_due(bool(self.trainer.is_last_batch))  # before the epoch's checkpoint and evaluation

    def _look_where_due(self, ends_epoch: bool) -> None:
        if self.goals is not None:
            look_where_due(self, ends_epoch)

    def validation_step(self, batch: ForgetRetainBatch, batch_idx: int) -> None:
        self._log_nll("val", batch)

    def test_step(self, batch: ForgetRetainBatch, batch_idx: int) -> None:
        self._log_nll("test", batch)

    def _log_nll(self, stage: str, batch: ForgetRetainBatch) -> None:
        assert self.model is not None
        for side, tokens in (("forget", batch.forget), ("retain", batch.retain)):
            if tokens is not None:
                computed = (self.arithmetic.forward, self.arithmetic.head_dtype)
                nll = mean_nll(self.model, tokens, *computed, self.loss_chunk)
                count = int(counted(tokens.true_labels[:, 1:]).sum())  # means over tokens are weighed by them
                self.log(f"{stage}/nll_{side}", nll, batch_size=count, on_epoch=True, sync_dist=True)

    @property
    def memory_options(self) -> MemoryOptions:
        """Those of the options that decide the memory."""
        return MemoryOptions(*(getattr(self, option.name) for option in fields(MemoryOptions)))

    @property
    def export(self) -> Export:
        """How the model is evaluated and saved, now."""
        vector = self.task_vector if self.trained else None
        sharded = evaluates_shards(self.memory_options, self.trainer)
        trained = weight_dtype(self.weight_precision)
        start = self.start or self.target
        known = (self.target, trained, self.export_cast, vector, self.trainer, sharded)
        return Export(*known, adapter=self.adapter, start=start, edits=self.layer_edits)

    @cached_property
    def export_cast(self) -> Cast:
        """From the trained weights to the exported ones."""
        return chosen_cast(self.export_dtype, self.export_rounding, self.start or self.target)
