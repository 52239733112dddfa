"""Numbers on their way to the device."""

import numpy as np
import torch

from marey.clips.transfer import send


def test_numbers_arrive_with_their_type_and_shape():
    numbers = np.arange(6, dtype=np.int64).reshape(2, 3)
    sent = send(numbers, torch.device("cpu"))
    assert sent.dtype == torch.int64
    assert sent.tolist() == numbers.tolist()
    assert send(numbers, torch.device("meta")).shape == (2, 3)
