"""What a method is called where runs are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quail_lightning.data.protocol import UnlearningData
    from quail_lightning.unlearning.module import UnlearningModule


SPECIAL = {"refusals": "rt", "generic_labels": "whp", "task_vector": "task_vector"}
"""Option that makes another method of the same terms → that method."""

ADDED = {
    "saliency": "sure",
    "dual": "dual",
    "sam": "sam",
    "sophia": "sophia",
    "adapter": "lora",
    "ridge_edit": "ridge",
}
"""Option that is added to any method → what its name ends with."""

EXTRAS = (*SPECIAL, "adversary", "alternates", "perturbation", *ADDED)


def method_name(forget: type, retain: type, hinge: type, *, form: str = "hinge", extras: Mapping[str, Any]) -> str:
    """The names of the terms, joined: ``ga_gdr``, ``npo_klr_quail``, ``ga_gdr_sure``, ``npo_lora``, ``whp``.

    Args:
        forget: class of the forget term.
        retain: class of the retain term; NoneType where there is none.
        hinge: class of the hinge, likewise. GA_GDR with it is QUAIL itself.
        form: of the hinge.
        extras: the options ``EXTRAS``, by name; those that are absent are None.
    """
    name = next((short for option, short in SPECIAL.items() if extras.get(option) is not None), "")
    name = name or "_".join(filter(None, (_short(forget), _short(retain))))
    if extras.get("alternates") == "idk":
        name = f"idk{name}"
    if extras.get("adversary") is not None:
        name += "_lat"
    if hinged := _short(hinge):
        hinged += "" if form == "hinge" else f"_{form}"
        name = hinged if name == "ga_gdr" else f"{name}_{hinged}"
    added = [short for option, short in ADDED.items() if extras.get(option) is not None]
    return "_".join([name, *added, *filter(None, [_short(type(extras.get("perturbation")))])])


def _short(term: type) -> str:
    return "" if term is type(None) else str(getattr(term, "short", term.__name__))


def method_of(module: UnlearningModule, data: UnlearningData) -> str:
    """The name of what a module does on a corpus."""
    extras = {name: getattr(module, name, getattr(data, name, None)) for name in EXTRAS}
    form = str(getattr(module.hinge, "form", "hinge"))
    return method_name(type(module.forget), type(module.retain), type(module.hinge), form=form, extras=extras)
