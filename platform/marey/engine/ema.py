"""Exponential moving average of the weights (Polyak & Juditsky 1992): what is evaluated and kept beside the weights.

Each worker averages the tensors it holds: whole ones, or under ZeRO-3 its partitions. A strategy says which those are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """Averages of the tensors ``live``, by name."""

    def __init__(self, decay: float, live: Mapping[str, Tensor]) -> None:
        self.decay = decay
        self.updates = 0
        self.averages = {name: tensor.detach().clone() for name, tensor in live.items()}

    @torch.no_grad()
    def update(self, live: Mapping[str, Tensor]) -> None:
        """One step on. At first the decay is lower, ``(1 + n) / (10 + n)``, so that the start is soon forgotten."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        names = list(self.averages)
        torch._foreach_lerp_([self.averages[name] for name in names], [live[name] for name in names], 1 - decay)

    @contextmanager
    def swapped(self, live: Mapping[str, Tensor]) -> Iterator[None]:
        """The averages in the place of the weights inside, the weights back after."""
        self._exchange(live)
        try:
            yield
        finally:
            self._exchange(live)

    @torch.no_grad()
    def _exchange(self, live: Mapping[str, Tensor]) -> None:
        for name, average in self.averages.items():
            held = average.clone()
            average.copy_(live[name])
            live[name].copy_(held)
