from __future__ import annotations

import zlib

import pytest
import torch

from quail_lightning.evaluation.attacks import ATTACKS, attack_aucs, attack_scores


def test_the_attacks_of_a_text_by_hand() -> None:
    scores = attack_scores("Abc", torch.tensor([-1.0, -2.0, -6.0]), torch.tensor([-4.0, -8.0]))
    assert scores["PPL"] == pytest.approx(3.0)  # mean NLL, not its exponential
    assert scores["PPL/lower"] == pytest.approx(0.5)
    assert scores["PPL/zlib"] == pytest.approx(3.0 / len(zlib.compress(b"Abc")))
    # ⌊0.4·3⌋ = ⌊0.5·3⌋ = ⌊0.6·3⌋ = 1: the lowest alone
    assert [scores[f"Min-{k}%"] for k in (40, 50, 60)] == [6.0, 6.0, 6.0]


def test_a_min_k_for_which_the_text_is_too_short_is_left_out() -> None:
    scores = attack_scores("abc", torch.tensor([-1.0, -2.0, -6.0]), torch.tensor([-1.0]))
    assert not {"Min-5%", "Min-10%", "Min-20%", "Min-30%"} & set(scores)
    twenty = attack_scores("x", torch.arange(-20.0, 0.0), torch.tensor([-1.0]))
    assert set(twenty) == set(ATTACKS)
    assert twenty["Min-5%"] == 20.0
    assert twenty["Min-20%"] == pytest.approx((20 + 19 + 18 + 17) / 4)


def test_aucs_of_all_pairs_by_hand() -> None:
    scores = {
        "forget": [{"PPL": 1.0}, {"PPL": 2.0}],
        "retain": [{"PPL": 0.5}],
        "holdout": [{"PPL": 2.0}, {"PPL": 3.0}],
    }
    aucs, notes = attack_aucs(scores)
    # the second split is positive, low scores win: of (2, 3) against (1, 2) only the tie 2 = 2 counts, ½ of 4
    assert aucs["forget_holdout_PPL"] == 0.125
    assert aucs["holdout_forget_PPL"] == 0.875
    assert aucs["forget_retain_PPL"] == 1.0
    assert aucs["forget_forget_PPL"] == 0.5
    assert len(aucs) == 9
    assert notes, "the attacks that were not run are told"


def test_an_attack_without_a_score_for_some_text_is_left_out_with_a_note() -> None:
    full = dict.fromkeys(ATTACKS, 1.0)
    partly = {attack: 1.0 for attack in ATTACKS if attack != "Min-5%"}
    aucs, notes = attack_aucs({"forget": [full, partly], "holdout": [full, full | {"PPL": float("nan")}]})
    assert "forget_holdout_Min-5%" not in aucs
    assert "forget_holdout_PPL" not in aucs
    assert aucs["forget_holdout_Min-10%"] == 0.5
    assert notes == [
        "Min-5%: 1 of 2 forget texts have no score",
        "PPL: 1 of 2 holdout texts have no score",
    ]
