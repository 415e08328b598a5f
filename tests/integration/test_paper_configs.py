"""configs/paper holds each paper's own setting, and composes with a small model.

The numbers below are copied from the papers: the failure paper's appendix D (Tables 5 to 7), QUAIL's Table II and
section VII-B.
"""

from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import NamedTuple

import pytest
import yaml

from quail_lightning.cli import main
from quail_lightning.configuration.files import shipped_names
from quail_lightning.evaluation.published import published_row

CORPORA = {"news": ("MUSE-News", 10), "books": ("MUSE-Books", 5)}  # corpus, epochs
ALPHA = {
    "news": {"ga_gdr": 1, "ga_klr": 1, "npo_gdr": 1, "npo_klr": 1},
    "books": {"ga_gdr": 100, "ga_klr": 2, "npo_gdr": 300, "npo_klr": 2},
}
SURE = {  # α, percentile
    "news": {"ga_gdr": (50, 95), "ga_klr": (10, 90), "npo_gdr": (50, 95), "npo_klr": (10, 90)},
    "books": {"ga_gdr": (400, 99), "ga_klr": (20, 90), "npo_gdr": (300, 99), "npo_klr": (20, 90)},
}
TERMS = {"ga": "GradientAscent", "npo": "NegativePreference", "gdr": "GradientDescent", "klr": "KLRetention"}


class Expected(NamedTuple):
    method: str
    alpha: float | None = None  # None: no retain term that it would weigh
    gamma: float | None = None  # None: no hinge
    percentile: float | None = None
    learning_rate: float = 1e-5
    schedule: str = "joint"
    weighting: str = "additive"
    published: str | None = None


def expected_configs():
    for corpus in CORPORA:
        for method in ("ga", "npo"):
            yield f"{method}_{corpus}", Expected(method, published=f"failure/{corpus}/{method}")
        for method, alpha in ALPHA[corpus].items():
            yield f"{method}_{corpus}", Expected(method, alpha, published=f"failure/{corpus}/{method}")
        for method, (alpha, percentile) in SURE[corpus].items():
            options = {
                "percentile": percentile,
                "learning_rate": 1e-4,
                "published": f"failure/{corpus}/{method}_sure",
            }
            yield f"sure_{method}_{corpus}", Expected(method, alpha, **options)
        letter = {"schedule": "epoch", "weighting": "convex"}
        yield f"quail_algorithm1_{corpus}", Expected("ga_gdr", 0.7, 0.5, **letter)
    yield "quail_news", Expected("ga_gdr", 5, 8, published="quail/news/ga_gdr_l1-alpha5-gamma8")
    yield "quail_books", Expected("ga_gdr", 5, 8)
    yield "quail_ga_gdr_news", Expected("ga_gdr", 5, published="quail/news/ga_gdr")


EXPECTED = dict(expected_configs())


@cache
def parsed(*configs):
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit) as ended:
        main(["fit", *(part for name in configs for part in ("--config", name)), "--print_config"])
    assert ended.value.code in (None, 0)
    return yaml.safe_load(printed.getvalue())


def class_name(term):
    return None if term is None else term["class_path"].rpartition(".")[2]


def value(config, option):
    """Of an option as the published rows name it; a class's arguments stand below ``init_args``."""
    for key in option.split("."):
        config = config["init_args"][key] if key in config.get("init_args", {}) else config[key]
    return config


def test_every_row_of_the_tables_has_its_config_and_nothing_else_is_there():
    assert {*shipped_names("paper")} == {f"paper/{name}.yaml" for name in (*EXPECTED, "small")}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_config_holds_what_the_paper_says(name):
    expected, (corpus, epochs) = EXPECTED[name], CORPORA[name.rpartition("_")[2]]
    config = parsed(f"paper/{name}.yaml")
    model, data, evaluation = (config[section] for section in ("model", "data", "evaluation"))
    forget, _, retain = expected.method.partition("_")
    assert class_name(model["forget"]) == TERMS[forget]
    assert class_name(model["retain"]) == TERMS.get(retain)
    assert class_name(model["hinge"]) == (None if expected.gamma is None else "LogitHinge")
    if forget == "npo":
        assert value(config, "model.forget.beta") == 0.1
    if expected.gamma is not None:
        assert value(config, "model.hinge.step") == 1.0
        assert model["gamma"] == expected.gamma
    if expected.alpha is not None:
        assert model["alpha"] == expected.alpha
    saliency = model["saliency"] and (model["saliency"]["percentile"], model["saliency"]["granularity"])
    assert saliency == (None if expected.percentile is None else (expected.percentile, "module"))
    assert (model["schedule"], model["weighting"]) == (expected.schedule, expected.weighting)
    assert (model["learning_rate"], model["weight_decay"]) == (expected.learning_rate, 0.0)
    assert (model["weight_precision"], model["gradient_checkpointing"]) == ("bf16-nearest", True)
    assert (config["seed_everything"], config["trainer"]["max_epochs"]) == (42, epochs)
    assert (data["init_args"]["max_len"], data["init_args"]["batch_size"]) == (2048, 2)
    assert model["target"] == f"muse-bench/{corpus}_target"
    assert evaluation["retrained"] == f"muse-bench/{corpus}_retrain"
    assert data["init_args"]["corpus"] == f"muse-bench/{corpus}"
    assert evaluation["suite"]["protocol"] == "published"
    assert evaluation["published"] == expected.published


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected.published])
def test_a_config_has_the_setting_of_the_row_that_it_names(name):
    setting = dict(published_row(EXPECTED[name].published).setting)
    del setting["method"]  # its terms are tested above
    config = parsed(f"paper/{name}.yaml")
    assert {option: value(config, option) for option in setting} == setting


@pytest.mark.parametrize("name", EXPECTED)
def test_on_a_small_model_the_objective_stays_and_no_published_figure_is_named(name):
    alone, small = parsed(f"paper/{name}.yaml"), parsed(f"paper/{name}.yaml", "paper/small.yaml")
    changed = {key for key in alone["model"] if alone["model"][key] != small["model"][key]}
    assert changed == {"target", "learning_rate", "gradient_checkpointing"}
    assert small["evaluation"]["suite"]["protocol"] == "published"
    assert small["evaluation"]["published"] is None
    assert small["model"]["target"] == "checkpoints/quickstart/target"


def test_the_small_model_is_the_quickstarts():
    small = parsed("paper/quail_news.yaml", "paper/small.yaml")
    quickstart = parsed("quickstart.yaml")
    assert small["prepare"] == quickstart["prepare"]
    kept = ("corpus", "newsroom", "max_len", "forget", "retain")
    assert [value(small, f"data.{key}") for key in kept] == [value(quickstart, f"data.{key}") for key in kept]
