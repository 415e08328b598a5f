"""What the C library is asked for."""

import ctypes

from quail_lightning.comparison.heap import keep_freed_memory


def test_glibc_is_told_what_to_keep(monkeypatch):
    class Library:
        def __init__(self):
            self.asked = {}

        def mallopt(self, parameter, value):
            self.asked[parameter] = value

    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert library.asked == {-3: 2**25, -1: 2**28}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
