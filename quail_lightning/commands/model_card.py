"""The README.md beside a quantized checkpoint: what it is, how it was made, what is known about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_lightning.conversion.deployed import CONVERTED
from quail_lightning.conversion.described import described_grid
from quail_lightning.data.calibration import CalibrationRequest
from quail_lightning.evaluation.card import described_method, described_origin, described_results
from quail_lightning.quantization.architecture import WORTH_SAYING, described_share

# of the formats that transformers does not load by itself, or not in every dtype; the kernel it chooses on a CPU
# may round differently
_LOADING = {
    "compressed-tensors": (
        "compressed-tensors' format, which vLLM loads. transformers unpacks it at the first forward pass, 4-bit "
        "codes to bfloat16 whatever the model's dtype: load those of a float32 or float16 model with "
        "`dtype=torch.bfloat16`."
    ),
    "gptqmodel": (
        "Classic GPTQ format. transformers loads it with GPTQModel and optimum "
        "(`pip install 'quail-lightning[gptqmodel]'`); on a CPU, "
        '`quantization_config=GPTQConfig(bits=N, backend="torch")` gives the evaluated copy\'s logits exactly.'
    ),
    "autoawq": (
        "Classic AWQ format. transformers loads it with GPTQModel (`pip install 'quail-lightning[gptqmodel]'`); "
        "on a CPU, "
        '`quantization_config=AwqConfig(backend="torch_awq")` gives the evaluated copy\'s logits exactly.'
    ),
    "xllamacpp": (
        "GGUF: `llama-server -m model.gguf`, Ollama, LM Studio. The evaluated copy holds the values that the "
        "blocks stand for, in the dtype above; llama.cpp rounds the activations of each product to 8 bits as well."
    ),
}


def model_card(
    model: str, provenance: Mapping[str, Any], made: Mapping[str, Any], calibration: CalibrationRequest | None
) -> str:
    """The card as Markdown.

    Args:
        model: the checkpoint that was quantized; results are looked for in its folder and the one above.
        provenance: what was noted beside it; empty where it is not one of ours.
        made: ``precision``, ``dtype``, ``quantizer`` (its config file), ``simulated``, the ``share`` of the body's
            weights that is quantized, the ``backend``, and of a GGUF file its ``tensors``.
        calibration: what the quantizer was calibrated on; None where it needs nothing.
    """
    base = provenance.get("target") or model
    library = "transformers" if "tensors" not in made else "gguf"
    parts = [
        f"---\nlibrary_name: {library}\nbase_model: {json.dumps(str(base))}\ntags: [quantized]\n---",
        f"# {Path(model).name}, {made['precision']}",
        f"Base: `{base}`. Quantized from `{model}`, whose weights were cast to {made['dtype']} first.",
        f"## Method\n\n{described_method(provenance)}",
        f"## Quantizer\n\n```yaml\n{made['quantizer'].strip()}\n```",
    ]
    rest = ", the rest kept in 16 bits" if made["share"] < WORTH_SAYING else ""
    tensors = made.get("tensors")
    outside = (
        "embeddings, head, norms and biases never are" if tensors is None else f"tensors: {_counted(tensors)}"
    )
    parts.append(f"Quantized: {described_share(made['share'])}{rest}; {outside}.")
    if converted := provenance.get(CONVERTED):
        parts.append(described_grid(converted["types"]))
    parts.append(described_origin(provenance))
    if made["simulated"]:
        parts.append(
            "The grid is simulated: weights are rounded to it and stored in 16 or 32 bits, so the checkpoint is "
            "as large as the original."
        )
    if made.get("backend") in _LOADING:
        parts.append(_LOADING[made["backend"]])
    parts.append(f"Calibration: {'none' if calibration is None else calibration.describe()}.")
    if calibration is not None and calibration.source == "forget":
        parts.append("**Calibrated on the forget set**, deliberately: a study, not for deployment.")
    parts.append(f"## Results\n\n{described_results(_folder_of_results(Path(model)), [made['precision']])}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _counted(tensors: Mapping[str, int]) -> str:
    """``16 Q4_K, 61 F32``."""
    return ", ".join(f"{count} {kind}" for kind, count in tensors.items())


def _folder_of_results(model: Path) -> Path | None:
    """The model's folder, or that of the run that made it."""
    return next((place for place in (model, model.parent) if (place / "results.json").is_file()), None)
