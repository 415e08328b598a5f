"""What may be done to a model after it was deployed, each step as a copy maker beside the quantizers."""

from quail_lightning.attacks.checks import Chain, attacked, chain_problems, described_chain
from quail_lightning.attacks.named import available_attacks, load_attack
from quail_lightning.attacks.protocol import Attack, NamedAttack, Texts
from quail_lightning.attacks.pruning import Prune
from quail_lightning.attacks.relearning import Relearn

__all__ = [
    "Attack",
    "Chain",
    "NamedAttack",
    "Prune",
    "Relearn",
    "Texts",
    "attacked",
    "available_attacks",
    "chain_problems",
    "described_chain",
    "load_attack",
]
