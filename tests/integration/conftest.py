"""What the tests of several processes share."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """As the processes that are compared with: two threads add float32 products up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
