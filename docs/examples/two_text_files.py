"""From two text files to a verdict: forget one, keep the other, and see what four bits make of it.

    python docs/examples/two_text_files.py TARGET forget.txt retain.txt [--retrained DIR] [--out DIR]

TARGET is a checkpoint that knows both texts; the retrained model, if there is one, never saw the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning.pytorch import Trainer

from quail_lightning import (
    GradientAscent,
    GradientDescent,
    LogitHinge,
    OwnTextDataModule,
    UnlearningModule,
    evaluate,
    quantize,
)
from quail_lightning.callbacks import ExportModel


def main() -> None:
    options = _options()
    texts = {"forget": options.forget, "retain": options.retain, "max_len": options.max_len}
    unlearned = options.out / "model"
    trainer = Trainer(
        max_epochs=options.epochs,
        precision="32-true",
        default_root_dir=options.out,
        logger=False,
        enable_checkpointing=False,
        callbacks=[ExportModel()],
    )
    module = UnlearningModule(
        options.target,
        forget=GradientAscent(),
        retain=GradientDescent(),
        hinge=LogitHinge(),
        learning_rate=options.learning_rate,
    )
    trainer.fit(module, datamodule=OwnTextDataModule(**texts, tokenizer=options.target))
    deployed = quantize(unlearned, to="nf4", out=options.out / "nf4")
    found = evaluate(
        [options.target, unlearned, deployed],
        benchmark="own",
        data=texts,
        retrained=options.retrained,
        finished=options.out / "evaluations",
    )
    for name, verdict in found.named_verdicts.items():
        print(f"{name}: {verdict.text}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("forget")
    parser.add_argument("retain")
    parser.add_argument("--retrained")
    parser.add_argument("--out", type=Path, default=Path("unlearned"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max_len", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
