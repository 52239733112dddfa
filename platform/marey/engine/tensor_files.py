"""Tensors in safetensors files: hashed while they are written, and read with errors that name the file.

The layout is the one that the safetensors library writes: the length of a JSON header, the header, the tensors, those
of larger elements first. Written here, because the library hands out no bytes to hash on their way to the disk.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from marey.errors import CheckpointError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_PIECE = 8 * 2**20  # bytes that are hashed, and then written while they are still in the processor's cache


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write CPU tensors to a new file; its bytes and sha256, see `write_flushed`."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, start = {}, 0
    for name, tensor in ordered:
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    flat = (tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data for _, tensor in ordered)
    return write_flushed(path, (len(text).to_bytes(8, "little") + text, *flat))


def write_flushed(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a new file and flush it to the disk; ``{"bytes": ..., "sha256": ...}`` of what was handed over."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for part in parts:
            for start in range(0, len(part), _PIECE):
                piece = part[start : start + _PIECE]
                digest.update(piece)
                file.write(piece)
                size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def file_hash(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU. Raises `CheckpointError` whatever is wrong with it."""
    try:
        return load_file(path)
    except Exception as error:  # the library raises of many kinds, for headers that do not fit together too
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from None
