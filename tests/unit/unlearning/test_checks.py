"""Strategies that are refused, and why."""

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from quail_lightning.errors import InputError
from quail_lightning.objectives import LogitHinge, MeasuredStep
from quail_lightning.unlearning.checks import check_strategy
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
