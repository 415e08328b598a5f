"""SURE: train only the modules that matter most for the forget loss ("Catastrophic Failure ...", section 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.functional.saliency import block_norms, saliency_threshold
from quail_lightning.models.sharded import spread_like, whole
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS_BY_ROW = ("q_proj", "k_proj", "v_proj")  # attention heads lie along the rows of these ...
HEADS_BY_COLUMN = ("o_proj",)  # ... and along the columns of this one


@dataclass(frozen=True)
class SaliencyMap:
    """s_i and m_M of Eq. 4 and 5.

    Attributes:
        scores: module (``model.layers.3.mlp.up_proj``; per head ``model.layers.3.self_attn.q_proj:2``) → Frobenius
            norm of the forget loss's gradient over the whole forget set.
        threshold: γ.
    """

    scores: dict[str, float]
    threshold: float

    def is_salient(self, module: str) -> bool:
        """m_M: whether the module is trained; never one that the forget loss does not reach (γ > 0)."""
        return self.scores[module] > 0 and self.scores[module] >= self.threshold

    @property
    def salient(self) -> list[str]:
        """The modules that are trained."""
        return [module for module in self.scores if self.is_salient(module)]


@dataclass(frozen=True)
class Saliency:
    """SURE's choice of what is trained: the modules whose score reaches a percentile of all scores.

    One module is one projection (q, k, v, o, gate, up, down). The others hold neither gradients nor optimizer
    state, so the chosen share of the model is also the share of that memory. Embeddings, head, norms and biases
    stay as they are. Meant to go with a large learning rate (1e-4 in the paper) and a large α.

    Attributes:
        percentile: of the scores, in (0, 100); the paper's 90, 95 or 99.
        granularity: ``module``; or ``head``, which splits the attention projections into their heads and masks
            gradients and updates of a whole projection's tensor, so it saves no memory.
    """

    percentile: float = 90.0
    granularity: Literal["module", "head"] = "module"

    def __post_init__(self) -> None:
        saliency_threshold({"any": 0.0}, self.percentile)  # refuses a percentile outside (0, 100)

    def map(self, model: PreTrainedModel, backward: Callable[[], None]) -> SaliencyMap:
        """Score the modules.

        Args:
            model: θ_o; its gradients are empty before and after. Of a sharded one all processes must call.
            backward: accumulates the gradient of the forget loss over the whole forget set, the same on every
                process.

        Raises:
            InputError: the gradient is 0 or not finite, so that no module is more salient than another.
        """
        linears = quantized_linears(model)
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        model.requires_grad_(False)
        for _, linear in linears:
            linear.weight.requires_grad_(True)
        was_training = model.training
        model.train(was_training or model.is_gradient_checkpointing)  # in evaluation nothing is recomputed
        with step("scoring the modules' saliency on the forget set"):
            backward()
        model.train(was_training)
        scores: dict[str, float] = {}
        for name, linear in linears:
            gradient = linear.weight.grad
            if gradient is None:  # behind the layer that the loss reads
                gradient = torch.zeros_like(linear.weight)
            blocks, dim = self._blocks(model, name, linear)
            norms = block_norms(whole(gradient), blocks, dim).tolist()
            scores |= {name: norms[0]} if blocks == 1 else {f"{name}:{i}": norm for i, norm in enumerate(norms)}
        model.zero_grad(set_to_none=True)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        if not 0 < sum(scores.values()) < math.inf:
            raise InputError(
                "the forget loss has no gradient at the start, or none that is finite: no module is salient",
                given=sum(scores.values()),
                remedy="A hinge is flat where the model is the target: give it to model.hinge, not model.forget",
            )
        return SaliencyMap(scores, saliency_threshold(scores, self.percentile))

    def masks(self, model: PreTrainedModel, found: SaliencyMap) -> dict[Tensor, Tensor]:
        """Train the salient modules only.

        Returns:
            weights of which only some heads are salient → mask of 0 and 1 that spreads over the weight: [rows, 1]
            or [1, columns].
        """
        model.requires_grad_(False)
        masks: dict[Tensor, Tensor] = {}
        for name, linear in quantized_linears(model):
            blocks, dim = self._blocks(model, name, linear)
            names = [name] if blocks == 1 else [f"{name}:{block}" for block in range(blocks)]
            chosen = [found.is_salient(module) for module in names]
            linear.weight.requires_grad_(any(chosen))
            if any(chosen) and not all(chosen):
                mask = torch.tensor(chosen, device=linear.weight.device).repeat_interleave(
                    linear.weight.shape[dim] // blocks
                )
                masks[linear.weight] = spread_like(mask.unsqueeze(1 - dim).to(linear.weight.dtype), linear.weight)
        return masks

    def _blocks(self, model: PreTrainedModel, name: str, linear: nn.Linear) -> tuple[int, int]:
        """How many blocks a projection has, and along which dimension."""
        last = name.rpartition(".")[2]
        if self.granularity == "module" or last not in (*HEADS_BY_ROW, *HEADS_BY_COLUMN):
            return 1, 0
        config = model.config.get_text_config()
        query_heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // query_heads
        dim = 0 if last in HEADS_BY_ROW else 1
        return linear.weight.shape[dim] // head_width, dim


def saliency_table(found: SaliencyMap) -> str:
    """One line a decoder layer: each projection's score, salient ones starred."""
    rows: dict[str, dict[str, str]] = {}
    for module, score in found.scores.items():
        layer, projection = _place(module)
        star = "*" if found.is_salient(module) else " "
        rows.setdefault(layer, {})[projection] = f"{score:.2e}{star}"
    columns = list(dict.fromkeys(projection for row in rows.values() for projection in row))
    widths = [max(10, len(column)) for column in columns]
    lines = [_line("layer", columns, widths)]
    lines += [_line(layer, [row.get(column, "") for column in columns], widths) for layer, row in rows.items()]
    lines.append(f"* salient: score ≥ {found.threshold:.2e}, {len(found.salient)} of {len(found.scores)} modules")
    return "\n".join(lines)


def write_saliency(found: SaliencyMap, folder: Path) -> None:
    """Write scores and threshold to ``saliency.json`` in a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = {"threshold": found.threshold, "scores": found.scores}
    (folder / "saliency.json").write_text(json.dumps(saved, indent=2) + "\n", "utf-8")


def _place(module: str) -> tuple[str, str]:
    """``model.layers.3.self_attn.q_proj:2`` → ("3", "q_proj:2")."""
    parts = module.split(".")
    numbers = [part for part in parts if part.isdigit()]
    return (numbers[0] if numbers else "–"), parts[-1]


def _line(first: str, cells: Iterable[str], widths: Iterable[int]) -> str:
    return f"{first:>5}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
