"""Wrong inputs of every kind, over all verbs: a line that says what to do, status 2, and nothing computed."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from quail_lightning.cli import main
from quail_lightning.command_line import lightning_cli
from quail_lightning.commands import quantize as quantize_command
from quail_lightning.evaluation.checkpoints import CheckpointEvaluation
from quail_lightning.finetuning import training as finetuning_training
from quail_lightning.unlearning.arithmetic import StepArithmetic


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoint, corpus_folder):
    """Where the user stands: a model, a corpus, and files that are none of what they are called."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(checkpoint, folder / "model")
    shutil.copytree(corpus_folder, folder / "corpus")
    (folder / "folder").mkdir()
    (folder / "nothing").write_text("")
    for name, text in {
        "empty": "",
        "prose": "just text",
        "list": "[1, 2]",
        "broken": "a: [1,2",
        "tab": "model:\n\talpha: 3\n",
        "typo": "model:\n  alhpa: 3\n",
        "section": "modle:\n  alpha: 3\n",
        "type": "model:\n  alpha: three\n",
        "nan": "trainer:\n  max_epochs: .nan\n",
        "class": "model:\n  forget:\n    class_path: quail_lightning.objectives.GradientAscnt\n",
        "data": "data:\n  class_path: NoSuch\n",
    }.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    return folder


@pytest.fixture(autouse=True)
def _stand(place, monkeypatch):
    """Whatever passes the checks computes something, which fails the test."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["quail"])

    def computed(*_, **__):
        pytest.fail("something is computed")

    monkeypatch.setattr(lightning_cli, "finetune", computed)
    monkeypatch.setattr(StepArithmetic, "load", computed)
    monkeypatch.setattr(quantize_command, "load_model", computed)
    monkeypatch.setattr(CheckpointEvaluation, "evaluate", computed)
    monkeypatch.setattr(finetuning_training, "FinetuningModule", computed)


FIT = "fit --config quickstart.yaml --model.target model --prepare null --data.corpus corpus --data.newsroom null"
FIT += " --evaluation.retrained null --data.max_len 64 --evaluation.suite.verbmem_new_tokens 4"
FIT += " --trainer.accelerator cpu"
EVALUATE = "evaluate model --benchmark muse-news --corpus corpus"
FINETUNE = (
    "finetune --config finetune/news-mini.yaml --data.corpus corpus --data.forget [raw/forget] --data.max_len 64"
)
FINETUNE += " --data.retain [raw/retain1] --out made"
ANALYZE = "analyze --reference model --model model"
FOLDS = "folds --config folds/quickstart_sust.yaml"

WRONG = {
    "fti": r"no such verb; got 'fti'.*fit, validate, test, .*clean.*Did you mean fit\?",
    "evalute": r"Did you mean evaluate\?",
    "--config quickstart.yaml fit": r"verb comes first",
    # nothing given
    "fit": r"model\.target .*\n.*quail fit --config quickstart\.yaml.*\n.*--model\.target DIR",
    "validate": r"model\.target .*\n.*quail validate",
    "fit --model.target model": r"model\.forget.*\n.*quickstart\.yaml",
    "alternates": r"required: model, data\.forget, out.*\n.*quail alternates TARGET",
    "quantize": r"required: model, to, out.*\n.*quail quantize DIR --to awq4",
    "evaluate": r"required: benchmark.*\n.*quail evaluate DIR --benchmark",
    "analyze": r"required: reference, model.*\n.*quail analyze",
    "finetune": r"required: out.*\n.*quail finetune",
    "folds": r"required: .*\n.*quail folds --config",
    # files of configs
    "fit --config nosuch.yaml": r"no config file 'nosuch\.yaml'",
    "fit --config quickstart": r"no config file.*quickstart\.yaml",
    "fit --config folder": r"this is a folder",
    "fit --config": r"expected one argument",
    "fit --config empty.yaml": r"empty\.yaml is empty",
    "fit --config prose.yaml": r"holds no options",
    "fit --config list.yaml": r"holds no options",
    "fit --config broken.yaml": r"broken\.yaml cannot be read: .*line 1",
    "fit --config tab.yaml": r"tab\.yaml cannot be read",
    "fit --config binary.yaml": r"no UTF-8",
    f"{FIT} --config typo.yaml": r"Did you mean 'model\.alpha'\?",
    f"{FIT} --config section.yaml": r"Did you mean 'model\.alpha'\?",
    f"{FIT} --config type.yaml": r"model\.alpha does not fit; got three\. Allowed: a finite number",
    f"{FIT} --config nan.yaml": r"trainer\.max_epochs does not fit; got nan\. Allowed: a whole number",
    f"{FIT} --config class.yaml": r"Did you mean 'quail_lightning\.objectives\.GradientAscent'\?",
    f"{FIT} --config data.yaml": r"data names no class.*got 'NoSuch'",
    # values of fit
    f"{FIT} --nosuch 3": r"unrecognized arguments: --nosuch 3",
    f"{FIT} stray": r"unrecognized arguments: stray",
    f"{FIT} --model.learning_rate -1": r"model\.learning_rate must be a positive number; got -1",
    f"{FIT} --model.learning_rate nan": r"model\.learning_rate does not fit; got nan",
    f"{FIT} --model.alpha inf": r"model\.alpha does not fit; got inf",
    f"{FIT} --model.betas [2,3]": r"model\.betas",
    f"{FIT} --model.micro_batch_size 0": r"model\.micro_batch_size must be at least 1",
    f"{FIT} --model.schedule sometimes": r"Allowed: alternate, epoch, joint",
    f"{FIT} --model.trainable [nosuch*]": r"model\.trainable names weights that the model does not have",
    f"{FIT} --model.hinge.step -1": r"must be positive and finite; got -1",
    f"{FIT} --data.batch_size 0": r"data\.batch_size must be at least 1; got 0",
    f"{FIT} --data.max_len 1": r"data\.max_len must be at least 2; got 1",
    f"{FIT} --data.max_len 1000000000": r"longer than the model's 256 positions",
    f"{FIT} --data.corpus nowhere": r"no corpus folder 'nowhere'",
    f"{FIT} --data.corpus nothing": r"no corpus folder 'nothing'",
    f"{FIT} --data.forget [nosuch]": r"corpus part 'nosuch' is missing",
    f"{FIT} --evaluation.precisions [int4]": r"Did you mean nf4",
    f"{FIT} --evaluation.precisions int4": r"Allowed: a list",
    f"{FIT} --evaluation.max_windows -1": r"evaluation\.max_windows must be at least 1",
    f"{FIT} --evaluation.suite.batch_size 0": r"batch_size must be at least 1; got 0",
    f"{FIT} --evaluation.suite.verbmem_new_tokens 100000": r"do not fit the model",
    f"{FIT} --best.enabled true --best.forget_nll 3 --best.max_windows 0": r"best\.max_windows must be at least 1",
    f"{FIT} --checkpoint.keep 0": r"checkpoint\.keep must be at least 1",
    f"{FIT} --ckpt_path nowhere": r"there is no checkpoint; got 'nowhere'",
    f"{FIT} --model.target nowhere": r"no such folder, and the hub does not give it",
    f"{FIT} --model.target folder": r"holds no config.json",
    f"{FIT} --model.target nothing": r"it is a file",
    f"{FIT} --model.start nowhere": r"no model could be loaded from 'nowhere'",
    f"{FIT} --seed_everything abc": r"seed_everything does not fit; got abc",
    f"{FIT} --seed_everything -1": r"seed_everything is out of range",
    f"{FIT} --export.folder ../..": r"exists already. Set export\.folder",
    # the Trainer
    f"{FIT} --trainer.gradient_clip_val 1": r"trainer\.gradient_clip_val: 1\.0.*Set model\.clip_norm: 1\.0",
    f"{FIT} --trainer.accumulate_grad_batches 4": r"accumulate_grad_batches: 4.*model\.micro_batch_size",
    f"{FIT} --trainer.max_epochs -3": r"trainer\.max_epochs: -3",
    f"{FIT} --trainer.max_epochs many": r"trainer\.max_epochs does not fit; got many",
    f"{FIT} --trainer.precision 64-true": r"Allowed: bf16-mixed, 32-true",
    f"{FIT} --trainer.precision 8": r"trainer\.precision does not fit; got 8",
    f"{FIT} --trainer.strategy nosuch": r"trainer\.strategy: nosuch",
    f"{FIT} --trainer.devices 0": r"trainer\.devices: 0",
    f"{FIT} --trainer.accelerator nosuch": r"trainer\.accelerator: nosuch",
    f"{FIT} --trainer.check_val_every_n_epoch 0": r"trainer\.check_val_every_n_epoch must be at least 1",
    f"{FIT} --trainer.limit_train_batches -1": r"trainer\.limit_train_batches: -1",
    f"{FIT} --trainer.logger.save_dir nothing": r"the run's folder .* lies below a file",
    f"{FIT} --trainer.logger CometLogger": r"a package is missing \(.*comet.*TensorBoardLogger is installed",
    "validate" + FIT[3:] + " --model.start nowhere": r"no model could be loaded from 'nowhere'",
    "test" + FIT[3:] + " --model.start folder": r"no model could be loaded from 'folder'",
    "test" + FIT[3:] + " --ckpt_path last": r"Set model\.start to the model's folder",
    # quantize
    "quantize model --to int4 --out made": r"Did you mean nf4",
    "quantize model --to nf4 --out folder": r"out folder exists already",
    "quantize model --to nf4 --out nothing/made": r"out lies below a file; got '\S+nothing'",
    "quantize model --to nf4 --out made --dtype int8": r"dtype does not fit; got int8\. Allowed: bfloat16",
    "quantize model --to nf4 --out made --device tpu": r"device does not fit; got tpu\. Allowed: auto, cpu, cuda",
    "quantize model --to awq4-group64 --out made --calibration.windows 0": r"calibration\.windows must be at",
    "quantize model --to awq4-group64 --out made --calibration.text folder": r"calibration\.text names no file",
    "quantize nowhere --to nf4 --out made": r"no model could be loaded from 'nowhere'",
    "quantize folder --to nf4 --out made": r"no model could be loaded from 'folder'",
    "quantize model another --to nf4 --out made": r"unrecognized arguments: another",
    # evaluate
    "evaluate model --benchmark nosuch": r"no such benchmark; got 'nosuch'",
    "evaluate --benchmark muse-news": r"no model is named",
    "evaluate nowhere --benchmark muse-news --corpus corpus": r"no \w+ could be loaded from 'nowhere'",
    "evaluate model --benchmark muse-news --corpus nothing": r"no corpus folder 'nothing'",
    f"{EVALUATE} --precisions int4": r"Did you mean nf4",
    f"{EVALUATE} --limit 0": r"limit must be at least 1; got 0",
    f"{EVALUATE} --batch_size -1": r"batch_size must be at least 1; got -1",
    f"{EVALUATE} --device nosuch": r"no such device; got 'nosuch'",
    f"{EVALUATE} --device meta": r"not evaluated on such a device",
    f"{EVALUATE} --finished nothing/below": r"finished lies below a file",
    f"{EVALUATE} --out nothing": r"--out names a file",
    f"{EVALUATE} --json folder": r"--json names a folder",
    f"{EVALUATE} --protocol sometimes": r"protocol does not fit; got sometimes\. Allowed: paper, published",
    f"{EVALUATE} --from-log folder": r"--from-log runs no model",
    "evaluate --benchmark muse-news --from-log folder --prompt_end word": r"runs no model.*\['--prompt_end'\]",
    "evaluate --benchmark muse-news --from-log folder --precisions nf4": r"runs no model.*\['--precisions'\]",
    f"{EVALUATE} --protocol published --prompt_end word": r"protocol published asks.*prompt_end: word",
    "evaluate --benchmark muse-news --from-log folder": r"folder holds no log",
    # analyze
    "analyze --reference nowhere --model model": r"no model could be loaded from 'nowhere'",
    "analyze --reference model --model folder": r"the folder is no checkpoint",
    f"{ANALYZE} --bits 0": r"bits must lie in 1 … 16",
    f"{ANALYZE} --bits x": r"bits does not fit; got x\. Allowed: a whole number",
    f"{ANALYZE} --formats int4": r"Did you mean nf4",
    f"{ANALYZE} --out nothing/below": r"out lies below a file",
    # finetune
    f"{FINETUNE} --out nothing/below": r"the folder of the model lies below a file",
    f"{FINETUNE} --out folder": r"folder holds another model",
    f"{FINETUNE} --data.corpus nowhere": r"no corpus folder 'nowhere'",
    f"{FINETUNE} --recipe.optimization.epochs 0": r"epochs must be positive; got 0",
    f"{FINETUNE} --recipe.tiny.width 7": r"width",
    f"{FINETUNE} --recipe.tiny.layers -1": r"layers",
    f"{FINETUNE} --recipe.tiny.heads 0": r"heads",
    f"{FINETUNE} --recipe.tiny.vocab_size 0": r"vocab_size",
    f"{FINETUNE} --recipe.tiny.positions 0": r"positions",
    f"{FINETUNE} --recipe.tiny null --recipe.base nowhere": r"'nowhere'",
    f"{FINETUNE} --recipe null": r"recipe does not fit; got null",
    f"{FINETUNE} --sets forget": r"sets does not fit; got forget\. Allowed: forget\+retain, retain",
    f"{FINETUNE} --devices 0 --accelerator cpu": r"--devices: 0",
    f"{FINETUNE} --strategy nosuch": r"--strategy: nosuch",
    # folds
    f"{FOLDS} --forget []": r"there is no fold",
    f"{FOLDS} --fit []": r"there is no config",
    f"{FOLDS} --fit [nosuch.yaml]": r"no config file 'nosuch\.yaml'",
    f"{FOLDS} --start_from nowhere": r"start_from does not fit; got nowhere",
    f"{FOLDS} --options x": r"section\.key=value",
    f"{FOLDS} --out nothing/below": r"out lies below a file",
    # clean
    "clean nowhere": r"no such folder; got \['nowhere'\]",
    "clean nothing": r"no such folder; got \['nothing'\]",
    "clean --kinds nosuch": r"does not fit; got nosuch\. Allowed: reference-cache",
}


def _short(command):
    for common in (FIT, EVALUATE, FINETUNE, ANALYZE, FOLDS):
        command = command.replace(common, f"{common.split()[0]} ...")
    return command.replace(FIT[3:], " ...")


@pytest.mark.parametrize(("command", "said"), WRONG.items(), ids=[_short(c) for c in WRONG])
def test_a_wrong_input_ends_with_a_line_that_says_what_to_do(command, said, place, capsys):
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    message = capsys.readouterr().err
    assert re.search(said, message), message
    (fact,) = re.findall(r"^error: .*", message, re.MULTILINE)
    assert len(fact) < 1500
    assert ended.value.code == 2
    assert sorted(place.rglob("*")) == before


def test_a_device_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("quantize model --to nf4 --out made --device cuda", f"{EVALUATE} --device cuda"):
        with pytest.raises(SystemExit) as ended:
            main(command.split())
        assert ended.value.code == 2
        assert "there is no CUDA device here" in capsys.readouterr().err
    assert not Path("made").exists()
