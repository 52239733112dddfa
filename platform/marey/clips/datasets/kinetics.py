"""Finding the files that a Kinetics list means: lists name clips by YouTube id and time, downloaders name files."""

import os
from pathlib import Path


class VideoFinder:
    """Looks up videos anywhere below ``root`` by their name without suffix."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[str, Path] = {}
        for folder, _, names in os.walk(root, followlinks=False):
            for name in sorted(names):
                self._paths.setdefault(Path(name).stem, Path(folder, name))

    def find(self, clip: str, video: str) -> str:
        """Path of ``<id>_<start>_<end>.*``, else of ``<id>.*``; where there is neither, the path to put it at."""
        found = self._paths.get(clip) or self._paths.get(video)
        return str(found or self._root / f"{clip}.mp4")
