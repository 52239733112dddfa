"""Memory that a state is copied into before it is written: the same from one checkpoint to the next."""

import torch
from torch import Tensor


class Staging:
    """CPU tensors by name, made at the first copy and kept: as much memory as the state that is copied.

    Fresh memory would cost a page fault every 4 KiB, as much again as the copy, each time; from a GPU a copy into
    pinned memory runs at the bus's full rate.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``tensor`` on the CPU, contiguous, as it is now; valid until ``name`` is copied again."""
        source, dtype = tensor.detach(), dtype or tensor.dtype
        held = self._held.get(name)
        if held is None or held.shape != source.shape or held.dtype != dtype:
            held = self._held[name] = torch.empty(source.shape, dtype=dtype, pin_memory=source.is_cuda)
        return held.copy_(source)
