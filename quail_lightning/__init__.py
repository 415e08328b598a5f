"""Machine unlearning that survives quantization, as a PyTorch Lightning application.

What a program of one's own needs is here; each name is imported when it is first asked for, so that importing the
package itself loads neither torch nor Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quail_lightning.commands.alternates import WrittenAlternates, alternates
    from quail_lightning.commands.analyze import Analysis, analyze
    from quail_lightning.commands.convert import convert
    from quail_lightning.commands.evaluate import Evaluation, evaluate
    from quail_lightning.commands.harden import HardenedModel, harden
    from quail_lightning.commands.quantize import quantize
    from quail_lightning.data import MuseDataModule, OwnTextDataModule
    from quail_lightning.data.calibration import CalibrationRequest
    from quail_lightning.evaluation.serving import VllmOptions
    from quail_lightning.models.checkpoint import load_model
    from quail_lightning.objectives import (
        GradientAscent,
        GradientDescent,
        InvertedHinge,
        KLRetention,
        LayerHinge,
        LogitHinge,
        MeasuredStep,
        Misdirection,
        NegativePreference,
        RepresentationRetention,
    )
    from quail_lightning.unlearning import UnlearningModule

    __version__: str

_HOMES = {
    "WrittenAlternates": "commands.alternates",
    "alternates": "commands.alternates",
    "Analysis": "commands.analyze",
    "analyze": "commands.analyze",
    "convert": "commands.convert",
    "Evaluation": "commands.evaluate",
    "evaluate": "commands.evaluate",
    "HardenedModel": "commands.harden",
    "harden": "commands.harden",
    "quantize": "commands.quantize",
    "CalibrationRequest": "data.calibration",
    "VllmOptions": "evaluation.serving",
    "load_model": "models.checkpoint",
    "MuseDataModule": "data",
    "OwnTextDataModule": "data",
    "UnlearningModule": "unlearning",
}
_HOMES |= dict.fromkeys(
    (
        "GradientAscent",
        "GradientDescent",
        "InvertedHinge",
        "KLRetention",
        "LayerHinge",
        "LogitHinge",
        "MeasuredStep",
        "Misdirection",
        "NegativePreference",
        "RepresentationRetention",
    ),
    "objectives",
)

__all__ = [
    "Analysis",
    "CalibrationRequest",
    "Evaluation",
    "GradientAscent",
    "GradientDescent",
    "HardenedModel",
    "InvertedHinge",
    "KLRetention",
    "LayerHinge",
    "LogitHinge",
    "MeasuredStep",
    "Misdirection",
    "MuseDataModule",
    "NegativePreference",
    "OwnTextDataModule",
    "RepresentationRetention",
    "UnlearningModule",
    "VllmOptions",
    "WrittenAlternates",
    "__version__",
    "alternates",
    "analyze",
    "convert",
    "evaluate",
    "harden",
    "load_model",
    "quantize",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("quail-lightning")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
