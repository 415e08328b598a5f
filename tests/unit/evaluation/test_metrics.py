from __future__ import annotations

from quail_lightning.evaluation.metrics import labels


def test_headings_carry_the_direction() -> None:
    assert labels()["verbmem_forget"].heading == "Verbatim recall ↓"
    assert labels()["privleak"].heading == "Membership leak → 0"
    assert labels()["membership_auc"].heading == "Membership AUC"
