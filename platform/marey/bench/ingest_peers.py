"""The other side of `marey.bench.ingest`: data loaders of other projects, in processes and environments of their own.

Run as a file by an interpreter that need not have Marey or what it depends on:

    ingest_peers.py write NAME JOB    # the clips in the format that a library is made for
    ingest_peers.py read NAME JOB     # two passes over them; see `serve`

All of them decode with the same few lines of PyAV in worker processes, as one would write them for oneself: `decode`.
"""

import importlib
import json
import sys
import types
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

Job = dict[str, Any]
Batches = Iterator[tuple[Iterable[int], torch.Tensor]]
Sample = dict[str, Any]

_SHARD_BYTES = 32 << 20


def serve(batches: Callable[[int], Batches]) -> None:
    """Go through pass 0 at once and pass 1 when a line arrives; say when the first batch is there and what came.

    ``batches(number)`` yields (rows, clips) of one pass. Standard output gets lines of JSON: ``{"ready": true}``, with
    the first batch ``{"first": true}``, then for each pass ``{"rows": [...], "sums": [...]}``, where a clip's sum is of
    every eighth pixel of every eighth line.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no answer
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for number in (0, 1):
        rows: list[int] = []
        sums: list[int] = []
        for numbers, clips in batches(number):
            if number == 0 and not rows:
                print(json.dumps({"first": True}), file=answers, flush=True)
            rows += [int(row) for row in numbers]
            sums += clips[..., ::8, ::8].flatten(1).sum(1, dtype=torch.int64).tolist()
        print(json.dumps({"rows": rows, "sums": sums}), file=answers, flush=True)
        sys.stdin.readline()


def decode(sample: Sample, work: dict[str, Any], crop: int) -> torch.Tensor:
    """The frames that ``work`` names, cut and resized: uint8 [T, C, crop, crop].

    ``sample``: ``payload``, H.264 packets one after another; ``lengths``, bytes of each; ``keyframes``, their numbers.
    """
    payload, lengths, keyframes, frames = sample["payload"], sample["lengths"], sample["keyframes"], work["frames"]
    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    ends = np.cumsum(lengths)
    wanted, pictures = set(frames), {}
    packets: list[Any] = []
    for number in range(keyframes[bisect_right(keyframes, frames[0]) - 1], frames[-1] + 1):
        packet = av.Packet(payload[ends[number] - lengths[number] : ends[number]])
        packet.pts = number
        packets.append(packet)
    for one in [*packets, None]:
        for frame in context.decode(one):
            if frame.pts in wanted:
                pictures[frame.pts] = frame.to_ndarray(format="rgb24")
    clip = torch.from_numpy(np.stack([pictures[number] for number in frames])).permute(0, 3, 1, 2)
    top, left, height, width, flip = work["box"]
    cut = clip[:, :, top : top + height, left : left + width]
    cut = functional.interpolate(cut, size=(crop, crop), mode="bilinear", antialias=True)
    return cut.flip(3) if flip else cut


class Rows(Dataset[tuple[int, torch.Tensor]]):
    """A clip table's Parquet files, by row group; an item is asked for by what is wanted of it."""

    def __init__(self, job: Job) -> None:
        parquet = importlib.import_module("pyarrow.parquet")
        self.crop = job["crop"]
        self.groups: list[tuple[str, int]] = []
        self.firsts: list[int] = []
        first = 0
        for path in job["files"]:
            metadata = parquet.ParquetFile(path).metadata
            for group in range(metadata.num_row_groups):
                self.groups.append((path, group))
                self.firsts.append(first)
                first += metadata.row_group(group).num_rows
        self.length = first
        self.opened: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.length

    def sample(self, row: int) -> Sample:
        """One row of the table."""
        at = bisect_right(self.firsts, row) - 1
        path, group = self.groups[at]
        if path not in self.opened:
            self.opened[path] = importlib.import_module("pyarrow.parquet").ParquetFile(path)
        columns = ["payload", "packet_lengths", "keyframes"]
        table = self.opened[path].read_row_group(group, columns=columns).slice(row - self.firsts[at], 1)
        payload, lengths, keyframes = (table.column(name)[0].as_py() for name in columns)
        return {"row": row, "payload": payload, "lengths": lengths, "keyframes": keyframes}

    def __getitem__(self, work: dict[str, Any]) -> tuple[int, torch.Tensor]:
        return work["row"], decode(self.sample(work["row"]), work, self.crop)


class Order:
    """A batch sampler: the batches of the pass that ``number`` says."""

    def __init__(self, job: Job) -> None:
        self.passes, self.batch, self.number = job["passes"], job["batch"], 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        works = self.passes[self.number]
        return iter([works[first : first + self.batch] for first in range(0, len(works), self.batch)])


class Decode:
    """From a stored sample to (row, clip), by the second pass's work: what a library's order is, is its own."""

    def __init__(self, job: Job) -> None:
        self.works = {work["row"]: work for work in job["passes"][1]}
        self.crop = job["crop"]

    def __call__(self, sample: Sample) -> tuple[int, torch.Tensor]:
        """The row's number, and the clip that its work makes of it."""
        row = int(sample["row"])
        read = {**sample, "lengths": _list(sample["lengths"]), "keyframes": _list(sample["keyframes"])}
        return row, decode(read, self.works[row], self.crop)


def _list(numbers: Any) -> list[int]:
    return numbers if isinstance(numbers, list) else json.loads(numbers)


def dataloader(job: Job) -> Callable[[int], Batches]:
    """PyTorch's own loader over the Parquet files, in the plan's order."""
    order = Order(job)
    loader = DataLoader(Rows(job), batch_sampler=order, **_workers(job))

    def batches(number: int) -> Batches:
        order.number = number
        return iter(loader)

    return batches


def webdataset(job: Job) -> Callable[[int], Batches]:
    """Shards are tar files; one sample is two members."""
    library, decoded = importlib.import_module("webdataset"), Decode(job)
    shards = sorted(str(path) for path in Path(job["folder"]).glob("*.tar"))
    dataset = library.WebDataset(shards, shardshuffle=len(shards)).shuffle(100).map(_members).map(decoded)
    dataset = dataset.batched(job["batch"], collation_fn=default_collate)
    loader = library.WebLoader(dataset, batch_size=None, **_workers(job))
    return lambda number: iter(loader)


def _members(sample: dict[str, Any]) -> Sample:
    return {"payload": sample["h264"], **json.loads(sample["json"])}


def _decoding(dataset: Any, job: Job) -> Any:
    """A peer's class of data sets, whose samples come decoded."""
    decode = Decode(job)

    class Clips(dataset):
        def __getitem__(self, index: Any) -> tuple[int, torch.Tensor]:
            return decode(super().__getitem__(index))

    return Clips


def litdata(job: Job) -> Callable[[int], Batches]:
    """Lightning's chunks of samples."""
    library = importlib.import_module("litdata")
    dataset = _decoding(library.StreamingDataset, job)(job["folder"], shuffle=True, drop_last=False)
    loader = library.StreamingDataLoader(dataset, batch_size=job["batch"], **_workers(job))
    return lambda number: iter(loader)


def mosaic(job: Job) -> Callable[[int], Batches]:
    """MosaicML's shards."""
    library = _streaming()
    # One canonical node: with its default of 64 it repeats samples until their number divides.
    dataset = _decoding(library.StreamingDataset, job)(
        local=job["folder"], batch_size=job["batch"], shuffle=True, num_canonical_nodes=1
    )
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=job["batch"], **_workers(job))
    return lambda number: iter(loader)


def _workers(job: Job) -> dict[str, Any]:
    count = job["workers"]
    return {"num_workers": count, "persistent_workers": count > 0}


def _streaming() -> Any:
    """The library. It imports torchvision for ready-made data sets that are not used here; a stand-in will do.

    A torchvision that fits a PyTorch without CUDA is not always to be had.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("transformers.feature_extraction_utils")  # looks for torchvision, and finds none
        for name in ("torchvision", "torchvision.datasets", "torchvision.transforms.functional"):
            sys.modules[name] = types.ModuleType(name)
        vars(sys.modules["torchvision.datasets"]).update(VisionDataset=object, CIFAR10=object)
        vars(sys.modules["torchvision.transforms.functional"]).update(to_tensor=None)
    return importlib.import_module("streaming")


def write_webdataset(job: Job) -> None:
    """Tar files of about 32 MB, at least two a worker: they are what workers share out."""
    library, rows = importlib.import_module("webdataset"), Rows(job)
    most = max(1, len(rows) // (2 * max(1, job["workers"])))
    pattern = str(Path(job["folder"], "%06d.tar"))
    with library.ShardWriter(pattern, maxsize=_SHARD_BYTES, maxcount=most, verbose=0) as writer:
        for row in range(len(rows)):
            sample = rows.sample(row)
            payload = sample.pop("payload")
            writer.write({"__key__": f"{row:09d}", "h264": payload, "json": sample})


def _stored(sample: Sample) -> Sample:
    lists = {name: json.dumps(sample[name]) for name in ("lengths", "keyframes")}
    return {"row": sample["row"], "payload": sample["payload"], **lists}


def write_litdata(job: Job) -> None:
    """Chunks of about 32 MB, written by one process."""
    library, rows = importlib.import_module("litdata"), Rows(job)
    library.optimize(
        fn=lambda row: _stored(rows.sample(row)),
        inputs=list(range(len(rows))),
        output_dir=job["folder"],
        chunk_bytes=_SHARD_BYTES,
        num_workers=1,
        start_method="fork",
    )


def write_mosaic(job: Job) -> None:
    """Shards of about 32 MB."""
    library, rows = _streaming(), Rows(job)
    columns = {"row": "int", "payload": "bytes", "lengths": "str", "keyframes": "str"}
    with library.MDSWriter(out=job["folder"], columns=columns, size_limit=_SHARD_BYTES) as writer:
        for row in range(len(rows)):
            writer.write(_stored(rows.sample(row)))


DATALOADER = "torch DataLoader"
LOADERS = {DATALOADER: dataloader, "webdataset": webdataset, "litdata": litdata, "mosaicml-streaming": mosaic}
WRITERS = {"webdataset": write_webdataset, "litdata": write_litdata, "mosaicml-streaming": write_mosaic}


def main() -> None:
    """What the command line says."""
    _, verb, name, path = sys.argv
    job: Job = json.loads(Path(path).read_text())
    job["folder"] = str(Path(path).with_name(name))
    if verb == "write":
        Path(job["folder"]).mkdir(exist_ok=True)
        WRITERS[name](job)
    else:
        serve(LOADERS[name](job))


if __name__ == "__main__":
    main()
