"""One run, many who want it: one of them has it, the others are told who, and whoever lost it writes no more."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from marey.engine import checkpoint
from marey.errors import CheckpointError, RunError
from marey.experiment import Training
from marey.experiment.run import open_run


def mine(results: Path) -> Training:
    return Training(name="mine", results=results, backbone="videomae_v2_tiny_pretrain", batch=8)


def submit(results: Path, start, answers, leave) -> None:
    """What each submission does with its run's name."""
    start.wait()
    try:
        held = open_run(mine(results), "print")
    except RunError as error:
        answers.put((os.getpid(), str(error)))
        return
    answers.put((os.getpid(), ""))
    leave.wait()
    held.close()


def test_of_fifty_submissions_at_once_one_runs_and_the_others_name_it(tmp_path: Path):
    forked = multiprocessing.get_context("fork")
    start, leave, answers = forked.Event(), forked.Event(), forked.Queue()
    processes = [forked.Process(target=submit, args=(tmp_path, start, answers, leave)) for _ in range(50)]
    for process in processes:
        process.start()
    start.set()
    told = dict(answers.get(timeout=120) for _ in processes)
    leave.set()
    for process in processes:
        process.join(60)
    [holder] = [pid for pid, text in told.items() if not text]
    refused = [text for text in told.values() if text]
    assert len(refused) == 49
    for text in refused:
        assert text.startswith(f"name=mine: this run is going on, held by process {holder} on ")
    open_run(mine(tmp_path), "print").close()


def test_a_run_whose_process_was_killed_is_free_again(tmp_path: Path):
    forked = multiprocessing.get_context("fork")
    start, leave, answers = forked.Event(), forked.Event(), forked.Queue()
    process = forked.Process(target=submit, args=(tmp_path, start, answers, leave))
    process.start()
    start.set()
    assert answers.get(timeout=120) == (process.pid, "")
    with pytest.raises(RunError, match=f"held by process {process.pid}"):
        open_run(mine(tmp_path), "print")
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert open_run(mine(tmp_path), "print").resumed


def test_where_a_file_system_keeps_no_locks_the_run_is_not_called_held(tmp_path: Path, monkeypatch, capsys):
    def no_locks(file, operation) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("marey.experiment.run.fcntl.flock", no_locks)
    open_run(mine(tmp_path), "print").close()
    told = capsys.readouterr().out
    assert "keeps no locks (Function not implemented)" in told
    assert str(tmp_path) in told


def test_of_two_writers_that_no_lock_kept_apart_the_first_writes_no_more(tmp_path: Path):
    from marey.engine.strategy import TrainState

    first, second = checkpoint.take_over(tmp_path), checkpoint.take_over(tmp_path)
    state = TrainState({}, {}, 0)
    with pytest.raises(CheckpointError, match="has taken this run over meanwhile"):
        checkpoint.save(tmp_path, state, {"step": 1}, first)
    assert checkpoint.save(tmp_path, state, {"step": 1}, second).step == 1
