"""What a preparation says of its videos before they are opened."""

import pytest

from marey.clips.datasets import Source
from marey.launch.prepare import labels_of


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ([Source("a", "/a"), Source("b", "/b")], "none; no split 2"),
        ([Source("a", "/a", 0, split="train"), Source("b", "/b", 3, split="test")], "2 classes; train 1, test 1"),
        ([Source("a", "/a", 0), Source("b", "/b")], "1 classes, 1 videos without; no split 2"),
    ],
)
def test_labels_and_splits_are_counted(sources, told):
    assert labels_of(sources) == told
