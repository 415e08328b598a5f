"""Whole commands, as a user types them."""

import contextlib
import errno
import json
import re
import signal
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from small_quickstart import SMALL_QUICKSTART
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quail_lightning.cli import main
from quail_lightning.command_line import lightning_cli
from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.data import Newsroom
from quail_lightning.errors import InputError
from quail_lightning.models.arithmetic import arithmetic_name, training_precision
from quail_lightning.models.checkpoint import read_provenance, weights_digest
from quail_lightning.run.results import read_results

SMALL = [*SMALL_QUICKSTART, "--trainer.max_epochs=2"]


def run(*arguments):
    main(list(arguments))


def refused(capsys, *arguments):
    """Run a command that must end with exit status 2; what it said."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def here(request, tmp_path_factory, monkeypatch):
    """Every test stands in an empty folder, but those of the finished quickstart stand in its."""
    monkeypatch.setattr(sys, "argv", ["quail"])
    folder = request.getfixturevalue("quickstart") if "quickstart" in request.fixturenames else None
    monkeypatch.chdir(folder or tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The quickstart, made small: the folder it was run in."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["quail"])
        with (folder / "said").open("w") as said, contextlib.redirect_stdout(said):
            run("fit", "--config", "quickstart.yaml", *SMALL)
    return folder


def test_quickstart_makes_corpus_models_table_and_export(quickstart):
    made = quickstart / "checkpoints/quickstart"
    assert read_provenance(made / "target")["sets"] == "forget+retain"
    assert read_provenance(made / "retrained")["sets"] == "retain"
    assert (made / "corpus/raw/forget.json").is_file()
    folder = quickstart / "logs/quickstart/latest"
    rows = {(row.model, row.precision) for row in read_results(folder)}
    assert re.fullmatch(r"quail-\d{8}-\d{6}", folder.resolve().name)
    models = ("target", "retrained", "unlearned")
    assert rows == {(model, precision) for model in models for precision in ("bf16", "nf4")}
    hinge = read_provenance(folder / "model")["terms"]["hinge"]
    assert hinge["class"] == "LogitHinge"
    assert hinge["step"] == 1.0


def test_a_fit_says_where_the_text_can_still_be_read_and_keeps_that_private(quickstart, capfd):
    (said,) = [line for line in (quickstart / "said").read_text().splitlines() if "private text" in line]
    (cache,) = (quickstart / "checkpoints/reference-cache").iterdir()
    assert f"checkpoints/reference-cache/{cache.name}" in said
    assert re.search(rf"quail clean \S+/responses checkpoints/reference-cache/{cache.name} --yes$", said)
    assert all(
        stat.S_IMODE(path.stat().st_mode) in (0o600, 0o700) for path in (cache.parent, cache, *cache.iterdir())
    )
    run_folder = quickstart / "logs/quickstart/latest"
    assert not (run_folder / ".lock").exists()
    assert stat.S_IMODE((run_folder / "config.yaml").stat().st_mode) == 0o600
    assert stat.S_IMODE((run_folder / "model/model.safetensors").stat().st_mode) == 0o666 & ~umask_of(quickstart)
    run("clean")
    listed = capfd.readouterr().out
    assert cache.name in listed
    assert "Nothing was removed" in listed
    assert cache.is_dir()


def umask_of(folder):
    (folder / "by_umask").touch()
    return 0o666 & ~stat.S_IMODE((folder / "by_umask").stat().st_mode)


def test_tensorboard_shows_the_losses_and_the_evaluation(quickstart):
    tags = set(EventAccumulator(str(quickstart / "logs/quickstart/latest")).Reload().Tags()["scalars"])
    losses = {f"train/{name}" for name in ("forget", "hinge", "retain", "total", "lr", "grad_norm_forget")}
    assert losses | {"eval/nf4/verbmem_forget", "eval/bf16/membership_auc"} <= tags


def test_a_second_run_reuses_everything_and_gives_the_same_weights(quickstart, capfd):
    made = quickstart / "checkpoints/quickstart"
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    run("fit", "--config", "quickstart.yaml", *SMALL)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == before
    assert "not there yet" not in capfd.readouterr().out
    runs = sorted((quickstart / "logs/quickstart").glob("quail-*"))
    assert (quickstart / "logs/quickstart/latest").resolve() == runs[-1]
    first, second = (run / "model/model.safetensors" for run in runs)
    assert first.read_bytes() == second.read_bytes()


def test_test_evaluates_a_saved_model_and_validate_takes_its_nll(quickstart, capfd):
    model = "--model.start=logs/quickstart/latest/model"
    run("test", "--config", "quickstart.yaml", *SMALL, model, "--trainer.logger.init_args.version=evaluated")
    rows = read_results(quickstart / "logs/quickstart/evaluated")
    evaluated = {row.precision: row for row in rows if row.model == "unlearned"}
    fitted = [row for row in read_results(quickstart / "logs/quickstart/latest") if row.epoch == 2]
    for row in fitted:
        for name in ("nll_forget", "verbmem_forget", "membership_auc"):
            assert evaluated[row.precision].metrics[name].value == row.metrics[name].value
    run("validate", "--config", "quickstart.yaml", *SMALL, model, "--trainer.logger.init_args.version=validated")
    assert "val/nll_forget" in capfd.readouterr().out


def test_an_output_folder_that_holds_a_run_is_refused_and_left_as_it_was(quickstart, capsys):
    results = (quickstart / "logs/quickstart/latest/results.json").resolve()
    before = results.read_bytes()
    name = results.parent.name
    version = f"--trainer.logger.init_args.version={name}"
    message = refused(capsys, "fit", "--config", "quickstart.yaml", *SMALL, version)
    assert re.search(rf"logs/quickstart/{name} already holds another run.*Name another folder", message)
    assert results.read_bytes() == before


def test_finetune_makes_a_model_once(quickstart, capsys):
    arguments = ["finetune", "--config", "finetune/news-mini.yaml"]
    arguments += ["--data.corpus=checkpoints/quickstart/corpus"]
    arguments += ["--data.retain=[raw/retain1]", "--data.max_forget_windows=4", "--data.max_retain_windows=4"]
    arguments += ["--recipe.tiny={vocab_size: 300, width: 64, layers: 1, heads: 2, positions: 256}"]
    arguments += ["--recipe.optimization.epochs=1", "--out", "made/target"]
    run(*arguments)
    assert "saved: made/target" in capsys.readouterr().out
    run(*arguments)
    assert "reused" in capsys.readouterr().out
    assert "differ in recipe" in refused(capsys, *arguments, "--recipe.seed=5")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["--model.alhpa=2"], r"model\.alhpa.*Did you mean 'model\.alpha'"),
        (["--data.max_lne=3"], r"max_lne.*Did you mean 'max_len'"),
        (["--evaluation.suite.batch_siz=3"], r"Did you mean 'evaluation\.suite\.batch_size'"),
        (["--model.weighting=convex", "--model.alpha=5"], r"alpha must lie in \[0, 1\].*got 5.*additive"),
        (["--evaluation.precisions=[nf5]"], r"no such precision.*nf5.*Did you mean nf4"),
        (["--data.corpus=nowhere", "--data.newsroom=null"], r"no corpus folder 'nowhere'"),
        (["--data.max_len=701"], r"701 tokens .* 700 positions"),
        (["--evaluation.sharded=true"], r"a sharded evaluation needs FSDP2.*trainer/fsdp\.yaml"),
        (["--config=nosuch.yaml"], r"no config file 'nosuch\.yaml'"),
        (["--trainer.precision=bf16-true"], r"bf16-nearest"),
        (["--data.max_forget_windows=0"], r"max_forget_windows must be at least 1; got 0"),
        (["--model.hinge.step=-1"], r"Δ_q, in logits\) must be positive and finite; got -1"),
        (["--ckpt_path=last"], r"no checkpoint to go on from .*checkpoint\.enabled: true"),
        (["--trainer.logger=false", "--export.folder=mine"], r"mine, which exists already.*export\.folder"),
    ],
)
def test_bad_input_ends_with_its_remedy_before_anything_is_trained(overrides, said, capsys, tmp_path):
    Path("mine").mkdir()
    message = refused(capsys, "fit", "--config", "quickstart.yaml", *SMALL, *overrides)
    assert re.search(said, message, re.DOTALL), message
    assert "Traceback" not in message
    assert not Path("checkpoints/quickstart/target").exists()


def test_a_misspelt_key_in_a_file_is_answered_with_the_right_one(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("model:\n  alhpa: 3\n")
    message = refused(capsys, "fit", "--config", "quickstart.yaml", "--config", str(tmp_path / "own.yaml"))
    assert "Did you mean 'model.alpha'?" in message


def test_missing_and_empty_corpus_files_are_named(tmp_path, capsys):
    broken = tmp_path / "broken"
    Newsroom(6, 6, 2, rounds=1).write(broken)
    (broken / "raw/retain1.json").unlink()
    arguments = ["fit", "--config", "quickstart.yaml", *SMALL, "--data.newsroom=null", f"--data.corpus={broken}"]
    assert str(broken / "raw/retain1.json") in refused(capsys, *arguments)
    (broken / "raw/forget.json").write_text("[]")
    assert "'raw/forget'" in refused(capsys, *arguments)
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    "configs",
    [
        ["quickstart.yaml"],
        ["news.yaml"],
        ["books.yaml"],
        ["twitter.yaml"],
        ["quickstart_twitter.yaml"],
        ["quickstart_tofu.yaml"],
        ["tofu.yaml"],
        ["tofu.yaml", "method/simnpo_gdr.yaml"],
        ["smollm2_quickstart.yaml"],
        ["rwku.yaml"],
        ["wmdp.yaml"],
        ["own.yaml"],
        ["own_questions.yaml"],
        ["twitter.yaml", "method/npo_gdr.yaml"],
        ["rwku.yaml", "method/ga.yaml"],
        ["wmdp.yaml", "method/rmu_wmdp.yaml"],
        ["wmdp.yaml", "method/rmu_wmdp.yaml", "trainer/one_a100.yaml"],
        ["own.yaml", "method/npo_klr.yaml"],
        ["own_questions.yaml", "method/simnpo_gdr.yaml"],
        ["own_questions.yaml", "method/idkdpo.yaml"],
        *([base, method] for base in ("quickstart.yaml", "news.yaml") for method in shipped_names("method")),
        *([base, trainer] for base in ("quickstart.yaml", "news.yaml") for trainer in shipped_names("trainer")),
        *(["quickstart.yaml", logger] for logger in shipped_names("logger")),
        *(["news.yaml", "method/npo_gdr.yaml", adapter] for adapter in shipped_names("adapter")),
        *(["news.yaml", "method/sure.yaml", trainer] for trainer in shipped_names("trainer")),
        *([base, f"robustness/{base}"] for base in ("quickstart.yaml", "news.yaml")),
        *(["news.yaml", method, "news-mini.yaml"] for method in shipped_names("method")),
    ],
    ids="+".join,
)
def test_every_shipped_config_and_every_composition_passes_the_parser(configs, capsys):
    arguments = [part for name in configs for part in ("--config", name)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, "--print_config"])
    assert ended.value.code in (None, 0)
    printed = capsys.readouterr().out
    for name in configs:
        if name.startswith("method/"):
            fragment = yaml.safe_load(find_config(name).read_text())["model"]
            # a fragment that says nothing about the hinge leaves it as it was
            hinge = fragment.get("hinge", {"class_path": "LogitHinge"})
            assert ("LogitHinge" in printed) == (hinge is not None and "LogitHinge" in hinge["class_path"])


@pytest.mark.parametrize("name", shipped_names("finetune"))
def test_every_finetune_config_passes_the_parser(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["finetune", "--config", name, "--out", "x", "--print_config"])
    assert ended.value.code in (None, 0)
    assert "optimization" in capsys.readouterr().out


def test_all_shipped_configs_are_covered_by_a_test():
    fit = {"quickstart.yaml", "news.yaml", "books.yaml", "news-mini.yaml"}
    fit |= {"twitter.yaml", "quickstart_twitter.yaml", "rwku.yaml", "own.yaml", "own_questions.yaml"}
    fit |= {"smollm2.yaml", "smollm2_quickstart.yaml", "tofu.yaml", "quickstart_tofu.yaml", "wmdp.yaml"}
    folders = ("method/", "adapter/", "finetune/", "quantizer/", "trainer/", "benchmark/", "folds/", "paper/")
    folders += ("attack/", "robustness/", "logger/", "sweep/", "launcher/")
    assert {name for name in shipped_names() if not name.startswith(folders)} == fit


def test_module_and_console_script_answer_help():
    for command in ([sys.executable, "-m", "quail_lightning"], [f"{sys.prefix}/bin/quail"]):
        shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        assert "finetune" in shown.stdout
        assert "validate" in shown.stdout


def test_the_version_is_said_at_once() -> None:
    code = "import sys\nfrom quail_lightning.cli import main\nmain(['--version'])\nprint('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["quail-lightning", version("quail-lightning"), "False"]


def test_help_loads_nothing_heavy_beyond_what_lightning_loads():
    """bitsandbytes, datasets and the like are imported where they are used."""
    script = (
        "import sys, lightning.pytorch.cli; before = set(sys.modules)\n"
        "import quail_lightning.command_line.lightning_cli\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"bitsandbytes", "datasets", "accelerate", "rouge_score", "nltk", "pyarrow", "pandas", "tokenizers"}
    assert not heavy & set(shown.stdout.split())


@pytest.mark.parametrize("verb", ["analyze", "compare", "convert", "report"])
def test_verbs_that_train_nothing_do_without_lightning(verb):
    script = (
        "import sys\nfrom quail_lightning.cli import main\n"
        f"try: main(['{verb}', '--help'])\nfinally: print('lightning' in sys.modules, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--config" in shown.stdout
    assert shown.stderr.split()[-1] == "False"


def test_installed_package_brings_its_configs(tmp_path):
    """The wheel, not only the checkout, holds the configs."""
    import zipfile

    from quail_lightning.configuration.files import shipped_folder

    pytest.importorskip("hatchling")
    root = shipped_folder().parent
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not run from a checkout")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for name in shipped_names():
        assert f"quail_lightning/configs/{name}" in names
    brought = {"py.typed", "evaluation/published.yaml", "report/page.html"}
    assert {f"quail_lightning/{name}" for name in brought} <= {*names}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_a_finished_run_is_reported_and_says_that_it_finished(quickstart, capfd):
    folder = quickstart / "logs/quickstart/latest"
    (start,) = json.loads((folder / "run.json").read_text())["starts"]
    assert start["outcome"] == "finished"
    run("report", "logs/quickstart/latest", "--out", "report.html", "--responses", "folded")
    page = Path("report.html").read_text()
    assert "Line chart: losses as they are minimized, unweighted, by step" in page
    assert read_provenance(folder / "model")["weights_sha256"]["model.safetensors"] in page
    assert '<details class="private">' in page
    assert "report: report.html" in capfd.readouterr().out
    assert "is named twice" in refused(capfd, "compare", "logs/quickstart/latest", str(folder.resolve()))


def test_results_json_is_strict_json(quickstart):
    text = (quickstart / "logs/quickstart/latest/results.json").read_text()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    chosen = training_precision("cpu")
    assert content["arithmetic"] == {"training": chosen, "evaluation": arithmetic_name(torch.bfloat16, "cpu")}


def test_the_arithmetic_is_chosen_once_and_written_down(quickstart):
    config = yaml.safe_load((quickstart / "logs/quickstart/latest/config.yaml").read_text())
    assert config["trainer"]["precision"] == training_precision("cpu")
    for name in ("target", "retrained"):
        provenance = read_provenance(quickstart / "checkpoints/quickstart" / name)
        assert provenance["recipe"]["precision"] is None
        assert provenance["hardware"]["precision"] == training_precision("cpu")


def test_emulated_products_are_kept_where_they_are_asked_for_with_a_line(quickstart, monkeypatch):
    monkeypatch.setenv("QUAIL_ARITHMETIC", "float32")
    told: list[str] = []
    monkeypatch.setattr(lightning_cli, "rank_zero_info", told.append)
    options = ["--trainer.fast_dev_run=true", "--trainer.precision=bf16-mixed"]
    run("validate", "--config", "quickstart.yaml", *SMALL[:-2], *options, "--trainer.accelerator=cpu")
    (notice,) = told
    assert "no instructions for bfloat16 products" in notice
    assert "32-true" in notice


def files_below(*folders):
    return {path for folder in folders for path in Path(folder).rglob("*") if path.is_file()}


LITTLE = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]


def test_a_dry_run_and_a_validation_leave_nothing(quickstart, capfd):
    before = files_below("logs", "checkpoints"), set(Path().iterdir())
    run("fit", "--config", "quickstart.yaml", *SMALL, "--trainer.fast_dev_run=true", "--checkpoint.enabled=true")
    assert "its results and its model are not kept" in capfd.readouterr().out
    run("validate", "--config", "quickstart.yaml", *SMALL)
    assert "val/nll_forget" in capfd.readouterr().out
    assert (files_below("logs", "checkpoints"), set(Path().iterdir())) == before


@pytest.mark.parametrize("verb", ["fit", "test", "validate"])
def test_a_run_that_is_refused_late_leaves_no_folder(quickstart, capsys, monkeypatch, verb):
    def refuse(self, trainer, pl_module, stage):
        raise InputError("refused by the last of the checks")

    monkeypatch.setattr(lightning_cli.KeepBest, "setup", refuse)
    before = set(Path("logs/quickstart").iterdir())
    assert "last of the checks" in refused(capsys, verb, "--config", "quickstart.yaml", *SMALL)
    assert set(Path("logs/quickstart").iterdir()) == before


def ended_by(monkeypatch, error, *options):
    """The exit status of a fit in whose epoch something happens."""

    def happen(self, trainer, pl_module):
        raise error

    monkeypatch.setattr(lightning_cli.KeepBest, "on_train_epoch_end", happen)
    before = signal.getsignal(signal.SIGINT)  # Lightning ignores it once it came
    try:
        with pytest.raises(SystemExit) as ended:
            run("fit", "--config", "quickstart.yaml", *SMALL, *LITTLE, *options)
    finally:
        signal.signal(signal.SIGINT, before)
    return ended.value.code


def test_ctrl_c_says_which_checkpoint_to_go_on_from(quickstart, capsys, monkeypatch):
    version = "--trainer.logger.init_args.version=interrupted"
    assert ended_by(monkeypatch, KeyboardInterrupt(), version, "--checkpoint.enabled=true") == 130
    (checkpoint,) = Path("logs/quickstart/interrupted/checkpoints").glob("step-*")
    said = capsys.readouterr().err
    assert f"interrupted. The same command with --ckpt_path {checkpoint} goes on from there." in said
    assert "Traceback" not in said


def test_a_full_disk_ends_with_a_line_and_the_model_so_far_is_kept(quickstart, capsys, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "results.json")
    assert ended_by(monkeypatch, full, "--trainer.logger.init_args.version=full") == 1
    said = capsys.readouterr().err
    assert "error: results.json: No space left on device. Make room" in said
    assert "The model as it was then lies in logs/quickstart/full/model" in said
    rescued = read_provenance(Path("logs/quickstart/full/model"))
    assert "No space left" in rescued["cut_short"]
    for name in ("target", "retrained"):  # made of the same texts
        assert read_provenance(Path("checkpoints/quickstart") / name)["texts_sha256"] == rescued["texts_sha256"]
    assert rescued["target_sha256"] == weights_digest("checkpoints/quickstart/target")


def test_what_is_allowed_and_hardly_meant_gets_a_notice(quickstart, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("quail_lightning.unlearning.module.rank_zero_info", told.append)
    options = ["--trainer.fast_dev_run=true", "--model.alpha=0", "--data.batch_size=999"]
    run("fit", "--config", "quickstart.yaml", *SMALL, *options)
    assert any("gives the retain term no weight" in line for line in told)
    assert any("data.batch_size (999 windows) is larger than the forget set" in line for line in told)
