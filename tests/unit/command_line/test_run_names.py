"""``logs/<config>/<method>-<when>``: agreed by all ranks, one run's alone, and overridden by what is given."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger

from quail_lightning.command_line.resuming import chosen_checkpoint, resume_logger
from quail_lightning.command_line.run_names import described_method, name_after_config, named_run
from quail_lightning.command_line.trackers import keep_table, named_trackers, open_trackers, resume_trackers
from quail_lightning.errors import InputError
from quail_lightning.run.folder import remove_started, run_folder
from quail_lightning.run.training_state.folders import Checkpoint
from quail_lightning.terminal import RANKS

TENSORBOARD, CSV = (f"lightning.pytorch.loggers.{name}" for name in ("TensorBoardLogger", "CSVLogger"))


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


def logger(kind=TENSORBOARD, name="lightning_logs", version=None, save_dir="logs"):
    return Namespace(class_path=kind, init_args=Namespace(save_dir=save_dir, name=name, version=version))


def options(*loggers, **others):
    given = loggers[0] if len(loggers) == 1 else list(loggers)
    return Namespace(logger=given if loggers else None, default_root_dir=None, fast_dev_run=False, **others)


def named(trainer, method="quail"):
    """What the loggers are told, and the folders that were made."""
    with named_run(trainer, method) as made:
        given = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        return [each.init_args.version for each in given], made


def test_a_run_lies_below_its_configs_name_and_is_called_after_method_and_time():
    trainer = options(logger())
    name_after_config(trainer, ["configs/news.yaml", "configs/method/quail.yaml"])
    (version,), made = named(trainer)
    began = time.mktime(time.strptime(version, "quail-%Y%m%d-%H%M%S"))
    assert abs(time.time() - began) < 10
    assert made == [Path("logs/news") / version, Path("logs/news"), Path("logs")]
    assert made[0].is_dir()
    assert trainer.logger.init_args.version is None, "the config that is kept starts a new run"


def test_runs_that_start_in_the_same_second_get_names_of_their_own(monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20260102-030405")
    found = [named(options(logger(name="news")))[0][0] for _ in range(3)]
    assert found == ["quail-20260102-030405", "quail-20260102-030405-2", "quail-20260102-030405-3"]


def test_a_run_that_is_refused_leaves_no_folder():
    _, made = named(options(logger(name="news")))
    remove_started(made)
    assert list(Path().iterdir()) == []


def test_name_and_version_that_are_given_win():
    trainer = options(logger(name="mine", version="first"))
    name_after_config(trainer, ["news.yaml"])
    assert trainer.logger.init_args.name == "mine"
    with named_run(trainer, "quail") as made:
        assert (trainer.logger.init_args.version, made) == ("first", [])
    assert trainer.logger.init_args.version == "first"


def test_several_loggers_share_the_runs_name():
    trainer = options(logger(), logger(CSV, save_dir="tables"))
    name_after_config(trainer, ["news.yaml"])
    versions, made = named(trainer)
    assert versions[0] == versions[1]
    assert made[0] == Path("logs/news") / versions[0]
    assert named(options(logger(CSV, version=3), logger()))[0] == [3, 3]


def test_the_runs_folder_that_is_given_reaches_every_logger():
    """``--trainer.logger.init_args.version`` would reach the last one of a list alone."""
    trainer = options(logger(version="own"), logger(CSV, save_dir="tables"))
    name_after_config(trainer, ["news.yaml"], "folds/sust/fold_2")
    assert [each.init_args.version for each in trainer.logger] == ["fold_2", "fold_2"]
    assert {(each.init_args.save_dir, each.init_args.name) for each in trainer.logger} == {("folds", "sust")}
    without = options()
    without.logger = False
    name_after_config(without, ["news.yaml"], "folds/sust/fold_2")
    assert without.default_root_dir == "folds/sust/fold_2"


def test_other_loggers_and_none_are_left_alone():
    trainer = options(logger("lightning.pytorch.loggers.WandbLogger"))
    trainer.logger.class_path = "quail_lightning.run.processes.Processes"  # neither keeps runs in folders
    name_after_config(trainer, ["news.yaml"])
    assert named(trainer)[0][1] is None
    trainer = options()
    trainer.logger = False
    name_after_config(trainer, ["news.yaml"])
    with named_run(trainer, "quail") as made:
        assert made == []
    assert trainer.logger is False


def test_lightnings_default_logger_gets_the_same_names():
    trainer = options()
    name_after_config(trainer, [])
    assert trainer.logger.class_path == TENSORBOARD
    assert (trainer.logger.init_args.save_dir, trainer.logger.init_args.name) == ("logs", "unnamed")


def test_a_dry_run_and_a_place_that_cannot_be_made_reserve_nothing():
    trainer = options(logger(name="news"))
    trainer.fast_dev_run = True
    assert named(trainer) == ([None], [])
    Path("file").touch()
    versions, made = named(options(logger(name="news", save_dir="file")))
    assert re.fullmatch(r"quail-\d{8}-\d{6}", versions[0])
    assert made == []


@pytest.mark.parametrize("variable", RANKS)
def test_another_rank_makes_no_folder_and_learns_the_first_ones(variable, monkeypatch):
    (first,), _ = named(options(logger(name="news")))
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(time, "strftime", lambda form: "20260102-030405")  # another machine's clock
    (own,), made = named(options(logger(name="news")))
    assert (own, made) == ("quail-20260102-030405", [])
    assert [path.name for path in Path("logs/news").iterdir()] == [first]

    class Rank:
        """Lightning's Trainer, as far as the folder goes: its log_dir is the first rank's."""

        strategy = SimpleNamespace(broadcast=lambda value: f"logs/news/{first}")

        @property
        def log_dir(self):
            return self.strategy.broadcast(f"logs/news/{own}")

    assert run_folder(Rank()) == Path("logs/news") / first


def term(name, **arguments):
    return Namespace(class_path=f"quail_lightning.objectives.{name}", init_args=Namespace(**arguments))


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [
        ({"forget": term("GradientAscent"), "retain": term("GradientDescent"), "hinge": None}, {}, "ga_gdr"),
        ({"forget": term("GradientAscent"), "retain": None, "hinge": None, "saliency": {}}, {}, "ga_sure"),
        ({"forget": term("NegativePreference"), "retain": term("KLRetention"), "hinge": None}, {}, "npo_klr"),
        (
            {
                "forget": term("GradientAscent"),
                "retain": term("GradientDescent"),
                "hinge": term("LogitHinge", form="smooth"),
            },
            {},
            "quail_smooth",
        ),
        ({"forget": term("GradientDescent"), "retain": term("GradientDescent")}, {"refusals": {"a": 1}}, "rt"),
    ],
)
def test_the_method_is_read_from_the_options(model, data, name):
    section = Namespace(model=Namespace(**model), data=Namespace(init_args=Namespace(**data)))
    assert described_method("fit", section) == name
    assert described_method("test", section) == "test"


def test_last_means_the_youngest_run_of_the_same_config():
    for config, run in (("news", "ga-1"), ("news", "quail-2"), ("books", "quail-3")):
        Path(f"logs/{config}/{run}/checkpoints/step-00000004").mkdir(parents=True)
    trainer = options(logger())
    name_after_config(trainer, ["configs/news.yaml"])
    found = chosen_checkpoint("last", trainer)
    assert found.run == Path("logs/news/quail-2")
    resume_logger(trainer, found)
    assert trainer.logger.init_args.version == "quail-2"


def test_a_run_named_by_the_link_goes_on_under_its_own_name():
    step = Path("logs/news/ga-1/checkpoints/step-00000004")
    step.mkdir(parents=True)
    Path("logs/news/latest").symlink_to("ga-1")
    trainer = options(logger(name="news"), logger(CSV, name="news"))
    resume_logger(trainer, Checkpoint(Path("logs/news/latest/checkpoints/step-00000004"), 4))
    assert [each.init_args.version for each in trainer.logger] == ["ga-1", "ga-1"]


def classes(trainer):
    given = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    return [each.class_path.rpartition(".")[2] for each in given]


def tracker(kind, **options):
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(**options))


def test_a_logger_that_keeps_no_folder_has_one_before_it_that_does():
    wandb, mlflow = (
        tracker("WandbLogger", name=None, id=None),
        tracker("MLFlowLogger", run_name="mine", run_id=None),
    )
    trainer = options(wandb, mlflow)
    name_after_config(trainer, ["configs/news.yaml"])
    assert classes(trainer) == ["TensorBoardLogger", "WandbLogger", "MLFlowLogger"]
    with named_run(trainer, "quail") as made, named_trackers(trainer):
        assert wandb.init_args.name == f"news/{made[0].name}"
        assert mlflow.init_args.run_name == "mine"
    assert wandb.init_args.name is None, "the config that is kept starts a new run"
    given = options(wandb, logger(CSV))
    name_after_config(given, ["configs/news.yaml"])
    assert classes(given) == ["CSVLogger", "WandbLogger"]
    for few in (options(logger(CSV)), options(tracker("WandbLogger", name=None))):
        name_after_config(few, ["configs/news.yaml"])
        assert classes(few)[0] in ("CSVLogger", "TensorBoardLogger")


def test_trackers_go_on_with_the_run_that_they_know(tmp_path):
    starts = [
        {"trackers": {"WandbLogger": "first"}},
        {"trackers": {"WandbLogger": "abc", "MLFlowLogger": "def"}},
        {},
    ]
    (tmp_path / "run.json").write_text(json.dumps({"starts": starts}))
    wandb, mlflow = tracker("WandbLogger", id=None), tracker("MLFlowLogger", run_id="own")
    resume_trackers(options(logger(), wandb, mlflow), tmp_path)
    assert (wandb.init_args.id, mlflow.init_args.run_id) == ("abc", "own")
    (tmp_path / "run.json").write_text("damaged")
    fresh = tracker("WandbLogger", id=None)
    resume_trackers(options(fresh), tmp_path)
    assert fresh.init_args.id is None


def test_the_table_of_a_run_that_goes_on_is_kept(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, loggers=[CSVLogger(tmp_path)])
    for number in (1, 2):
        (tmp_path / "metrics.csv").write_text(str(number))
        keep_table(trainer, tmp_path)
    assert [(tmp_path / f"metrics-{number}.csv").read_text() for number in (1, 2)] == ["1", "2"]
    keep_table(trainer, tmp_path)  # nothing was logged since


def test_a_tracker_whose_server_does_not_answer_is_refused():
    class Unreachable:
        @property
        def experiment(self):
            raise ConnectionError("no route to host\nadvice")

    with pytest.raises(InputError, match=r"Unreachable could not begin a run \(no route to host\)"):
        open_trackers(SimpleNamespace(is_global_zero=True, loggers=[Unreachable()]))
