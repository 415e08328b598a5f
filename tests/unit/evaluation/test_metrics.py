from __future__ import annotations

from quail_lightning.evaluation.metrics import labels


def test_headings_carry_the_direction() -> None:
    assert labels()["verbmem_forget"].heading == "M1 VerMem ↓"
    assert labels()["privleak"].heading == "M3 PrivLeak → 0"
    assert labels()["membership_auc"].heading == "Membership AUC"
