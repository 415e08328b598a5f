"""A model in memory as the LM Evaluation Harness sees it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quail_lightning.data.opening import opening_text, opening_tokens
from quail_lightning.inference.encoding import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_NEW_TOKENS = 256  # of an answer whose task says nothing; the harness's own


def harness_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | None) -> Any:
    """The harness's own class around a model, with two differences.

    Its texts open as every other metric's prompts do (``opening_tokens``): the harness opens them with BOS only
    where the tokenizer puts it there by itself, and on small models that one token, the training windows' first,
    changes an answer here and there. And it counts, as ``cut``, the prompts that were longer than the model's
    positions and lost their beginning.

    Args:
        model: a causal language model on its device; it is put into evaluation mode.
        tokenizer: its own; a copy is used, since the harness gives it a padding token.
        batch_size: requests in one forward pass; None: 8, since the harness knows of no free memory.
    """
    from lm_eval.models.huggingface import HFLM

    class OpeningAsOurs(HFLM):  # type: ignore[misc]  # of an optional package without annotations
        cut = 0

        def tok_encode(self, string: str, **options: Any) -> list[int]:
            opening = opening_text(self.tokenizer)
            continued = options.get("add_special_tokens") is False or (opening and string.startswith(opening))
            ids = encode(self.tokenizer, [string])[0]
            ids = ids[len(opening_tokens(self.tokenizer)) :] if continued else ids
            return ids[-(options.get("left_truncate_len") or 0) :]

        def tok_batch_encode(
            self, strings: Sequence[str], left_truncate_len: int | None = None, **options: Any
        ) -> tuple[Tensor, Tensor]:
            """[batch, time] token numbers, padded on the left, and their mask."""
            rows = [self.tok_encode(string) for string in strings]
            self.cut += sum(len(row) > (left_truncate_len or len(row)) for row in rows)
            rows = [row[-(left_truncate_len or 0) :] for row in rows]
            ids = torch.full((len(rows), max(map(len, rows))), int(self.tokenizer.pad_token_id))
            mask = torch.zeros_like(ids)
            for number, row in enumerate(rows):
                ids[number, ids.shape[1] - len(row) :] = torch.tensor(row)
                mask[number, ids.shape[1] - len(row) :] = 1
            return ids, mask

        def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> Any:
            longest = self.max_length + 1  # the last token is predicted and not read
            self.cut += sum(len(context) + len(answer) > longest for _, context, answer in requests)
            # private: what is public has the texts, and these are their tokens
            return super()._loglikelihood_tokens(requests, **options)

    return OpeningAsOurs(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size or 8)
