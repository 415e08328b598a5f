"""What stands here for a format that people know by another name, or spell otherwise."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

FOUR_BITS = "Did you mean nf4 (bitsandbytes), or of the int4 grids awq4, gptq4 or uniform4-group64 (simulated)?"
EIGHT_BITS = "Did you mean int8 (bitsandbytes), smoothquant8 or gptq8?"
GGUF = "Did you mean q4_k_m, q4_0 or q8_0 (GGUF, written for llama.cpp)?"
FAMILIAR = {
    r"gguf.*|ggml|llama\.?cpp|ollama|q4-?k.*|q4-?[01]|q8(-?0)?|q[2356]-[k01].*|iq[1-4].*": GGUF,
    r"exl[23]|hqq|eetq|quanto|aqlm|marlin": f"{FOUR_BITS} Formats of other programs are "
    "not written here: convert the 16-bit model by their tools, and evaluate by the nearest of these",
    r"q[2356]|(u?int|i|w)[1-3567](a16)?|[1-3567]-?bits?": f"{FOUR_BITS} Other widths are simulated by "
    "a file of your own with quail_lightning.quantization.Uniform",
    r"e5m2.*|(fp|float)8-?e5m2.*|mxfp8.*": "Did you mean fp8 (E4M3, one scale a row)?",
    r"(e4m3|f8|fp8|float8|w8a(8|16)-?(fp|f)).*": "Did you mean fp8?",
    r"nv-?fp4.*|modelopt.*": "Did you mean nvfp4 (weights alone)?",
    r"mx-?fp4.*|mx4": "Did you mean mxfp4 (weights alone)?",
    r"w4a(4|16)-?(fp|f).*|fp4.+|f4|float4.*|e2m1.*": "Did you mean nvfp4, mxfp4 or fp4 (bitsandbytes)?",
    r"((u?int|i|q|w)4|4-?bits?|bnb|bitsandbytes|load.in.4bit)([-_a].*)?": FOUR_BITS,
    r"(i8|w8|8-?bits?|llm\.?int8|load.in.8bit)([-_a].*)?|u?int8.+|uint8|smooth.*": EIGHT_BITS,
    r"awq.*": "Did you mean awq4 or awq4-group64?",
    r"gptq.*": "Did you mean gptq4, gptq4-group64 or gptq8?",
    r"rtn.*|uniform|minmax|round.*|int": "Did you mean uniform4-group64, uniform4-tensor or uniform8-channel?",
    r"b?float-?16|bf-16|fp-16|f16|half|none|original|full|(int)?16(-?bits?)?": "Did you mean bf16 or fp16?",
    r"(fp|f|float)-?32|32-?bits?": "Did you mean fp32?",
}
"""Names by which formats are known elsewhere → what is there instead."""


def suggestion(name: str, known: Collection[str]) -> str:
    """What may be meant by a name that is none; empty where nothing is like it.

    Args:
        name: as given.
        known: names that there are.
    """
    spelt = name.lower().replace("_", "-").strip()
    close = get_close_matches(spelt, known, n=1)
    if close and get_close_matches(spelt, close, cutoff=0.9):
        return f"Did you mean {close[0]}?"
    for pattern, meant in FAMILIAR.items():
        if re.fullmatch(pattern, spelt):
            return meant
    return f"Did you mean {close[0]}?" if close else ""
