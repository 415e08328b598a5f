"""Quantized copies of a model, one protocol for all formats."""

from quail_lightning.quantization.architecture import (
    check_quantizers,
    described_share,
    partly_quantized,
    remarks,
)
from quail_lightning.quantization.awq import Awq
from quail_lightning.quantization.bitsandbytes import BitsAndBytes
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.quantization.computing import computing
from quail_lightning.quantization.gguf.quantizer import Gguf
from quail_lightning.quantization.gptq import Gptq
from quail_lightning.quantization.named import available_precisions, load_quantizer
from quail_lightning.quantization.narrow_float import NarrowFloat
from quail_lightning.quantization.protocol import Quantizer, QuantizesShards, quantized_copy
from quail_lightning.quantization.sharded_copies import check_shards, widest_copy
from quail_lightning.quantization.smoothquant import SmoothQuant
from quail_lightning.quantization.uniform import Uniform
from quail_lightning.quantization.unquantized import Unquantized

__all__ = [
    "Awq",
    "BitsAndBytes",
    "Gguf",
    "Gptq",
    "NarrowFloat",
    "Quantizer",
    "QuantizesShards",
    "SmoothQuant",
    "Uniform",
    "Unquantized",
    "available_precisions",
    "check_quantizers",
    "check_shards",
    "computing",
    "described_share",
    "load_quantizer",
    "partly_quantized",
    "quantized_copy",
    "quantized_linears",
    "remarks",
    "widest_copy",
]
