"""The C library's heap, for training on a CPU: memory that a step frees is kept for the next one."""

import ctypes
import sys

# mallopt(3), of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc takes no more


def keep_freed() -> bool:
    """Let this process keep what it frees, as PyTorch does by itself on a GPU; False where there is no glibc.

    Otherwise glibc gives the end of its heap, and every block above a threshold, back to the system, which hands them
    out anew at a page fault for every 4 KiB: in each step again tens of thousands of them, a tenth of a small model's
    time. Blocks of more than 32 MiB still come from the system and go back to it.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
