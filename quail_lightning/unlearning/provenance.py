"""What made a model, for the file beside its weights."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from quail_lightning.conversion.gguf_conversion import converted_from
from quail_lightning.data.protocol import TextData
from quail_lightning.data.text_digests import TEXTS, text_digests
from quail_lightning.models.checkpoint import weights_digest
from quail_lightning.objectives import Term
from quail_lightning.unlearning.perturbation import Perturbation

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

RECORDED_PACKAGES = ("quail-lightning", "torch", "transformers", "lightning")


def sources(target: str, start: str | None, data: TextData) -> dict[str, Any]:
    """Digests of what a model is made from: the target's weights, those of another start, and the texts.

    Raises:
        InputError: a weight file is missing or not what was saved, or a text cannot be read.
    """
    return {
        "target_sha256": weights_digest(target),
        "target_converted_from": converted_from(target),
        "start_sha256": None if start in (None, target) else weights_digest(start),
        TEXTS: text_digests(data),
    }


def description(module: UnlearningModule) -> dict[str, Any]:
    """What made a module's model, for the provenance beside the saved weights; ``sources`` once it is fitted."""
    terms = {"forget": module.forget, "retain": module.retain, "hinge": module.hinge}
    plain = (
        "target start schedule learning_rate weight_decay betas clip_norm weight_precision adam_states "
        "sophia sam dual trainable adapter saliency adversary generic_labels task_vector ridge_edit stop "
        "retrained measured_steps"
    )
    return {
        "made_by": "quail fit",
        "terms": {name: described_term(term) for name, term in terms.items() if term is not None},
        "weights": module.weights._asdict(),
        "perturbation": None if module.perturbation is None else described_term(module.perturbation),
        "dual_value": None if module.multiplier is None else module.multiplier.value,
        "optimizer": "AdamW" if module.sophia is None else "Sophia-G",
        **{name: getattr(module, name) for name in plain.split()},
        "salient_modules": None if module.saliency_map is None else module.saliency_map.salient,
        "export_dtype": str(module.export_dtype),
        "export_rounding": module.export_cast.rounding,
        "export_seed": module.export_cast.seed,
        "versions": package_versions(),
        **module.sources,
    }


def described_term(term: Term | Perturbation) -> dict[str, Any]:
    """A term's or perturbation's class and arguments, for the provenance."""
    arguments = {name: value for name, value in vars(term).items() if not name.startswith("_")}
    return {"class": type(term).__qualname__} | arguments


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the arithmetic."""
    return {name: version(name) for name in RECORDED_PACKAGES}
