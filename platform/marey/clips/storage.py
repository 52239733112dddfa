"""Settings of a clip table: how its rows are cut, scaled and stored, and what one video may cost."""

from pydantic import Field

from marey.clips.row import FlowMethod, Storage
from marey.clips.video import MAX_PIXELS
from marey.config import Config

MAX_FPS = 30.0


class Limits(Config):
    """What preparing one video may cost before it goes to quarantine."""

    max_pixels: int = Field(default=MAX_PIXELS, ge=1)
    """Pixels of one frame (width x height)."""
    seconds: float = Field(default=1800.0, gt=0)
    """Seconds of wall clock for one video, and of processor time; more, by its pixels, where flow is asked for."""
    memory_mib: int = Field(default=2048, ge=64)
    """MiB of memory for one video, above what an idle process holds."""


class ClipStorage(Config):
    """How videos become the rows of a clip table."""

    storage: Storage = "h264"
    """h264: encoded again, made for reading in training; jpeg: a picture a frame; raw: pixels; source: not copied."""
    max_seconds: float = Field(default=10.0, gt=0)
    """Longer videos are cut into equal pieces of at most this many seconds."""
    fps: float | None = Field(default=None, gt=0)
    """Frames a second to keep; none: the source's, at most 30. Never more than the source has."""
    short_side: int = Field(default=256, ge=16)
    """Pixels to which the shorter side is scaled down; smaller videos stay as they are. Not for source."""
    gop: int = Field(default=16, ge=1)
    """h264: frames between keyframes."""
    crf: float = Field(default=18.0, ge=0, le=51)
    """h264: quality, lower is better; 18 is about 41 dB."""
    preset: str = Field(
        default="medium", pattern="^(ultrafast|superfast|veryfast|faster|fast|medium|slow|slower|veryslow)$"
    )
    """h264: encoder preset; slower ones make smaller files."""
    jpeg_quality: int = Field(default=90, ge=1, le=95)
    """jpeg: quality, higher is better, on libjpeg's scale."""
    frames_fps: float = Field(default=30.0, gt=0, le=1000)
    """Frames a second of folders of pictures, which do not say it themselves, where the list does not either."""
    frames_prefix: str | None = None
    """How pictures in such folders are named before their number, e.g. img_; none: all alike, optical flow aside."""
    flow: FlowMethod = "none"
    """Optical flow to store with each frame: dis (fast), tvl1 (as two-stream papers have it, slow); needs OpenCV."""
    flow_bound: float = Field(default=20.0, gt=0)
    """Pixels of motion, of the stored size, at which flow is cut off when it is quantised to 8 bits."""
    limits: Limits = Limits()
    """What one video may cost."""
