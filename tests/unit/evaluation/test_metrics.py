from __future__ import annotations

from quail_lightning.evaluation.metrics import METRICS


def test_headings_carry_the_direction() -> None:
    assert METRICS["verbmem_forget"].heading == "M1 VerMem ↓"
    assert METRICS["privleak"].heading == "M3 PrivLeak → 0"
    assert METRICS["membership_auc"].heading == "Membership AUC"
