"""Measure a hinge's step: the error that a quantizer makes on the target's own outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.window_records import spread
from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.functional.token_likelihood import IGNORED, counted
from quail_lightning.models.activations import decoder_layers, output_head
from quail_lightning.objectives import LayerHinge, LogitHinge, MeasuredStep, Term
from quail_lightning.quantization import load_quantizer
from quail_lightning.unlearning.losses import Forward, named_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BINS = 4096  # of the histogram of log2(error); a quantile is exact to 2^(40/4096), 0.7 %
LOWEST, HIGHEST = -24.0, 16.0  # log2 of the errors that it tells apart


def measure_steps(
    term: Term,
    target: PreTrainedModel,
    windows: Tensor,
    forward: Forward,
    dtype: torch.dtype,
    batch_size: int,
    tokenizer: Any = None,
) -> dict[str, float]:
    """Replace a hinge's ``MeasuredStep`` by what is measured; nothing happens to other terms.

    Args:
        term: changed in place.
        target: on the training device; unchanged.
        windows: [n, time] of the forget set; masked tokens do not count.
        forward: the training step's.
        dtype: of the head's product.
        batch_size: windows a forward pass.
        tokenizer: the target's, for precisions that are calibrated: on the general text, never on the forget set.

    Returns:
        what was measured, by name; it is printed as well.
    """
    how = getattr(term, "step", None)
    if not isinstance(how, MeasuredStep):
        return {}
    quantizer, calibration = load_quantizer(how.precision), None
    if quantizer.needs_calibration:
        positions = getattr(target.config.get_text_config(), "max_position_embeddings", None)
        calibration = calibration_tokens(CalibrationRequest(), tokenizer, positions)
    quantized = quantizer.quantize(target, calibration)
    chosen = spread(windows, how.max_windows)
    if isinstance(term, LayerHinge):
        layers = named_layers(term, len(decoder_layers(target)))
        errors = _layer_errors((target, quantized), chosen, tuple(layers.values()), forward, batch_size)
        term.measured = {layer: 2 * errors[number].quantile(how.quantile) for layer, number in layers.items()}
        measured = {f"layer {layer}": step for layer, step in term.measured.items()}
    else:
        assert isinstance(term, LogitHinge)
        error = _logit_errors((target, quantized), chosen, forward, dtype, batch_size)
        term.step = 2 * error.quantile(how.quantile)
        measured = {"logits": term.step}
    for name, step in measured.items():
        rank_zero_info(f"measured step of the hinge, {name}: {step:.4g}")
    return measured


class _Errors:
    """A histogram of errors on a logarithmic scale, so that no list of all of them is kept."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def add(self, error: Tensor) -> None:
        places = error.float().abs().clamp(min=2**LOWEST).log2().clamp(max=HIGHEST)
        self.counts += torch.histc(places, BINS, LOWEST, HIGHEST).double().cpu()

    def quantile(self, share: float) -> float:
        reached = torch.searchsorted(self.counts.cumsum(0), share * self.counts.sum())
        upper_edge = LOWEST + (HIGHEST - LOWEST) * (int(reached) + 1) / BINS
        return float(2**upper_edge)


def _logit_errors(
    models: tuple[PreTrainedModel, PreTrainedModel],
    windows: Tensor,
    forward: Forward,
    dtype: torch.dtype,
    batch_size: int,
) -> _Errors:
    errors = _Errors()
    heads = [output_head(model).cast(dtype) for model in models]

    def difference(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        assert reference is not None
        errors.add((logits - reference)[labels != IGNORED])
        return labels

    for chosen in windows.split(batch_size):
        with torch.no_grad():
            chosen = chosen.to(models[0].device)
            states, quantized = (forward(model, token_numbers(chosen)).final[:, :-1] for model in models)
            flat = quantized.flatten(0, 1)
            head_terms(
                states,
                labels_of(chosen)[:, 1:],
                heads[0],
                [difference],
                lambda rows, flat=flat: heads[1].logits(flat[rows]),  # type: ignore[misc]
            )
    return errors


def _layer_errors(
    models: tuple[PreTrainedModel, PreTrainedModel],
    windows: Tensor,
    layers: tuple[int, ...],
    forward: Forward,
    batch_size: int,
) -> dict[int, _Errors]:
    errors = {layer: _Errors() for layer in layers}
    for chosen in windows.split(batch_size):
        with torch.no_grad():
            chosen = chosen.to(models[0].device)
            states, quantized = (forward(model, token_numbers(chosen), layers).layers for model in models)
            real = counted(labels_of(chosen)[:, 1:], "positions")
            for layer, error in errors.items():
                error.add((states[layer] - quantized[layer])[real])
    return errors
