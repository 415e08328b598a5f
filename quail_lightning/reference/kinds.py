"""The two things from which the target's logits can be had later: final hidden states, or the head's product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from quail_lightning.functional.chunked import Rows, chunk_tokens
from quail_lightning.functional.head import Head
from quail_lightning.reference.protocol import Sizes
from quail_lightning.reference.store import Store


class Kind(Protocol):
    """What is kept of each predicted token, and how its logits are had from it."""

    name: str
    shown: str  # in the progress bar

    def entries(self, sizes: Sizes) -> int:
        """Numbers kept a token."""
        ...

    def kept(self, final: Tensor, head: Head) -> Tensor:
        """[batch, time, width] hidden states → [batch, time, entries] in the head's dtype, in main memory."""
        ...

    def kept_head(self, head: Head) -> Head:
        """What of the head is kept."""
        ...

    def head_rows(self, sizes: Sizes) -> int:
        """Rows of the head's matrix that are kept."""
        ...

    def rows(self, store: Store, array: str, windows: Sequence[int], length: int, head: Head) -> Rows:
        """Logits of a batch's flattened [batch · length] tokens, on the device of the kept head."""
        ...


class States:
    """Final hidden states and one copy of the head, which casts them to its dtype: so nothing is lost by it."""

    name, shown = "final", "target's hidden states"

    def entries(self, sizes: Sizes) -> int:
        """The width."""
        return sizes.width

    def kept(self, final: Tensor, head: Head) -> Tensor:
        """The hidden states themselves."""
        return final.to(head.weight.dtype).cpu()

    def kept_head(self, head: Head) -> Head:
        """All of it."""
        return head

    def head_rows(self, sizes: Sizes) -> int:
        """All of them."""
        return sizes.vocabulary

    def rows(self, store: Store, array: str, windows: Sequence[int], length: int, head: Head) -> Rows:
        """Holds the batch's hidden states [batch · length, width]; each call makes its logits again."""
        hidden = store.windows(array, windows, length).flatten(0, 1).to(head.weight.device)
        return lambda rows: head.logits(hidden[rows])


class Products:
    """The product W h in the dtype in which the step computes it, before bias, scale and soft cap."""

    name, shown = "logits", "target's logits"

    def entries(self, sizes: Sizes) -> int:
        """The vocabulary."""
        return sizes.vocabulary

    def kept(self, final: Tensor, head: Head) -> Tensor:
        """The product, made a chunk of tokens at a time."""
        hidden, weight = final.flatten(0, 1).to(head.weight.dtype), head.weight
        product = torch.empty(len(hidden), len(weight), dtype=weight.dtype, device="cpu")
        chunk = chunk_tokens(len(weight), hidden.shape[1], hidden.device.type)
        for start in range(0, len(hidden), chunk):
            product[start : start + chunk] = hidden[start : start + chunk] @ weight.T
        return product.unflatten(0, final.shape[:2])

    def kept_head(self, head: Head) -> Head:
        """What follows the product; of the matrix no row is left."""
        return head._replace(weight=head.weight[:0])

    def head_rows(self, sizes: Sizes) -> int:
        """None."""
        return 0

    def rows(self, store: Store, array: str, windows: Sequence[int], length: int, head: Head) -> Rows:
        """Holds nothing; each call reads its own tokens from disk."""
        device = head.weight.device
        return lambda rows: head.finish(store.tokens(array, windows, length, rows).to(device))
