"""The row of a clip table: one contiguous segment of one source, with where its frames are and what they show.

The columns of schema version 1, all of which exist in every table (optional ones hold nulls):

| column | type | what |
|---|---|---|
| source_id | string | stable name of the source: its path below the prepared folder, or its place in the list |
| uri | string | where the source was read from (absolute path or URI) |
| start_s, end_s | double | the segment, in seconds of the source's own presentation time |
| timestamps | list<double> | presentation time of each stored frame in seconds of the source, in display order |
| keyframes | list<int32> | indices of the frames that can be decoded without another. Storage source: those worth a
  seek (the first, and every keyframe); empty: seeking is not exact there, frames are found by time from the start;
  null: timestamps lie or are missing too, frames are counted from the start; a folder of pictures: all |
| packet_lengths | list<int32> | bytes of each packet in ``payload``, one a frame. Storage source: bytes of the file, in
  pieces of at most 1 GiB (a file of another size is not the one that was prepared); of a folder: of each picture |
| storage | string | what payload holds: "h264" (packets), "jpeg" (a picture a frame), "raw" (uint8 RGB [T, H, W, 3]);
  or "source" (frames are read from ``uri``) |
| payload | large_binary | the encoded frames; null for storage "source", or where ``uri`` is a folder of pictures
  their names, each with its sha256, zero bytes between |
| fps | double | frames a second at which the segment is stored |
| width, height | int32 | pixels of a stored frame, upright (after rotation) |
| rotation | int32 | degrees clockwise by which the source must be turned to be upright: 0, 90, 180, 270 |
| label | int32 | class index, null without labels |
| label_name | string | class name, null without labels |
| split | string | "train", "validation", "test" ..., null where the source names none |
| sha256 | string | of ``payload``; for storage "source" without payload, of the source file |
| flow | large_binary | optical flow to the next stored frame (`marey.clips.flow`), null where none was asked for |
| joints, boxes | large_binary | what the user said of people in the frames (`marey.clips.streams`), or null |
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa

SCHEMA_VERSION = 1
Storage = Literal["h264", "jpeg", "raw", "source"]
FlowMethod = Literal["none", "dis", "tvl1"]
STREAMS = ("flow", "joints", "boxes")
"""The optional columns: read only when asked for."""

SCHEMA = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("timestamps", pa.list_(pa.float64()), nullable=False),
        pa.field("keyframes", pa.list_(pa.int32())),
        pa.field("packet_lengths", pa.list_(pa.int32())),
        pa.field("storage", pa.string(), nullable=False),
        pa.field("payload", pa.large_binary()),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("rotation", pa.int32(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("label_name", pa.string()),
        pa.field("split", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("flow", pa.large_binary()),
        pa.field("joints", pa.large_binary()),
        pa.field("boxes", pa.large_binary()),
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # "list", "probe", "decode", "encode", or a stream's name
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ClipRow:
    """One row of a clip table; the module's text says what each column holds."""

    source_id: str
    uri: str
    start_s: float
    end_s: float
    timestamps: list[float]
    keyframes: list[int] | None
    packet_lengths: list[int] | None
    storage: Storage
    payload: bytes | None
    fps: float
    width: int
    height: int
    rotation: int
    label: int | None
    label_name: str | None
    split: str | None
    sha256: str
    flow: bytes | None = None
    joints: bytes | None = None
    boxes: bytes | None = None

    @property
    def num_frames(self) -> int:
        """Number of stored frames."""
        return len(self.timestamps)

    @property
    def clip_id(self) -> str:
        """``source_id@start``: names the segment in messages and pictures."""
        return f"{self.source_id}@{self.start_s:.3f}"


def to_arrow(rows: list[ClipRow]) -> pa.Table:
    """Rows as an Arrow table of `SCHEMA`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def from_arrow(table: pa.Table | pa.RecordBatch) -> list[ClipRow]:
    """Rows of an Arrow table of `SCHEMA`; other columns are ignored, and `STREAMS` that it lacks are None."""
    names = [one.name for one in fields(ClipRow) if one.name not in STREAMS or one.name in table.schema.names]
    records: list[dict[str, Any]] = table.select(names).to_pylist()
    return [ClipRow(**record) for record in records]


@dataclass(frozen=True)
class Quarantined:
    """A source that gave no rows: which, at what stage, and why."""

    source_id: str
    uri: str
    stage: Literal["list", "probe", "decode", "encode", "flow", "joints", "boxes"]
    reason: str
