import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Volume, save
from voxmetry.workflows.cohort.executor import Finished
from voxmetry.workflows.cohort.task import run_task, unforeseen

SHAPE = (17, 25, 9)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model folder that runs in milliseconds."""
    return models.write(tmp_path_factory.mktemp("tiny") / "tiny-mr")


def image(seed: int) -> Volume:
    """A phantom with its own noise."""
    return phantoms.volume(phantoms.geometry(shape=SHAPE), seed=seed)


@pytest.fixture
def studies(tmp_path):
    """Four image files, two of them in a folder."""
    folder = tmp_path / "in"
    (folder / "site_b").mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "site_b/c", "site_b/d")):
        save(image(seed), folder / f"{name}.nii.gz")
    return folder


class Threads:
    """The work in threads of the test's own process, which starts no other one."""

    max_starts = None

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self._done: queue.Queue = queue.Queue()
        self._busy = 0
        self.most = 0

    def room(self, *, alone):
        return self._busy < (1 if alone else 2)

    def submit(self, task, *, alone):
        self._busy += 1
        self.most = max(self.most, self._busy)
        self._pool.submit(run_task, task).add_done_callback(lambda future: self._done.put((task, future)))

    def wait(self, seconds):
        task, future = self._done.get()
        self._busy -= 1
        error = future.exception()
        if error is None:
            return Finished(future.result())
        if isinstance(error, Exception) and hasattr(error, "found"):
            raise error
        return Finished(unforeseen(task, error))

    def close(self):
        self._pool.shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def threads(monkeypatch):
    """Run cohorts in threads of this process."""
    made = []

    def make(_settings, _tasks):
        made.append(Threads())
        return made[-1]

    monkeypatch.setattr("voxmetry.workflows.cohort.run.make_executor", make)
    return made


def voxels(path):
    return np.asarray(__import__("nibabel").load(path).dataobj)
