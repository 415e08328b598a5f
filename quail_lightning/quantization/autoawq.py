"""AWQ by the archived AutoAWQ package, which the papers used: its own algorithm and checkpoint format."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.models.arithmetic import compute_dtype
from quail_lightning.quantization.body import quantized_linears, refuse_indivisible, refuse_non_finite
from quail_lightning.quantization.computing import cast_weights
from quail_lightning.quantization.protocol import PreTrainedModel
from quail_lightning.terminal import transient_bars

# outputs whose clipping AutoAWQ searches at once
_ROWS = 64


class _UnpackedLinear(torch.nn.Module):
    """An AutoAWQ layer for a CPU, where AutoAWQ calls Triton all the same: unpacked to float16 at every pass.

    The steps are those of GPTQModel's plain layer, which is what transformers can load the export with.
    """

    def __init__(self, packed: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = packed.in_features, packed.out_features
        self.group_size = packed.group_size  # inputs
        for name in ("qweight", "qzeros", "scales", "bias"):
            self.register_buffer(name, getattr(packed, name))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [..., inputs]; returns [..., outputs] in its dtype."""
        from awq.utils.packing_utils import dequantize_gemm

        weight = dequantize_gemm(self.qweight, self.qzeros, self.scales, 4, self.group_size).to(hidden.dtype)
        output = hidden.reshape(-1, self.in_features) @ weight
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*hidden.shape[:-1], self.out_features)


def quantize_with_autoawq(model: PreTrainedModel, calibration: Tensor, group_size: int) -> PreTrainedModel:
    """A 4-bit copy with AutoAWQ's ``WQLinear_GEMM`` layers, which compute in float16; on a CPU plain ones.

    Args:
        model: unchanged.
        calibration: [windows, time] token ids; all windows go through a layer at once.
        group_size: inputs of a row that share scale and zero point.

    Returns:
        the copy, whose ``save_pretrained`` writes the classic AWQ format (``quant_method: awq``).

    Raises:
        InputError: AutoAWQ does not know the architecture, or the weights, their outputs or the group size do not
            fit.
    """
    kind, known = check_autoawq(model, group_size)
    linears = quantized_linears(model)
    refuse_non_finite(linears)
    from awq.models._config import AwqConfig  # private: the package is archived

    settings = {"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"}
    with isolate_rng(), transient_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        working = copy.deepcopy(model).eval()
        cast_weights(working, compute_dtype(model.dtype, model.device))
        wrapped = known(working, kind, False, working.config, AwqConfig.from_dict(settings), None)
        wrapped.quantize(
            quant_config=settings,
            calib_data=calibration.tolist(),
            max_calib_samples=len(calibration),
            max_calib_seq_len=calibration.shape[1],
        )
    quantized: PreTrainedModel = wrapped.model
    cast_weights(quantized, model.dtype)
    quantized.config.quantization_config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    torch.nn.Module.to(quantized, model.device)
    if model.device.type == "cpu":
        for name, _ in linears:
            quantized.set_submodule(name, _UnpackedLinear(quantized.get_submodule(name)))
    return quantized.train(model.training)


def check_autoawq(model: PreTrainedModel, group_size: int) -> tuple[str, Any]:
    """The type of the model and AutoAWQ's class for it, where its shapes fit; the model may be on the meta device.

    Raises:
        InputError: see ``quantize_with_autoawq``.
    """
    # its notice that it is archived turns filters off
    with isolate_rng(), warnings.catch_warnings(record=True):
        from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    linears = quantized_linears(model)
    refuse_indivisible(
        {name: linear.in_features for name, linear in linears},
        group_size,
        "Set group_size in a copy of the quantizer's file to a divisor (64, 32)",
    )
    misfits = [f"{name} ({linear.out_features})" for name, linear in linears if linear.out_features % _ROWS]
    if misfits:
        raise InputError(
            f"AutoAWQ quantizes layers whose outputs are a multiple of {_ROWS}, not so for {', '.join(misfits)}",
            remedy="Use backend: llmcompressor",
        )
    kind = model.config.model_type
    if kind not in AWQ_CAUSAL_LM_MODEL_MAP:
        raise InputError(
            "AutoAWQ does not know this architecture", given=kind, remedy="Use backend: llmcompressor"
        )
    return kind, AWQ_CAUSAL_LM_MODEL_MAP[kind]
