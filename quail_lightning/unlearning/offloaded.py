"""AdamW for a device that holds weights and gradients, and has no room for the moments beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class OffloadedAdamW(torch.optim.AdamW):
    """torch's AdamW on the weights' device, to the last bit, with the moments in main memory.

    They visit the device one weight at a time: 16 bytes a weight cross the bus at every step, 8 each way, and the
    device holds those of the largest weight. torchao's ``CPUOffloadOptimizer`` takes the gradients away during the
    backward pass, before they can be clipped, masked and summed over the processes.

    Between steps ``state`` is empty, since Lightning moves to the device whatever lies in it.

    Args:
        parameters: on the device.
        lr: size of a step.
        weight_decay: decoupled, as in torch.
        betas: decay of the first and the second moment.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        # several weights at once would need room for several weights' temporaries
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, betas=betas, foreach=False)
        self._kept: dict[Tensor, dict[str, Any]] = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            for group in groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        continue
                    self.param_groups = [group | {"params": [parameter]}]
                    if parameter in self._kept:
                        self.state[parameter] = _moved(self._kept[parameter], parameter.device)
                    super().step()
                    self._keep(parameter, self.state.pop(parameter))
        finally:
            self.param_groups = groups
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As of ``torch.optim.AdamW``, the moments in main memory."""
        self.state.update(self._kept)
        try:
            return super().state_dict()
        finally:
            self.state.clear()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of ``torch.optim.AdamW``, which would take the moments to the device."""
        super().load_state_dict(state_dict | {"state": {}})
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._kept.clear()
        for number, parameter in zip(saved, parameters, strict=True):
            if number in state_dict["state"]:
                self._keep(parameter, state_dict["state"][number])

    def _keep(self, parameter: Tensor, state: dict[str, Any]) -> None:
        """Put a weight's state into main memory: always the same, which on CUDA is page-locked for speed."""
        kept = self._kept.setdefault(parameter, {})
        for name, value in state.items():
            if name == "step":
                kept[name] = value.cpu().clone()
                continue
            if name not in kept:
                kept[name] = torch.empty_like(value, device="cpu", pin_memory=parameter.is_cuda)
            kept[name].copy_(value)


def _moved(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A copy on the device; the number of the step stays, as torch has it."""
    return {name: value if name == "step" else value.to(device, copy=True) for name, value in state.items()}
