"""Loading libraries without the garbage collector."""

import gc
import sys
from importlib import import_module

import pytest

from quail_lightning.run.libraries import loading_libraries


@pytest.fixture
def collector():
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    (gc.enable if was_enabled else gc.disable)()


@pytest.fixture
def library(tmp_path, monkeypatch):
    (tmp_path / "a_library.py").write_text("made = [[] for _ in range(1000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_library"
    sys.modules.pop("a_library", None)


def test_the_collector_rests_while_libraries_load_and_leaves_what_they_made_alone(collector, library):
    before = gc.get_freeze_count()
    with loading_libraries():
        assert not gc.isenabled()
        made = import_module(library).made
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_where_nothing_is_loaded_what_exists_can_still_be_freed(collector, library):
    import_module(library)
    before = gc.get_freeze_count()
    with loading_libraries():
        import_module(library)
    assert gc.get_freeze_count() == before


def test_it_goes_on_after_a_library_that_cannot_be_loaded(collector):
    with pytest.raises(ImportError), loading_libraries():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(collector):
    gc.disable()
    with loading_libraries():
        pass
    assert not gc.isenabled()
