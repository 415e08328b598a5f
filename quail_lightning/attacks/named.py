"""An attack's name is the stem of a file below ``configs/attack``."""

from __future__ import annotations

from pathlib import Path

from quail_lightning.attacks.protocol import Attack, NamedAttack
from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.configuration.instances import instance_of
from quail_lightning.errors import InputError


def available_attacks() -> list[str]:
    """Names that ``load_attack`` takes: the shipped ones and those below ``configs/attack`` here."""
    own = [path.stem for path in Path("configs/attack").glob("*.yaml")]
    return sorted({*own, *(Path(name).stem for name in shipped_names("attack"))})


def load_attack(name: str) -> NamedAttack:
    """The attack ``prune30``, ``relearn100``, ...

    Args:
        name: stem of ``configs/attack/<name>.yaml``, which holds ``class_path`` and ``init_args``.

    Raises:
        InputError: no such attack, or a file that describes none.
    """
    if name not in available_attacks():
        raise InputError(
            "no such attack",
            given=name,
            allowed=", ".join(available_attacks()),
            remedy=f"Or write configs/attack/{name}.yaml",
        )
    path = find_config(f"attack/{name}.yaml")
    attack: Attack = instance_of(path, Attack, "an attack")
    return NamedAttack(name, attack, read_yaml(path))
