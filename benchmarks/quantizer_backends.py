"""AWQ and GPTQ by each package that makes them, on one model with one calibration: one command, one table.

    python benchmarks/quantizer_backends.py MODEL --corpus FOLDER

MODEL is a 16-bit checkpoint whose sizes are multiples of 64, FOLDER a corpus in MUSE's layout (the quickstart
makes both: checkpoints/quickstart/target and checkpoints/quickstart/corpus). Packages that are not installed are
left out and named. The NLL is that of the first retain windows, the logit error that of the copy on them, relative
to the 16-bit logits (Frobenius norms).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.muse import MuseDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.inference.encoding import positions
from quail_lightning.models.checkpoint import load_config, load_model
from quail_lightning.quantization import Awq, Gptq, Uniform

CALIBRATION = CalibrationRequest(windows=16, length=128)
WINDOWS, MAX_LEN = 8, 128  # of the retain set; tokens
MAKERS: dict[str, Any] = {
    "awq | llmcompressor": lambda: Awq(4, 64),
    "awq | autoawq": lambda: Awq(4, 64, backend="autoawq"),
    "gptq | llmcompressor": lambda: Gptq(4, 64),
    "gptq | gptqmodel": lambda: Gptq(4, 64, backend="gptqmodel"),
    "rounded to nearest | uniform": lambda: Uniform(4, "group", 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=str, help="16-bit checkpoint")
    parser.add_argument("--corpus", type=Path, required=True, help="folder in MUSE's layout")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model)
    data = MuseDataModule(str(options.corpus), tokenizer=options.model, max_len=MAX_LEN)
    windows = data.cut_windows(tokenizer).retain[:WINDOWS]
    tokens = calibration_tokens(CALIBRATION, tokenizer, positions(load_config(options.model)))
    model = load_model(options.model, torch.bfloat16)
    nll, logits = _evaluated(model, windows)
    print(f"16-bit NLL {nll:.3f}\n\n| method | backend | NLL rise | relative logit error |\n|---|---|---|---|")
    for name, make in tqdm(MAKERS.items(), leave=False):
        try:
            copy_nll, copy_logits = _evaluated(make().quantize(model, tokens), windows)
        except InputError as error:
            tqdm.write(f"| {name} | {error} |")
            continue
        apart = (copy_logits - logits).norm() / logits.norm()
        tqdm.write(f"| {name} | {copy_nll - nll:+.4f} | {apart:.3f} |")


@torch.no_grad()
def _evaluated(model: Any, windows: Tensor) -> tuple[float, Tensor]:
    """Mean NLL of a token in nats, and the logits [windows, time, vocabulary], float32."""
    logits = model(windows).logits.float()
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    return nll.item(), logits


if __name__ == "__main__":
    main()
