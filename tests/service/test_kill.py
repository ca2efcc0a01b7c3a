"""kill -9 of the server and of its workers, in processes of their own: every job is done once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest

import phantoms
from service_clients import SHAPE, ServerProcess, call_json
from voxmetry import save
from voxmetry.config import dump_yaml
from voxmetry.config.service import ServiceSettings

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow  # each start of a worker loads torch
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the workers")
def test_nothing_is_lost_and_nothing_done_twice(tmp_path, tiny_model):
    image = tmp_path / "a.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=SHAPE)), image)
    settings = ServiceSettings(
        data=str(tmp_path / "data"),
        port=0,
        models=(str(tiny_model),),
        roots={"in": str(tmp_path)},
        settings={"report": "none", "device": "cpu"},
        limits={"free_mb": 1},
    )
    (tmp_path / "serve.yaml").write_text(dump_yaml(settings))
    chance = random.Random(4)
    server = ServerProcess(tmp_path / "serve.yaml", **ENVIRONMENT)
    jobs, n = [], 0
    try:
        for kill in ("worker", "server", "server"):
            for _ in range(8):
                status, job = call_json(
                    server.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": "in/a.nii.gz", "once": f"{n}"}
                )
                assert status == 201
                jobs.append(job["id"])
                n += 1
            wait_for(server, lambda counts: counts.get("done", 0) > len(jobs) - 8)
            time.sleep(chance.uniform(0, 0.3))
            if kill == "worker":
                for worker in server.workers():
                    # It may be gone already, by itself.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
            else:
                server.end(signal.SIGKILL)
                server = ServerProcess(tmp_path / "serve.yaml", **ENVIRONMENT)
                # A client that heard no answer asks again.
                status, job = call_json(
                    server.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": "in/a.nii.gz", "once": f"{n - 1}"}
                )
                assert job["id"] == jobs[-1]
        counts = wait_for(server, lambda counts: counts.get("done", 0) == len(jobs))
        assert {state: k for state, k in counts.items() if k and state != "flagged"} == {"done": len(jobs)}
        for job in jobs:
            assert "result.json" in [each["name"] for each in call_json(server.host, "GET", f"/v1/jobs/{job}/files")[1]]
    finally:
        server.end(signal.SIGKILL)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "service.sqlite")) as record:
        ends = record.execute("SELECT job, count(*) FROM events WHERE what = 'done' GROUP BY job").fetchall()
    assert sorted(ends) == sorted((job, 1) for job in jobs)
    assert len(list((tmp_path / "data" / "results").iterdir())) == len(jobs)


def wait_for(server, true, seconds=600):
    end = time.monotonic() + seconds
    while True:
        counts = call_json(server.host, "GET", "/v1/jobs?limit=1")[1]["counts"]
        if true(counts):
            return counts
        assert time.monotonic() < end, counts
        time.sleep(0.1)
