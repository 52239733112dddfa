"""Memory that a state is copied into before it is written: the same from one checkpoint to the next."""

import torch
from torch import Tensor

_PAGE = 4096  # bytes, at most what a page has


class Staging:
    """CPU tensors by name, made at the first copy and kept: as much memory as the state that is copied.

    Fresh memory would cost a page fault every 4 KiB, as much again as the copy, each time; from a GPU a copy into
    pinned memory runs at the bus's full rate.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def hold(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for a copy of ``tensor``, every page of which is there.

        May be called beside training. Touched by NumPy: PyTorch would start OpenMP threads for the calling thread too,
        and with more of these than cores those of the training thread sleep between any two operations.
        """
        held, dtype = self._held.get(name), dtype or tensor.dtype
        if held is None or held.shape != tensor.shape or held.dtype != dtype:
            held = self._held[name] = torch.empty(tensor.shape, dtype=dtype, pin_memory=tensor.is_cuda)
            held.reshape(-1).view(torch.uint8).numpy()[::_PAGE] = 0
        return held

    def copy(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``tensor`` on the CPU, contiguous, as it is now; valid until ``name`` is copied again."""
        return self.hold(name, tensor, dtype).copy_(tensor.detach())
