"""Strategies that are refused, and why."""

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientDescent, LogitHinge, MeasuredStep
from quail_lightning.objectives.weighting import term_weights
from quail_lightning.unlearning.checks import check_numbers, check_strategy, idle_terms, oversized_batches
from quail_lightning.unlearning.generic_labels import GenericLabels


def test_one_device_ddp_and_fsdp2_are_supported():
    for strategy in (SingleDeviceStrategy(), DDPStrategy(), ModelParallelStrategy()):
        check_strategy(strategy)


def test_fsdp1_is_refused_with_the_reason_and_the_way_out():
    with pytest.raises(InputError, match=r"FSDP1 .*19626 and 19685.*trainer/fsdp\.yaml"):
        check_strategy(FSDPStrategy())


def test_another_strategy_is_refused_by_its_name():
    with pytest.raises(InputError, match="OtherStrategy"):
        check_strategy(type("OtherStrategy", (), {})())


def test_what_needs_a_whole_model_is_refused_under_fsdp2_alone():
    measured = LogitHinge(MeasuredStep())
    check_strategy(DDPStrategy(), GenericLabels(), measured)
    check_strategy(DDPStrategy(), adam_states="offloaded")
    with pytest.raises(InputError, match=r"offloaded.*on one device"):
        check_strategy(ModelParallelStrategy(), adam_states="offloaded")
    with pytest.raises(InputError, match="generic labels"):
        check_strategy(ModelParallelStrategy(), GenericLabels())
    with pytest.raises(InputError, match=r"step is measured.*give the number"):
        check_strategy(ModelParallelStrategy(), hinge=measured)


def test_a_term_without_weight_gets_a_notice():
    retain, hinge = GradientDescent(), LogitHinge(1.0)
    assert idle_terms(term_weights("additive", 5, 1), retain, hinge) == []
    assert idle_terms(term_weights("additive", 0, 0), None, None) == []
    (said,) = idle_terms(term_weights("additive", 0, 1), retain, hinge)
    assert idle_terms(term_weights("additive", 0, 1), retain, hinge, moves=True) == []
    assert said.startswith("model.alpha gives the retain term no weight")
    (said,) = idle_terms(term_weights("additive", 1, 0), retain, hinge)
    assert said.startswith("model.gamma 0 gives the hinge no weight")
    assert "retain" in idle_terms(term_weights("convex", 1, 1), retain, None)[0]
    assert "forget" in idle_terms(term_weights("convex", 0, 1), retain, None)[0]


def test_a_weight_that_has_no_term_gets_a_notice():
    assert idle_terms(term_weights("additive", 1, 1), None, None) == []
    first, second = idle_terms(term_weights("additive", 5, 8), None, None)
    assert first.startswith("model.alpha changes nothing: there is no retain term")
    assert second.startswith("model.gamma changes nothing: there is no hinge")


def test_a_batch_larger_than_a_set_gets_a_notice():
    assert oversized_batches(4, 1, {"forget": 4, "retain": 9}) == []
    (said,) = oversized_batches(4, 2, {"forget": 5, "retain": 9})
    assert said.startswith("data.batch_size (4 windows on each of 2 devices) is larger than the forget set (5)")
    assert len(oversized_batches(10, 1, {"forget": 5, "retain": 9})) == 2


@pytest.mark.parametrize("betas", [(2.0, 0.9), (-0.1, 0.9), (0.9, 1.0)])
def test_betas_outside_their_range_are_refused(betas):
    with pytest.raises(InputError, match=r"model\.betas"):
        check_numbers(1e-5, 1.0, 0.0, betas, None, None)
