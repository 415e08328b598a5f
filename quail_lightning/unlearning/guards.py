"""Ends a run with non-finite losses or gradients, or one whose memory is short, and says what to change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from quail_lightning.data.batch import ForgetRetainBatch
from quail_lightning.errors import RunError
from quail_lightning.functional.chunked import chunk_tokens
from quail_lightning.run.out_of_memory import first_line, is_out_of_memory
from quail_lightning.run.processes import current_processes
from quail_lightning.unlearning.fitting import MemoryOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class Pass(NamedTuple):
    """What one forward pass of a step gave.

    Attributes:
        side: ``forget`` or ``retain``.
        windows: [n] their numbers.
        losses: term → its mean.
    """

    side: str
    windows: Tensor
    losses: Mapping[str, Tensor]


def check_losses(summed: Iterable[Tensor], made: Sequence[Pass], trainer: Trainer) -> None:
    """See that a step's losses are finite, before anything is done with its gradients; waits for the device.

    One rank's non-finite loss makes the sum non-finite, which all have: so all raise, none waits for another,
    and no step pays for a question of its own.

    Args:
        summed: each term's loss, of all processes.
        made: this rank's passes.
        trainer: knows the step.

    Raises:
        RunError: on every process, naming the step and everyone's windows and terms; the weights are as before it.
    """
    if torch.stack([value.float() for value in summed]).isfinite().all():
        return
    own = [named for one in made if (named := _non_finite(one))]
    everyone = [named for part in current_processes().gather(own) for named in part]
    raise RunError(
        f"a loss is not finite in {_place(trainer)}, {'; '.join(dict.fromkeys(everyone))}", remedy=_REMEDY
    )


def check_gradient(norm: Tensor, norm_name: str, trainer: Trainer) -> None:
    """See that an optimizer step leaves the weights finite; waits for the device.

    Args:
        norm: of the whole gradient, before clipping.
        norm_name: names the step's side, as it is logged.
        trainer: knows the step.

    Raises:
        RunError: it is not finite.
    """
    if not norm.isfinite():
        raise RunError(
            f"the gradient is not finite in {_place(trainer)} ({norm_name} = {float(norm)}), but every loss is",
            remedy=_REMEDY,
        )


@contextmanager
def explained_memory(
    options: MemoryOptions, config: PreTrainedConfig, batch: ForgetRetainBatch, trainer: Trainer
) -> Iterator[None]:
    """Around a training step: when memory is short, the error says which options make it need less.

    Args:
        options: of the module.
        config: of the model.
        batch: of the step.
        trainer: knows the step and the device.

    Raises:
        RunError: memory is short.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(options, config.get_text_config(), batch, trainer, error) from error


_REMEDY = (
    "Lower model.learning_rate or model.clip_norm, or take a forget term that is bounded (NPO in place of "
    "gradient ascent). --ckpt_path goes on from a checkpoint written before"
)


def _non_finite(made: Pass) -> str | None:
    numbers = {name: float(value) for name, value in made.losses.items()}
    broken = [f"{name} = {number}" for name, number in numbers.items() if not math.isfinite(number)]
    return f"on the {made.side} windows {made.windows.tolist()}: {', '.join(broken)}" if broken else None


def _place(trainer: Trainer) -> str:
    return f"step {trainer.fit_loop.total_batch_idx + 1} (epoch {trainer.current_epoch + 1})"


def _out_of_memory(
    options: MemoryOptions,
    text: PreTrainedConfig,
    batch: ForgetRetainBatch,
    trainer: Trainer,
    error: BaseException,
) -> RunError:
    windows, *_, length = next(side.input_ids.shape for side in batch if side is not None)
    together = min(windows, options.micro_batch_size or windows)
    device = trainer.strategy.root_device.type
    tokens = together * (length - 1)
    chunk = min(options.loss_chunk or chunk_tokens(text.vocab_size, text.hidden_size, device), tokens)
    remedies = []
    if together > 1:
        remedies.append(f"model.micro_batch_size: {together // 2} (smaller passes, the same gradient)")
    if not options.gradient_checkpointing:
        remedies.append("model.gradient_checkpointing: true (activations are computed again)")
    if chunk > 1:
        remedies.append(f"model.loss_chunk: {chunk // 2} (tokens whose logits are held at once; the same losses)")
    remedies.append(f"data.max_len: less than {length}")
    if options.takes_16_bits and (options.weight_precision, options.adam_states) != ("bf16-stochastic", "8bit"):
        remedies.append("model.weight_precision: bf16-stochastic, model.adam_states: 8bit (6 bytes a parameter)")
    remedies.append("more devices (FSDP2)")
    return RunError(
        f"memory is short in {_place(trainer)}, with passes of {together} windows of {length} tokens, "
        f"gradient checkpointing {'on' if options.gradient_checkpointing else 'off'} and the head's logits in "
        f"chunks of {chunk} tokens ({chunk * text.vocab_size * 4 / 2**20:.0f} MiB): "
        f"{first_line(error)}",
        remedy="Change, in this order: " + "; ".join(remedies),
    )
