"""A small grid and the plan of its sweep."""

import pytest

from quail_lightning.sweep.space import Choice, Space
from quail_lightning.sweep.trial import SweepPlan


@pytest.fixture
def plan(tmp_path):
    space = Space("grid", {"model.alpha": Choice((1.0, 5.0, 20.0))})
    out = tmp_path / "sweep"
    out.mkdir()
    return SweepPlan(("--config", "quickstart.yaml"), space, 3, out)
