"""Each deployment format written, loaded again and scored beside the copy in memory: one command, one table.

    python benchmarks/quantizer_exports.py MODEL --corpus FOLDER

MODEL is a 16-bit checkpoint, FOLDER a corpus in MUSE's layout that fits its positions (the quickstart makes both:
checkpoints/quickstart/target and checkpoints/quickstart/corpus). The last column is the largest difference between
the two models' logits.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from quail_lightning.commands.quantize import quantize
from quail_lightning.data.calibration import CalibrationRequest, calibration_tokens
from quail_lightning.data.muse import MuseDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.inference.encoding import positions
from quail_lightning.models.checkpoint import load_config, load_model
from quail_lightning.quantization import load_quantizer
from quail_lightning.run.results import Estimate

FORMATS = (
    *("bf16", "nf4", "fp4", "int8", "awq4-group64", "gptq4-group64", "smoothquant8"),
    *("nvfp4", "mxfp4", "fp8", "uniform4-group64"),
)
CALIBRATION = CalibrationRequest(windows=16, length=256)


def main() -> None:
    options = _options()
    records = MuseDataModule(str(options.corpus), tokenizer=str(options.model)).records_alone()
    tokenizer: Any = load_tokenizer(str(options.model))
    suite = EvaluationSuite()
    print("| precision | file, MB | M1 | M2 | M4 | the same in memory | largest logit difference |")
    print("|---" * 7 + "|")
    for name in tqdm(options.formats, leave=False):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / name
            with contextlib.redirect_stdout(io.StringIO()):
                quantize(str(options.model), name, out, CALIBRATION)
            size = sum(path.stat().st_size for path in out.glob("*.safetensors")) / 1e6
            loaded: Any = AutoModelForCausalLM.from_pretrained(out)
        copy = _in_memory(str(options.model), name, tokenizer)
        ids = tokenizer([records.verbatim[0].prompt], return_tensors="pt").input_ids
        with torch.no_grad():
            apart = (loaded(ids).logits.float() - copy(ids).logits.float()).abs().max().item()
        scores, there = (suite.evaluate(model, tokenizer, records, {}) for model in (loaded, copy))
        shown = ("verbmem_forget", "knowmem_forget", "knowmem_retain")
        same = "yes" if all(scores[metric] == there[metric] for metric in shown) else "**no**"
        cells = [f"{score.value:.1f}" for metric in shown if isinstance(score := scores[metric], Estimate)]
        tqdm.write(f"| {name} | {size:.2f} | {' | '.join(cells)} | {same} | {apart:g} |")


def _in_memory(model: str, name: str, tokenizer: Any) -> Any:
    """The copy as an evaluation makes it."""
    quantizer, tokens = load_quantizer(name), None
    if quantizer.needs_calibration:
        tokens = calibration_tokens(CALIBRATION, tokenizer, positions(load_config(model)))
    return quantizer.quantize(load_model(model, torch.bfloat16), tokens)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="16-bit checkpoint")
    parser.add_argument("--corpus", type=Path, required=True, help="folder in MUSE's layout")
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="names below configs/quantizer")
    return parser.parse_args()


if __name__ == "__main__":
    main()
