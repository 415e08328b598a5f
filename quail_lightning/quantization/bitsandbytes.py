"""NF4, FP4 and int8 of the bitsandbytes library, made in memory; runs on CPUs and GPUs."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.functional.finite import is_finite
from quail_lightning.models.empty import empty_model
from quail_lightning.models.sharded import whole
from quail_lightning.models.sharded_loading import restore_buffers
from quail_lightning.quantization.body import copy_unconverted, refuse_broken
from quail_lightning.quantization.body_weights import dense_names
from quail_lightning.quantization.buckets import CodeBuckets
from quail_lightning.quantization.protocol import PreTrainedModel

CPU_ROWS = 32  # of a 4-bit weight, packed together


class BitsAndBytes:
    """Real bitsandbytes layers in a copy of the model.

    ``nf4`` and ``fp4``: 4-bit code books; 64 weights consecutive in memory share their largest magnitude as
    scale (QLoRA, Dettmers et al. 2023); the layers compute in the model's dtype. ``int8``: LLM.int8() (Dettmers
    et al. 2022), one scale an output row; weights, and activations at every product, pass through float16
    first, on CPUs too.

    Args:
        format: the library's own default is FP4, so the 4-bit type is always named.
        double_quantization: quantize the 4-bit scales as well (QLoRA section 3).
        outlier_threshold: activation magnitude above which int8 computes a column in 16 bits; 6.0 unless given.

    Raises:
        InputError: an option of the other format, or a package that is not installed.
    """

    def __init__(
        self,
        format: Literal["nf4", "fp4", "int8"],
        double_quantization: bool = False,
        outlier_threshold: float | None = None,
    ) -> None:
        if format == "int8" and double_quantization:
            raise InputError("double_quantization is an option of nf4 and fp4", given=format)
        if format != "int8" and outlier_threshold is not None:
            raise InputError("outlier_threshold is an option of int8", given=format)
        missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(
                f"format {format!r} needs {' and '.join(missing)}, not installed here",
                remedy=f"Run: pip install {' '.join(missing)}",
            )
        self.format = format
        self.double_quantization = double_quantization
        self.outlier_threshold = outlier_threshold

    needs_calibration = False
    simulated = False
    backend = "bitsandbytes"

    def buckets(self) -> CodeBuckets | None:
        """See ``HasBuckets``; those of int8 depend on the activations as well."""
        return None if self.format == "int8" else CodeBuckets(self.format)

    @property
    def stored_bits(self) -> int:
        """As ``bits``."""
        return self.bits

    @property
    def bits(self) -> int:
        """8 for int8, else 4."""
        return 8 if self.format == "int8" else 4

    @property
    def granularity(self) -> str:
        """``channel`` (output row) for int8, else ``block64``: 64 weights consecutive in memory."""
        return "channel" if self.format == "int8" else "block64"

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``: linear and Conv1D layers; stacked experts stay in 16 bits."""
        if any("Mamba" in type(module).__name__ for module in model.modules()):
            raise InputError(
                f"{type(model).__name__} has state-space mixers, which read weights past bitsandbytes' layers",
                remedy="Use a uniform grid (uniform4-channel)",
            )
        return dense_names(model)

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        weights = self.targets(model)
        refuse_broken([name for name in weights if not is_finite(model.get_parameter(name).detach())])
        names = {name.removesuffix(".weight") for name in weights}
        full_precision = _others(model, names)
        with _quiet():
            quantized: PreTrainedModel = type(model).from_pretrained(
                None,
                config=copy.deepcopy(model.config),
                state_dict=model.state_dict(),
                quantization_config=self._config(model, full_precision),
                dtype=model.dtype,
                device_map={"": str(model.device)},
            )
        self._refuse_others(quantized, names)
        _spare_odd_sizes(quantized)
        copy_unconverted(model, quantized, names)
        quantized.generation_config = copy.deepcopy(model.generation_config)
        return quantized.train(model.training)

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; each process is given the whole copy, in 4 or 8 bits, on its device."""
        from transformers.integrations import replace_with_bnb_linear
        from transformers.pytorch_utils import Conv1D

        names = {name.removesuffix(".weight") for name in self.targets(model)}
        full_precision = _others(model, names)
        quantized = empty_model(copy.deepcopy(model.config), model.dtype)
        with _quiet():
            replace_with_bnb_linear(quantized, full_precision, self._config(model, full_precision))
        self._refuse_others(quantized, names)
        _spare_odd_sizes(quantized)
        broken = []
        for name, parameter in model.named_parameters():
            owner, _, leaf = name.rpartition(".")
            weight, layer = whole(parameter.detach()), quantized.get_submodule(owner)
            if owner not in names or leaf != "weight":
                setattr(layer, leaf, nn.Parameter(weight.clone(), requires_grad=False))
            elif is_finite(weight):
                packed = _packed(weight.T if layer.source_cls is Conv1D else weight, getattr(layer, leaf))
                setattr(layer, leaf, packed)
            else:
                broken.append(name)
        refuse_broken(broken)
        quantized.tie_weights()
        restore_buffers(quantized, model.device)
        quantized.generation_config = copy.deepcopy(model.generation_config)
        return quantized.train(model.training)

    def _refuse_others(self, quantized: PreTrainedModel, names: set[str]) -> None:
        converted = _converted_layers(quantized)
        if converted != names:
            raise InputError(
                f"bitsandbytes quantized other layers of {type(quantized).__name__} than the linear ones of its "
                f"body: {', '.join(sorted(converted ^ names))}",
                remedy="Use a uniform quantizer for this architecture",
            )

    def _config(self, model: PreTrainedModel, full_precision: list[str]) -> Any:
        from transformers import BitsAndBytesConfig

        if self.format == "int8":
            threshold = 6.0 if self.outlier_threshold is None else self.outlier_threshold
            return BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_threshold=threshold, llm_int8_skip_modules=full_precision
            )
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.format,
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=model.dtype,
            llm_int8_skip_modules=full_precision,
        )


def _others(model: PreTrainedModel, names: set[str]) -> list[str]:
    """What bitsandbytes would convert as well: the head, and the towers of a multimodal model."""
    from transformers.pytorch_utils import Conv1D

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name not in names
    ]


def _converted_layers(quantized: PreTrainedModel) -> set[str]:
    import bitsandbytes as bnb

    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return {name for name, module in quantized.named_modules() if isinstance(module, kinds)}


def _spare_odd_sizes(quantized: PreTrainedModel) -> None:
    """WORKAROUND: on CPUs with bfloat16 instructions bitsandbytes packs 4-bit rows by 32, asserting none is left.

    Layers of other sizes (gates of one output, low ranks) take its general path.
    """
    import bitsandbytes as bnb

    for module in quantized.modules():
        if isinstance(module, bnb.nn.Linear4bit) and module.out_features % CPU_ROWS:
            module.support_avx512bf16_for_cpu = False


def _packed(weight: Tensor, empty: Any) -> Any:
    """A layer's weight as bitsandbytes packs it, with the options of the ``empty`` one that takes its place."""
    import bitsandbytes as bnb

    options = {name: value for name, value in vars(empty).items() if name != "SCB"}
    packed: Any
    if isinstance(empty, bnb.nn.Int8Params):
        packed = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, **options)
    else:
        packed = bnb.nn.Params4bit(weight, requires_grad=False, **options)
    return packed.to(weight.device)  # which packs it


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no loading notes from transformers and bitsandbytes; restored afterwards."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    library = logging.getLogger("bitsandbytes")
    library_level, verbosity = library.level, transformers_logging.get_verbosity()
    bars, no_hub_bars = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_worth_reading)
    library.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        library.setLevel(library_level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # the hub's bars as well
        if no_hub_bars:
            disable_progress_bars()


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """False for int8's note on its float16 cast, which comes once a layer and token; the class says it once."""
    return "inputs will be cast" not in record.getMessage()
