from __future__ import annotations

from typing import Any

import pytest

from quail_lightning.inference import batching
from quail_lightning.inference.batching import generation_rows, likelihood_rows


def test_less_free_memory_means_fewer_rows_and_never_none(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for free in (2**40, 2**26, 2**20, 0):
        monkeypatch.setattr(batching, "free_bytes", lambda device, free=free: free)
        rows.append((generation_rows(model, 200), likelihood_rows(model, 200)))
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == (32, 2048 // 200)
    assert rows[0][0] > rows[2][0] >= 1
    assert rows[-1] == (1, 1)


def test_longer_texts_come_in_smaller_batches(model: Any) -> None:
    assert likelihood_rows(model, 100) > likelihood_rows(model, 1000)
    assert likelihood_rows(model, 10_000) == 1
