"""What a method is called where runs are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule


def method_name(
    forget: type,
    retain: type | None,
    hinge: type | None,
    *,
    form: str = "hinge",
    extras: dict[str, Any],
) -> str:
    """The names of the terms, joined: ``ga_gdr``, ``npo_klr_quail``, ``quail_smooth``, ``ga_gdr_sure``, ``whp``.

    Args:
        forget: class of the forget term.
        retain: class of the retain term, or None.
        hinge: class of the hinge, or None. GA_GDR with it is QUAIL itself.
        form: of the hinge.
        extras: options that make another method of the same terms, of which some may be None: ``refusals``,
            ``generic_labels``, ``task_vector``, ``adversary``, ``saliency``.
    """
    special = {"refusals": "rt", "generic_labels": "whp", "task_vector": "task_vector"}
    name = next((short for option, short in special.items() if extras.get(option) is not None), "")
    name = name or "_".join(filter(None, map(_short, filter(None, (forget, retain)))))
    if extras.get("adversary") is not None:
        name += "_lat"
    if hinge is not None:
        hinged = _short(hinge) + ("" if form == "hinge" else f"_{form}")
        name = hinged if name == "ga_gdr" else f"{name}_{hinged}"
    return name + ("_sure" if extras.get("saliency") is not None else "")


def _short(term: type) -> str:
    short = getattr(term, "short", None)
    return term.__name__ if short is None else str(short)


def method_of(module: UnlearningModule, data: Any) -> str:
    """The name of what a module does on a corpus."""
    extras = {name: getattr(module, name) for name in ("generic_labels", "task_vector", "adversary", "saliency")}
    retain, hinge = (None if term is None else type(term) for term in (module.retain, module.hinge))
    form = str(getattr(module.hinge, "form", "hinge"))
    extras["refusals"] = getattr(data, "refusals", None)
    return method_name(type(module.forget), retain, hinge, form=form, extras=extras)
