"""Sophia: steps divided by an estimate of the curvature, each weight's no larger than the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.functional.sampled_tokens import draws_like, sampled_log_likelihood
from quail_lightning.functional.token_likelihood import counted, mean_over_real
from quail_lightning.models.sharded import is_sharded
from quail_lightning.objectives import Needs, TermInputs
from quail_lightning.reference import FrozenOutputs, Side
from quail_lightning.run.processes import current_processes
from quail_lightning.unlearning.division import passes
from quail_lightning.unlearning.losses import term_losses
from quail_lightning.unlearning.optimizers import AdamStates, WeightPrecision
from quail_lightning.unlearning.sharding import sum_gradients, unsynchronized

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

FLOOR = 1e-15  # of the denominator, as in the authors' code
SOULS_TOKENS = 5120  # the batch size that SOUL's code assumes, whatever the batch


@dataclass(frozen=True)
class Sophia:
    """Sophia-G in the place of AdamW (Liu et al. 2023, Algorithm 3), with ``model.betas`` and its weight decay.

    m ← β₁ m + (1 − β₁) g; h ← β₂ h + (1 − β₂) ĥ; θ ← θ − η (weight_decay · θ + clip(m / (ρ h), ±1)). Nothing
    corrects m and h for their start at 0. The authors' betas are 0.965 and 0.99.

    Attributes:
        rho: ρ (the paper's γ); larger makes smaller steps where h is what divides.
        estimate: ``sampled`` is Gauss–Newton–Bartlett: ĥ = B · ĝ², where ĝ is the gradient of the mean NLL of B
            tokens drawn from the model itself on the step's own windows. ``gradient`` is what SOUL's published
            code does (Jia et al. 2024): in every step ĥ = 5120 · g² of the step's own, clipped gradient.
        every_n_steps: batches from one sampled estimate to the next; each costs a forward and a backward pass.
        seed: of the sampled tokens.

    Raises:
        InputError: naming the number that is outside its range.
    """

    rho: float = 0.04
    estimate: Literal["sampled", "gradient"] = "sampled"
    every_n_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rho < math.inf:
            raise InputError("model.sophia.rho must be a positive number", given=self.rho)
        if self.every_n_steps < 1:
            raise InputError("model.sophia.every_n_steps must be at least 1 batch", given=self.every_n_steps)


def check_sophia(sophia: Sophia | None, weight_precision: WeightPrecision, states: AdamStates) -> None:
    """Refuse Sophia with what is AdamW's alone.

    Raises:
        InputError: its two states are float32 tensors beside float32 weights, 8 bytes a weight as AdamW's are.
    """
    if sophia is not None and (weight_precision, states) != ("float32", "full"):
        raise InputError(
            "model.sophia steps on float32 weights with states in full; narrower ones are made for AdamW",
            given=f"model.weight_precision: {weight_precision}, model.adam_states: {states}",
            allowed="model.weight_precision: float32 with model.adam_states: full",
        )


class SophiaG(torch.optim.Optimizer):
    """The optimizer; see ``Sophia``. Both states are kept like AdamW's: ``exp_avg`` m and ``hessian`` h.

    Args:
        parameters: float32.
        sophia: ρ and the kind of estimate.
        lr: η.
        weight_decay: decoupled.
        betas: β₁ and β₂.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        sophia: Sophia,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "rho": sophia.rho})
        self._own_gradient = sophia.estimate == "gradient"

    @torch.no_grad()
    def update_hessian(self, tokens: int) -> None:
        """h ← β₂ h + (1 − β₂) · tokens · g², g being the gradients that the weights hold."""
        for _, gradient, group, state in self._held():
            beta = group["betas"][1]
            state["hessian"].mul_(beta).addcmul_(gradient, gradient, value=(1 - beta) * tokens)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._own_gradient:
            self.update_hessian(SOULS_TOKENS)
        for parameter, gradient, group, state in self._held():
            rate, beta, mean = group["lr"], group["betas"][0], state["exp_avg"]
            mean.mul_(beta).add_(gradient, alpha=1 - beta)
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.sub_((mean / (group["rho"] * state["hessian"] + FLOOR)).clamp_(-1, 1).mul_(rate))
        return loss

    def _held(self) -> Iterable[tuple[Tensor, Tensor, dict[str, Any], dict[str, Any]]]:
        """Weight, gradient, group and state of all that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "hessian")}
                yield parameter, parameter.grad, group, state


class _SampledDescent:
    needs = Needs(tokens=(sampled_log_likelihood,))

    def loss(self, inputs: TermInputs) -> Tensor:
        return -mean_over_real(inputs.tokens[0], inputs.labels)


def estimate_curvature(module: UnlearningModule, sides: Sequence[tuple[Side, TokenBatch]], optimizer: Any) -> None:
    """Give the optimizer a sampled estimate, where one is due in this batch, before the step's own gradient.

    The tokens are drawn by seed, batch and place in it, so they are the same however a step is divided.

    Args:
        module: whose weights hold no gradient, and hold none afterwards.
        sides: of the step; the estimate is over the tokens of all of them.
        optimizer: ``SophiaG``.
    """
    sophia, model, number = module.sophia, module.model, module.trainer.fit_loop.total_batch_idx
    if sophia is None or sophia.estimate != "sampled" or number % sophia.every_n_steps:
        return
    assert model is not None
    generator = torch.Generator().manual_seed((sophia.seed * 1_000_003 + number) % 2**32)
    batches = [batch._replace(labels=draws_like(batch.labels, generator)) for _, batch in sides]
    counts = [int(counted(batch.true_labels[:, 1:]).sum()) for batch in batches]
    processes, sharded = current_processes(), is_sharded(model)
    scale = (processes.world_size if sharded else 1) / max(sum(counts), 1)  # FSDP2 takes the mean over the ranks
    computed = (module.arithmetic.forward, module.arithmetic.head_dtype)
    with unsynchronized(module.trainer):
        for batch, count in zip(batches, counts, strict=True):
            for part, share in passes(batch, module.micro_batch_size, processes):
                given = (model, {"sampled": _SampledDescent()}, part, FrozenOutputs(), *computed)
                loss = term_losses(*given, chunk=module.loss_chunk)["sampled"]
                module.manual_backward(scale * count * share.tokens * loss)
    sum_gradients([parameter for parameter in module.parameters() if parameter.grad is not None], sharded)
    optimizer.update_hessian(sum(counts))
    optimizer.zero_grad()
