"""Quantized copies of a model, one protocol for all formats."""

from quail_lightning.quantization.awq import Awq
from quail_lightning.quantization.bitsandbytes import BitsAndBytes
from quail_lightning.quantization.body import quantized_linears
from quail_lightning.quantization.gptq import Gptq
from quail_lightning.quantization.named import available_precisions, load_quantizer
from quail_lightning.quantization.protocol import Quantizer
from quail_lightning.quantization.smoothquant import SmoothQuant
from quail_lightning.quantization.uniform import Uniform
from quail_lightning.quantization.unquantized import Unquantized

__all__ = [
    "Awq",
    "BitsAndBytes",
    "Gptq",
    "Quantizer",
    "SmoothQuant",
    "Uniform",
    "Unquantized",
    "available_precisions",
    "load_quantizer",
    "quantized_linears",
]
