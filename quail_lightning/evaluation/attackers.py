"""What the attackers among the precisions have, and which models they cannot attack."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quail_lightning.attacks import Texts, chain_problems, described_chain
from quail_lightning.data.calibration import general_windows
from quail_lightning.errors import InputError
from quail_lightning.evaluation.precision import Precision, attacked_names
from quail_lightning.inference.encoding import positions
from quail_lightning.models.empty import empty_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LENGTH = 512  # tokens of a window of general text, where no window of the corpus says how long one is


def attack_texts(
    precisions: Collection[Precision], sets: Mapping[str, Tensor], tokenizer: Any, config: PreTrainedConfig
) -> dict[str, Tensor]:
    """The windows that the attacks of some precisions train on; whatever is in their way is refused here.

    Args:
        precisions: with their attacks.
        sets: ``forget`` and ``retain`` → all their windows, [n, time].
        tokenizer: the model's, which cuts the general text.
        config: the model's.

    Raises:
        InputError: text that is missing, or an architecture that cannot be attacked like this; all at once.
    """
    chains = dict.fromkeys(each.attacks for each in precisions if each.attacks)
    read = {name for chain in chains for each in chain for name in each.attack.reads}
    texts = {name: sets[name] for name in sorted(read) if name in sets}
    if "general" in read:
        longest = min(LENGTH, positions(config) or LENGTH)
        length = max((windows.shape[1] for windows in sets.values()), default=longest)
        texts["general"] = general_windows(tokenizer, length)
    if chains:
        model = empty_model(config, torch.bfloat16)
        problems = dict.fromkeys(problem for chain in chains for problem in chain_problems(chain, model, texts))
        if problems:
            raise InputError(
                "the model cannot be attacked like this: " + " ".join(problems),
                given=", ".join(sorted(attacked_names(precisions))),
                remedy="Leave these attacks out, or name the text (--corpus, --data)",
            )
    return texts


def refuse_sharded(precisions: Collection[Precision]) -> None:
    """Refuse attacks where the model lies in shards.

    Raises:
        InputError: naming the precisions.
    """
    if attacked := attacked_names(precisions):
        raise InputError(
            "attacks are made on a whole model, and the evaluation is sharded",
            given=", ".join(sorted(attacked)),
            remedy="Leave them out and run `quail evaluate` on the saved model where it fits a device",
        )


def described_attacks(precisions: Collection[Precision], texts: Texts) -> dict[str, list[dict[str, Any]]]:
    """Precision → what decides its attacks, fit for JSON; of those that come after one."""
    return {each.name: described_chain(each.attacks, texts) for each in precisions if each.attacks}


def attack_bits(precisions: Collection[Precision]) -> int:
    """Bits a weight that the costliest attack takes beside the model; 0 where there is none."""
    return max((step.attack.bits_in_memory for each in precisions for step in each.attacks), default=0)
