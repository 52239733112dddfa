"""HMDB51 (Kuehne et al. 2011), as Serre lab distributes it.

    testTrainMulti_7030_splits/clap_test_split1.txt    one file for each class and each of the three splits:
        #20_Rhythm_clap_u_nm_np1_fr_goo_0.avi 1        1 trains, 2 tests, 0 is in neither
    clap/#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi         the videos, in a folder a class

``videos=`` is the folder of the split files, ``fold=`` which of the three splits; videos are looked for by name below
the root. Classes are numbered in the order of their names.
"""

import re
from pathlib import Path

from marey.clips.datasets.files import VideoFinder, read_lines, wrong
from marey.clips.datasets.source import Listing, Source
from marey.errors import ClipError

_FILE = re.compile(r"(.+)_test_split([123])\.txt")
_SPLITS = {"1": "train", "2": "test", "0": None}


def reads(path: Path) -> bool:
    """The folder of the split files, or one of them (which is refused with what to give)."""
    if path.is_dir():
        return any(_FILE.fullmatch(one.name) for one in path.iterdir())
    return _FILE.fullmatch(path.name) is not None


def sources(path: Path, root: Path | None, fold: int) -> Listing:
    """The videos that train or test in split ``fold``."""
    if not path.is_dir():
        raise ClipError(f"{path}: a split file of one class of HMDB51; give the folder that holds them all")
    found = [(match.group(1), one) for one in sorted(path.iterdir()) if (match := _FILE.fullmatch(one.name))]
    names = tuple(sorted({name for name, _ in found}))
    chosen = [(name, one) for name, one in found if one.name.endswith(f"_test_split{fold}.txt")]
    if missing := sorted(set(names) - {name for name, _ in chosen}):
        raise ClipError(f"{path}: no files of split {fold} for {', '.join(missing[:5])}; fold= is 1, 2 or 3")
    finder = VideoFinder((root or path.parent).absolute())
    return Listing([source for name, one in chosen for source in _read(one, name, names.index(name), finder)], names)


def _read(path: Path, label_name: str, label: int, finder: VideoFinder) -> list[Source]:
    found = []
    for number, line in read_lines(path):
        name, _, mark = line.strip().rpartition(" ")
        if mark not in _SPLITS or not name.strip():
            raise wrong(path, number, repr(line.strip()), "a file name and 0, 1 or 2")
        if (split := _SPLITS[mark]) is not None:
            stem, suffix = Path(name.strip()).stem, Path(name.strip()).suffix
            found.append(
                Source(f"{label_name}/{stem}{suffix}", finder.find(stem, suffix=suffix), label, label_name, split)
            )
    return found
