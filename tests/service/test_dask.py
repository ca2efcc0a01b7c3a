"""Jobs on a real Dask scheduler, whose workers are killed; every job is done once."""

from __future__ import annotations

import os
import signal

import pytest

import phantoms
from service_clients import SHAPE
from voxmetry import save
from voxmetry.config.service import ServiceSettings
from voxmetry.service.jobs import JobQueue

distributed = pytest.importorskip("distributed", reason="the extra distributed is not installed")


@pytest.mark.slow  # each start of a worker loads torch
def test_jobs_are_done_by_dask_workers_and_outlive_one(tmp_path, tiny_model):
    image = tmp_path / "a.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=SHAPE)), image)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        settings = ServiceSettings(
            data=str(tmp_path / "data"),
            models=(str(tiny_model),),
            settings={"report": "none", "device": "cpu"},
            limits={"free_mb": 1},
            scheduler=cluster.scheduler_address,
        )
        with JobQueue(settings) as queue:
            jobs = [queue.submit(image, "tiny-mr").id for _ in range(4)]
            assert queue.wait(jobs[0], 300).state == "done"
            # Dask starts another one in its place.
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
            assert [queue.wait(job, 300).state for job in jobs] == ["done"] * 4
            assert queue.counts().states == {"done": 4}
            for job in jobs:
                assert (queue.folder(job) / "seg.nii.gz").is_file()
            ends = [event.job for event in queue.events() if event.what == "done"]
            assert sorted(ends) == sorted(jobs)
