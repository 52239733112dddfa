"""Peak memory of a step: what its model and optimiser hold, and what the step adds on top at its highest point."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # written to clear_refs: the peak of the resident memory starts again from its present value


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the weights, buffers and moments."""
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *moments))


def added(step: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that running ``step`` adds at its peak (activations, gradients); None where it cannot be told.

    On a GPU the allocator knows. On a CPU it is the growth of the process's resident memory, after what earlier
    steps have freed is given back to the system; Linux alone lets a process reset its peak.
    """
    if device.type == "cuda":
        return _added_cuda(step, device)
    if sys.platform != "linux" or not _CLEAR.exists():
        step()
        return None
    return _added_linux(step)


def _added_cuda(step: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _added_linux(step: Callable[[], object]) -> int:
    give_back()
    _CLEAR.write_text(_RESET_PEAK)
    before = _resident("VmRSS")
    step()
    return max(0, _resident("VmHWM") - before)


def give_back() -> None:
    """Return freed memory to the system (glibc keeps it otherwise) and to the GPU's driver."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def _resident(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def free(device: torch.device) -> int:
    """Bytes that the device has left; on a CPU the machine's, 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
