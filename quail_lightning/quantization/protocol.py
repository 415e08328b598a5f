"""What every quantizer promises."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from quail_lightning.models.sharded import is_sharded

# The quantizers take the type from here, not from a TYPE_CHECKING block of their own: jsonargparse executes such
# blocks where it reads a constructor, and importing transformers takes seconds.
if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel
else:
    PreTrainedModel = nn.Module


Bounds = tuple[float, float]
"""Smallest and largest value."""


@runtime_checkable
class Quantizer(Protocol):
    """Makes the model as it will be deployed, to be evaluated in place of the 16-bit one.

    The contract, kept for all of them by ``tests/contracts/test_quantizers.py``: the input is unchanged bit for
    bit and shares no memory with the copy; only matrices of the language model's body are quantized
    (``targets``; GGUF's, as its files hold them, quantize embedding and head too; AWQ and SmoothQuant also move
    a factor of each channel from a linear layer into the norm or layer before it, which stays in full precision);
    the same input and calibration give the same copy; torch's, Python's and numpy's random states are as before.
    """

    @property
    def bits(self) -> int:
        """Bits of one quantized weight, without its share of the scales."""

    @property
    def granularity(self) -> str:
        """How many weights share a scale: ``tensor``, ``channel``, ``group``, …"""

    @property
    def needs_calibration(self) -> bool:
        """Whether ``quantize`` must be given calibration tokens."""

    @property
    def simulated(self) -> bool:
        """Whether the copy holds dequantized weights in the model's own dtype, at full size."""

    @property
    def stored_bits(self) -> int:
        """Bits that a quantized weight takes in the copy, without its share of the scales; 16 where simulated."""

    @property
    def backend(self) -> str:
        """The package that makes the copy."""

    def targets(self, model: PreTrainedModel) -> list[str]:
        """Names of the parameters that ``quantize`` quantizes.

        Args:
            model: its shapes alone are read, so that it may lie on the meta device: what the architecture decides
                is refused before any weight is loaded (``check_quantizers``).

        Raises:
            InputError: the architecture cannot be quantized this way.
        """

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """A quantized copy on the model's device, in its dtype and its train or eval mode.

        Args:
            model: a Hugging Face model in a floating dtype. It is evaluated as it is given: cast float32 masters
                to the export dtype first.
            calibration: [windows, time] token ids, for the quantizers that look at activations
                (``needs_calibration``); the others ignore it.

        Raises:
            InputError: the model cannot be quantized this way (no linear layers, NaN, sizes that do not divide),
                or calibration tokens are needed and missing.
        """


@runtime_checkable
class QuantizesShards(Protocol):
    """A quantizer that needs no whole model: it takes the weights one at a time from where they lie."""

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """The copy that ``quantize`` makes of the whole model, of a sharded one; all processes must call.

        No process ever holds more of the model in its own dtype than its share, one weight, and what is not
        quantized (embeddings, norms, head). A format that saves memory gives a whole copy on each device, one that
        is simulated a sharded one.

        Args:
            model: sharded, in the export dtype; unchanged.

        Raises:
            InputError: see ``Quantizer.quantize``.
        """


@runtime_checkable
class Unpacks(Protocol):
    """A quantizer whose copy is packed until its first forward pass, and from there as large as the model."""

    unpacks: bool


@runtime_checkable
class WritesFile(Protocol):
    """A quantizer whose format is a file of another program: the copy is what that program has, dequantized."""

    @property
    def suffix(self) -> str:
        """Of the file's name."""

    def file_bytes(self, model: PreTrainedModel) -> int:
        """What the weights take in the file; the model may be on the meta device."""

    def check_file(self, model: PreTrainedModel, tokenizer: Any) -> str:
        """Refuse what the program cannot run, before a weight is loaded.

        Args:
            model: may be on the meta device.
            tokenizer: of transformers.

        Returns:
            a sentence about what the program does otherwise; empty where there is nothing.

        Raises:
            InputError: naming it.
        """

    def file_tensors(self, model: PreTrainedModel) -> Mapping[str, int]:
        """Type of tensors → how many the file holds; the model may be on the meta device."""

    def write_file(
        self, model: PreTrainedModel, tokenizer: Any, path: Path, provenance: Mapping[str, Any]
    ) -> None:
        """Write a whole model.

        Args:
            model: as ``quantize`` takes it.
            tokenizer: of transformers.
            path: of the file; what is there is overwritten.
            provenance: noted in the file.

        Raises:
            InputError: see ``Quantizer.quantize`` and ``check_file``.
        """


@runtime_checkable
class Remarks(Protocol):
    """A quantizer that treats some weights otherwise than its name says."""

    def remark(self, model: PreTrainedModel) -> str:
        """A sentence without full stop about which, and why; empty where there is nothing to say.

        Args:
            model: may be on the meta device.

        Raises:
            InputError: see ``Quantizer.targets``.
        """


class Fitted(Protocol):
    """A format fitted to a weight: a ``Grid``, a ``ScaledCode``."""

    def index(self, weight: Tensor) -> Tensor:
        """The bucket of every weight."""

    def zero(self) -> Tensor:
        """[blocks] the bucket of the weight 0 in each block of consecutive weights; [1] of all blocks alike."""

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for."""

    def width(self, index: Tensor) -> Tensor:
        """Δ of each weight's own bucket."""


class Buckets(Protocol):
    """The levels of a quantizer, where they follow from the weights alone: what ``quail analyze`` compares by."""

    def unit(self, inputs: int) -> int:
        """Pieces of a weight [outputs, inputs] must be a multiple of so many values long."""

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Weights that the quantizer would refuse, each with its reason in brackets."""

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> Fitted:
        """Fit to a piece of a weight.

        Args:
            weight: [n] float32.
            inputs: length of a row.
            of_tensor: smallest and largest value of the whole tensor, or of all that share a range with it
                (``SharesRanges``).
            of_model: of all quantized weights.
        """


@runtime_checkable
class SharesRanges(Protocol):
    """Buckets whose step in one weight depends on the range of others."""

    def together(self, names: Collection[str]) -> list[tuple[str, ...]]:
        """Groups of weights that share a range; a weight in none of them has its own.

        Args:
            names: of all quantized weights.
        """


@runtime_checkable
class MixedBuckets(Protocol):
    """Levels that depend on which weight it is: a mixture of formats."""

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """See ``Buckets``."""

    def of_each(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Buckets]:
        """The levels of every weight.

        Args:
            shapes: of all the model's quantized weights, by their names; none that ``misfits`` names.
        """


@runtime_checkable
class HasBuckets(Protocol):
    """A quantizer whose levels may follow from the weights alone."""

    def buckets(self) -> Buckets | MixedBuckets | None:
        """Its levels; None where they depend on more in this setting."""


def quantized_copy(
    quantizer: Quantizer, model: PreTrainedModel, calibration: Tensor | None = None
) -> PreTrainedModel:
    """A model's quantized copy, however the model lies on the devices; of a sharded one all processes must call.

    Args:
        quantizer: of a sharded model one that ``QuantizesShards``.
        model: see ``Quantizer.quantize``.
        calibration: likewise.

    Raises:
        InputError: likewise.
    """
    if not is_sharded(model):
        return quantizer.quantize(model, calibration)
    assert isinstance(quantizer, QuantizesShards)
    return quantizer.quantize_shards(model)
