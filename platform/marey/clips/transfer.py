"""Small tables and numbers on their way to the device."""

import numpy as np
import torch
from torch import Tensor


def send(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Numbers as a tensor on ``device``, of the same type and shape; the host does not wait.

    To a GPU they go from pinned memory: a copy from any other waits until the GPU has done all that it was given.
    """
    made = torch.from_numpy(numbers)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
