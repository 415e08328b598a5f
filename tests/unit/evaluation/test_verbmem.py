from __future__ import annotations

from typing import Any

from quail_lightning.evaluation.verbmem import NEW_TOKENS, truncate_truths


def test_bos_counts_so_127_real_tokens_of_the_truth_are_kept(tokenizer: Any) -> None:
    truth = "".join(chr(97 + number % 26) for number in range(300))
    assert truncate_truths(tokenizer, [truth, "short"], NEW_TOKENS) == [truth[:127], "short"]
