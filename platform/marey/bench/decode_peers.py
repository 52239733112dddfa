"""The other side of `marey.bench.decode`: decoders of other projects, in a process and an environment of their own.

Run as a file by another interpreter, which has the peers and not Marey's dependencies. Reads requests as lines of
JSON, ``{"path": ..., "clips": [[frame numbers] ...]}``, and answers each with the processor seconds that decoding took
and the mean of every frame, by which the frames can be compared.
"""

import importlib
import json
import sys
import time
from typing import Any

Answer = list[Any]


def torchcodec(path: str, clips: list[list[int]], mode: str) -> Answer:
    """PyTorch's own; ``exact`` scans the file first, ``approximate`` trusts its header."""
    decoders = importlib.import_module("torchcodec.decoders")
    found = []
    for clip in clips:  # a training sample opens its file anew
        decoder = decoders.VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode=mode)
        found.append(decoder.get_frames_at(clip).data)
    return found


def decord(path: str, clips: list[list[int]]) -> Answer:
    """DMLC's."""
    module = importlib.import_module("decord")
    return [module.VideoReader(path, num_threads=1).get_batch(clip).asnumpy() for clip in clips]


PEERS = {
    "torchcodec": lambda path, clips: torchcodec(path, clips, "exact"),
    "torchcodec, approximate": lambda path, clips: torchcodec(path, clips, "approximate"),
    "decord": decord,
}


def main() -> None:
    """Answer until standard input ends."""
    decode = PEERS[sys.argv[1]]
    for line in sys.stdin:
        request = json.loads(line)
        start = time.process_time()
        clips = decode(request["path"], request["clips"])
        seconds = time.process_time() - start
        means = [[float(frame.mean(dtype=_float(frame))) for frame in clip] for clip in clips]
        print(json.dumps({"seconds": seconds, "means": means}), flush=True)


def _float(frame: Any) -> Any:
    """The double of a frame's own library: a NumPy array's or a tensor's."""
    return float if type(frame).__module__ == "numpy" else importlib.import_module("torch").float64


if __name__ == "__main__":
    main()
