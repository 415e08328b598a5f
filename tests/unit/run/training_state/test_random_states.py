"""Generators go on where they stood."""

import json
import random

import numpy as np
import torch

from quail_lightning.run.training_state import random_states, restore_random_states


def draw():
    return [torch.rand(3).tolist(), torch.randn(1).item(), random.random(), random.gauss(), *np.random.randn(3)]


def test_all_generators_draw_again_what_they_drew_also_by_way_of_json():
    np.random.randn()  # leaves half of a pair of normal numbers behind
    random.gauss()
    states = json.loads(json.dumps(random_states()))
    first = draw()
    assert draw() != first
    restore_random_states(states)
    assert draw() == first
