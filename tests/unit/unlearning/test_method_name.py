"""What runs are called after the terms of their loss."""

import pytest
import yaml

from quail_lightning.configuration.files import find_config
from quail_lightning.configuration.import_gate import class_in
from quail_lightning.objectives import (
    DirectPreference,
    GradientAscent,
    GradientDescent,
    LogitHinge,
    NegativePreference,
)
from quail_lightning.unlearning.method_name import method_name


@pytest.mark.parametrize(
    "fragment",
    [
        *("ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "ihl_gdr", "rmu", "rmu_lat", "rt", "whp"),
        *("simnpo_gdr", "wga_gdr", "satimp_gdr", "ceu", "ceu_gdr", "undial", "undial_gdr", "similar_gdr"),
        *("task_vector", "quail", "quail_smooth", "quail_quadratic", "quail_exponential", "quail_layers"),
    ],
)
def test_a_fragments_run_goes_by_the_fragments_name(fragment):
    path = find_config(f"method/{fragment}.yaml")
    described = yaml.safe_load(path.read_text("utf-8"))
    model, extras = described["model"], dict(described.get("data", {}).get("init_args", {}))
    terms = [model.get(side) for side in ("forget", "retain", "hinge")]
    classes = [type(None) if term is None else class_in(path, term["class_path"]) for term in terms]
    form = (terms[2] or {}).get("init_args", {}).get("form", "hinge")
    assert method_name(*classes, form=form, extras=model | extras) == fragment


def test_hinge_and_saliency_are_added_to_any_method():
    terms = (NegativePreference, GradientDescent, LogitHinge)
    assert method_name(*terms, extras={"saliency": object()}) == "npo_gdr_quail_sure"
    assert method_name(*terms, extras={"adapter": object()}) == "npo_gdr_quail_lora"
    assert method_name(*terms, extras={"ridge_edit": object()}) == "npo_gdr_quail_ridge"


@pytest.mark.parametrize(
    ("fragment", "name"), [("npo_sam", "npo_gdr_sam"), ("pdu", "pdu_gdr_dual"), ("soul_npo_gdr", "npo_gdr_sophia")]
)
def test_ways_of_stepping_are_added_to_the_terms(fragment, name):
    path = find_config(f"method/{fragment}.yaml")
    model = yaml.safe_load(path.read_text("utf-8"))["model"]
    classes = [class_in(path, model[side]["class_path"]) for side in ("forget", "retain")]
    assert method_name(*classes, type(None), extras=model) == name


@pytest.mark.parametrize(
    ("alternates", "name"), [("idk", "idkdpo_gdr"), ("others", "dpo_gdr"), ("column", "dpo_gdr")]
)
def test_answers_that_decline_make_idkdpo_of_dpo(alternates, name):
    terms = (DirectPreference, GradientDescent, type(None))
    assert method_name(*terms, extras={"alternates": alternates}) == name


def test_a_term_without_a_short_name_goes_by_its_class():
    class BoundedAscent:
        """Of another package."""

    assert method_name(BoundedAscent, GradientDescent, type(None), extras={}) == "BoundedAscent_gdr"
    assert method_name(GradientAscent, type(None), type(None), extras={"saliency": None}) == "ga"
