"""Long arrays in files without a name, mapped into memory: the system may drop their pages and read them again."""

import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

IN_MEMORY = 4 << 20  # bytes up to which an array is an ordinary one
SLICE = 1 << 20  # elements that are made at a time


def gather(chunks: Iterable[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    """One array of ``chunks``, one after the other."""
    with tempfile.TemporaryFile(prefix="marey-") as file:
        length = 0
        for chunk in chunks:
            chunk.astype(dtype, copy=False).tofile(file)
            length += len(chunk)
        file.flush()
        file.seek(0)
        if length * np.dtype(dtype).itemsize <= IN_MEMORY:
            return np.fromfile(file, dtype)
        return np.asarray(np.memmap(file, dtype, "r+", shape=(length,)))


def empty(length: int, dtype: type[np.generic]) -> np.ndarray:
    """An array to be filled."""
    if length * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(length, dtype)
    with tempfile.TemporaryFile(prefix="marey-") as file:
        return np.asarray(np.memmap(file, dtype, "w+", shape=(length,)))


def filled(length: int, dtype: type[np.generic], make: Callable[[slice], np.ndarray]) -> np.ndarray:
    """An array whose slices are ``make(slice)``."""
    found = empty(length, dtype)
    for part in slices(length):
        found[part] = make(part)
    return found


def slices(length: int) -> Iterator[slice]:
    """``length`` elements in slices of at most `SLICE`."""
    for first in range(0, length, SLICE):
        yield slice(first, min(length, first + SLICE))
