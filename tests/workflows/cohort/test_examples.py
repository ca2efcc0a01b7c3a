"""The cluster examples in deploy/: the batch script runs, with one machine in place of Slurm's nodes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import chaos
import models

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a script for Linux")
def test_the_batch_script_runs_a_cohort_and_leaves_no_process(tmp_path):
    pytest.importorskip("distributed")
    (tmp_path / "in").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "bin").mkdir()
    chaos.make_good(tmp_path / "in", 4)
    models.write(tmp_path / "tiny-mr")
    # Slurm starts the command on each node; here is one. Without a GPU, the worker's resource is a name alone.
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    script = (DEPLOY / "cohort-slurm.sh").read_text().replace("/shared/venv/bin", str(Path(sys.executable).parent))
    script = script.replace("-m hippocampus-mr", f"-m {tmp_path / 'tiny-mr'}").replace("/shared", str(tmp_path))
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = chaos.ENVIRONMENT | {"PATH": path, "SLURM_JOB_ID": "7"}
    with (tmp_path / "log").open("w+") as log:
        told = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=tmp_path, stdout=log, stderr=log, check=False
        )
        log.seek(0)
        assert told.returncode in (0, 3), log.read()
    assert [row[:2] for row in chaos.states(tmp_path / "out").values()] == [("done", 1)] * 4
    scheduler = str(tmp_path / "run" / "scheduler-7.json").encode()
    assert not any(scheduler in cmdline.read_bytes() for cmdline in living())


def living() -> list[Path]:
    """Command lines of the processes that have one."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]


def test_the_kubernetes_example_is_a_cluster_with_workers_that_announce_what_studies_ask_for():
    cluster = yaml.safe_load((DEPLOY / "cohort-kubernetes.yaml").read_text())
    assert cluster["kind"] == "DaskCluster"
    (worker,) = cluster["spec"]["worker"]["spec"]["containers"]
    assert worker["args"][:2] == ["dask", "worker"]
    assert "GPU=3" in worker["args"]
    (claim,) = cluster["spec"]["worker"]["spec"]["volumes"]
    assert [claim["name"]] == [mount["name"] for mount in worker["volumeMounts"]]
    ports = {port["targetPort"] for port in cluster["spec"]["scheduler"]["service"]["ports"]}
    (scheduler,) = cluster["spec"]["scheduler"]["spec"]["containers"]
    assert ports == {port["name"] for port in scheduler["ports"]}
