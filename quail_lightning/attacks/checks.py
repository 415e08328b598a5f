"""A chain of attacks: refused before a weight is loaded, described for keys, carried out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quail_lightning.attacks.protocol import NamedAttack, PreTrainedModel, Texts
from quail_lightning.errors import InputError

if TYPE_CHECKING:
    from quail_lightning.attacks.protocol import Progress

Chain = tuple[NamedAttack, ...]


def chain_problems(chain: Chain, model: PreTrainedModel, texts: Texts) -> list[str]:
    """Why a model cannot be attacked by a chain; empty where it can.

    Args:
        chain: in the order in which the attacks are made.
        model: may lie on the meta device.
        texts: what the attacker has.
    """
    found = []
    for each in chain:
        try:
            each.attack.targets(model)
        except InputError as problem:
            found.append(f"{each.name}: {problem}")
        if missing := [name for name in each.attack.reads if not len(texts.get(name, ()))]:
            found.append(f"{each.name}: there is no {' and no '.join(missing)} text to train on.")
    return found


def described_chain(chain: Chain, texts: Texts) -> list[dict[str, Any]]:
    """Everything that decides an attacked copy beside the model, fit for JSON; names decide nothing."""
    return [
        {
            "settings": dict(each.settings),
            "version": each.attack.version,
            "texts": {
                name: hashlib.sha256(texts[name].contiguous().numpy().tobytes()).hexdigest()
                for name in each.attack.reads
            },
        }
        for each in chain
    ]


def attacked(
    chain: Sequence[NamedAttack],
    model: PreTrainedModel,
    texts: Texts,
    progress: Callable[[str], Progress] | None = None,
) -> PreTrainedModel:
    """A copy that went through all attacks in turn; the model itself where there is none.

    Args:
        chain: in the order in which they are made.
        model: whole; unchanged.
        texts: see ``Texts``.
        progress: an attack's name → what is told of its steps.
    """
    for each in chain:
        model = each.attack.attack(model, texts, None if progress is None else progress(each.name))
    return model
