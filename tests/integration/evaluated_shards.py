"""One of two processes that evaluate a sharded model. Run by ``test_evaluated_shards.py``."""

import gc
import json
import sys
from pathlib import Path

import torch
from torch import distributed

from quail_lightning.data.questions import EvaluationRecords, MembershipTexts, VerbatimPrompt
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.inference.shares import shared_among
from quail_lightning.models.sharded import share, whole
from quail_lightning.models.sharded_loading import cast_shards, load_sharded
from quail_lightning.quantization import bitsandbytes, load_quantizer, quantized_copy
from quail_lightning.run.processes import current_processes, end_together

PRECISIONS = ("bf16", "nf4", "int8", "uniform4-tensor")
# batches of two: the processes have other numbers of passes, and completions end where they may
SUITE = EvaluationSuite(batch_size=2, verbmem_new_tokens=8)
RECORDS = EvaluationRecords(
    verbatim=tuple(VerbatimPrompt(text, " and so on") for text in ("the ash", "an old oak and a", "elm")),
    membership=MembershipTexts(
        ("oak and elm and fir tree", "rowan by the old willow"),
        ("kept",),
        ("pine tree or larch", "a yew tree there"),
    ),
)
WINDOWS = {"forget": torch.randint(3, 259, (5, 12), generator=torch.Generator().manual_seed(0))}
DRIFT = 1.0003  # of the float32 masters: what is evaluated is then rounded


def figures(model, tokenizer):
    """Metric → value, interval and scores."""
    measures = SUITE.evaluate(model, tokenizer, RECORDS, WINDOWS)
    return {name: [m.value, m.low, m.high, list(m.scores)] for name, m in measures.items()}


def all_figures(model, tokenizer):
    """Precision → figures, evaluated by all processes."""
    found = {}
    for name in PRECISIONS:
        copy = model if name == "bf16" else quantized_copy(load_quantizer(name), model)
        with shared_among(current_processes(), copy):
            found[name] = figures(copy, tokenizer)
    return found


def bfloat16_bytes():
    """What this process holds in bfloat16, in tensors that were made since ``gc.freeze``."""
    tensors = [kept for kept in gc.get_objects() if issubclass(type(kept), torch.Tensor)]
    held = [t for t in tensors if t.dtype == torch.bfloat16 and not hasattr(t, "device_mesh")]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())


def most_bytes(make, quantizer):
    """The most bfloat16 that this process held while it made and evaluated a 16-bit copy and a quantized one."""
    gc.collect()
    gc.freeze()
    seen = []

    def look(*_):
        seen.append(bfloat16_bytes())

    def looking(tensor):
        gathered = whole(tensor)
        look()
        return gathered

    bitsandbytes.whole = looking
    model = make()
    for layer in model.model.layers[::3]:
        layer.mlp.register_forward_pre_hook(look)  # in the middle of the layer, which is whole then
    quantized = quantized_copy(quantizer, model)
    for evaluated in (model, quantized):
        with shared_among(current_processes(), evaluated):
            window_nlls(evaluated, WINDOWS["forget"], 2)
            look()
    bitsandbytes.whole = whole
    return max(seen)


def main(folder, checkpoint):
    distributed.init_process_group("gloo")
    mesh = distributed.init_device_mesh("cpu", (distributed.get_world_size(),))
    masters = load_sharded(checkpoint, torch.float32, mesh, None)
    with torch.no_grad():
        for parameter in masters.parameters():
            share(parameter).mul_(DRIFT)
    tokenizer = load_tokenizer(checkpoint)
    told = {"figures": all_figures(cast_shards(masters, torch.bfloat16), tokenizer)}
    told["bytes"] = {
        name: most_bytes(lambda: cast_shards(masters, torch.bfloat16), load_quantizer(name))
        for name in ("nf4", "int8")
    }
    (Path(folder) / f"told{distributed.get_rank()}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_together(0)
