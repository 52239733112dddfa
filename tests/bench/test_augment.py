"""The bench of augmentation: rows get the same clips, others are noticed, and the peers' Pillow is Marey's equal."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from marey.bench import augment_peers, augment_pillow
from marey.bench.augment import ALL, ON_CPU, PLAIN, WITH, AugmentBench, Film, Row, all_on_cpu, measure, ratio, run
from marey.errors import ConfigError
from marey.nn.pixels import MEAN, STD

SMALL = AugmentBench(
    film_frames=16, short_side=48, crop=32, frames=4, clips=3, rounds=1, peers=Path("/no/such/python")
)  # fmt: skip
PICTURES = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
WANTED = {"crop": 32, "mean": MEAN, "std": STD}


def pillow(film: Film, keys) -> tuple[float, list[list[float]]]:
    """As the peers' process answers."""
    made = []
    for start, box, operations in map(film.draw, keys):
        clip = augment_pillow.augment(film.pictures[start:][: film.bench.frames], box, operations, **WANTED)
        made.append(augment_peers.quarters(clip))
    return 1.0, made


def test_every_row_is_measured_and_missing_peers_are_told():
    console, threads = Console(record=True, width=120), torch.get_num_threads()
    tables = run(SMALL, console)
    assert list(tables) == [PLAIN, WITH]
    assert all([row.name for row in rows] == [ON_CPU, ALL] for rows in tables.values())
    assert all(len(row.seconds) == 1 and row.seconds[0] > 0 for rows in tables.values() for row in rows)
    shown = console.export_text()
    assert "left out: torchvision v2 and PIL; `make bench-env` installs them" in shown
    assert "4 frames of 48 × 64 to 32²; multi_scale" in shown
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("boxes", ["multi_scale", "random_resized"])
@pytest.mark.parametrize("ops", [0, 1])
def test_frame_by_frame_with_pillow_gives_the_same_clips(boxes, ops):
    film = Film(PICTURES, SMALL.replace(boxes=boxes, clips=12), ops)
    rows = measure([Row("ours", all_on_cpu), Row("theirs", pillow)], film, 0.1)
    assert ratio(rows[1], rows[0]) > 0


def test_a_row_that_gives_other_clips_ends_the_bench():
    def wrong(film: Film, keys) -> tuple[float, list[list[float]]]:
        flipped = [film.draw(key) for key in keys]
        flipped = [one._replace(box=one.box._replace(flip=not one.box.flip)) for one in flipped]
        return 1.0, [augment_peers.quarters(film.whole(one)) for one in flipped]

    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (8, 48, 64, 3))
    with pytest.raises(AssertionError, match="wrong gives other clips: their means differ by"):
        measure([Row("right", all_on_cpu), Row("wrong", wrong)], Film(ramp.copy(), SMALL, 0), 0.03)


def test_a_clip_longer_than_the_film_is_refused():
    with pytest.raises(ConfigError, match="frames=17: a clip is longer than film_frames=16"):
        run(SMALL.replace(frames=17), Console(quiet=True))


def test_peers_that_cannot_be_imported_are_told():
    console = Console(record=True, width=120)
    run(SMALL.replace(peers=Path("/bin/false")), console)
    assert "left out: PIL; /bin/false cannot import it" in console.export_text()


def test_the_peers_process_answers_with_seconds_and_means(tmp_path, monkeypatch, capsys):
    film = Film(PICTURES, SMALL, 4)
    np.save(tmp_path / "film.npy", PICTURES)
    clips = [film.draw(key)._asdict() | {"count": 4} for key in range(3)]
    lines = [json.dumps(WANTED | {"frames": str(tmp_path / "film.npy")}), json.dumps(clips), json.dumps(clips[:1])]
    monkeypatch.setattr("sys.argv", ["augment_peers.py", "PIL"])
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    monkeypatch.syspath_prepend(Path(augment_peers.__file__).parent)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    augment_peers.main()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["quarters"][:1] == second["quarters"]
    assert np.allclose(first["quarters"], pillow(film, range(3))[1])
    assert first["seconds"] > 0
