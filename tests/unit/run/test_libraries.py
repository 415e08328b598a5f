"""Loading libraries without the garbage collector."""

import gc

import pytest

from quail_lightning.run.libraries import loading_libraries


@pytest.fixture
def collector():
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    (gc.enable if was_enabled else gc.disable)()


def test_the_collector_rests_while_libraries_load_and_leaves_what_they_made_alone(collector):
    before = gc.get_freeze_count()
    with loading_libraries():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_it_goes_on_after_a_library_that_cannot_be_loaded(collector):
    with pytest.raises(ImportError), loading_libraries():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(collector):
    gc.disable()
    with loading_libraries():
        pass
    assert not gc.isenabled()
