"""Kill a cohort at random moments, again and again, and see that nothing is lost, doubled or changed.

    python tests/chaos.py [--studies 200] [--main-kills 5] [--worker-kills 10] [--seed 0] [--local]

Of the studies ten are broken, one of each kind of fault. The run is killed by SIGKILL `--main-kills` times and one of
its workers `--worker-kills` times, each after a random number of studies and a random part of a second. Workers are
those of a Dask cluster with two worker processes, or with `--local` the run's own. At the end the results are held
against those of an undisturbed run, byte by byte.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

import models
import phantoms
from voxmetry import Volume, save
from voxmetry.io import write_series

SHAPE = (17, 25, 9)
SRC = Path(__file__).parents[1] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


def phantom(seed: int) -> Volume:
    """An image with its own noise."""
    return phantoms.volume(phantoms.geometry(shape=SHAPE), seed=seed)


def make_good(folder: Path, n: int) -> None:
    """Write n studies, every fifth of them as DICOM."""
    for seed in range(n):
        if seed % 5 == 4:
            uid = f"1.2.826.0.1.3680043.8.498.{seed + 1}"
            write_series(phantom(seed), folder / f"good_{seed:04}", modality="MR", series_uid=uid)
        else:
            save(phantom(seed), folder / f"good_{seed:04}.nii.gz")


def make_broken(folder: Path) -> None:
    """Write one study of each kind of fault."""
    whole = phantom(9999)
    save(whole, folder / "x.nii.gz")
    packed = (folder / "x.nii.gz").read_bytes()
    (folder / "x.nii.gz").unlink()
    (folder / "bad_0_cut_off.nii.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "bad_1_no_nifti.nii.gz").write_bytes(b"this is no image")
    image = nib.Nifti1Image(whole.array, np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, folder / "bad_2_no_affine.nii.gz")
    values = whole.array.astype(np.float32)
    values[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(values, whole.geometry.affine), folder / "bad_3_nan.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([whole.array] * 3, -1), whole.geometry.affine), folder / "bad_4_time.nii.gz")
    save(Volume(whole.array - np.int16(1000), whole.geometry), folder / "bad_5_hounsfield.nii.gz")
    save(Volume(np.full(SHAPE, 7, np.int16), whole.geometry), folder / "bad_6_constant.nii.gz")
    write_series(phantom(9998), folder / "bad_7_gap", modality="MR")[4].unlink()
    write_series(phantom(9997), folder / "bad_8_ct", modality="CT")
    cut = write_series(phantom(9996), folder / "bad_9_pixels", modality="MR")[3]
    cut.write_bytes(cut.read_bytes()[:-200])


def command(source: Path, out: Path, model: Path, *extra: str) -> list[str]:
    """The run as a user types it."""
    words = ["cohort", "run", str(source), "-m", str(model), "-o", str(out), "--report", "none", "--device", "cpu"]
    return [sys.executable, "-m", "voxmetry", *words, "--json", *extra]


def n_finished(out: Path) -> int:
    """Studies that the record calls done or failed."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{out / 'cohort.sqlite'}?mode=ro", uri=True)) as db:
            found: int = db.execute("SELECT count(*) FROM studies WHERE state IN ('done', 'failed')").fetchone()[0]
            return found
    except sqlite3.Error:
        return 0


def wait_for(out: Path, n: int, seconds: float = 600.0) -> None:
    """Wait until the record calls n studies done or failed."""
    end = time.monotonic() + seconds
    while n_finished(out) < n:
        assert time.monotonic() < end, f"{n_finished(out)} of {n} studies are done"
        time.sleep(0.02)


class Cluster:
    """A Dask scheduler and workers, as processes of their own; a worker that dies is replaced.

    `preload` is a Python file that each worker runs first.
    """

    def __init__(self, folder: Path, n_workers: int = 2, *, preload: Path | None = None) -> None:
        self._file, self._folder, self._preload = folder / "scheduler.json", folder, preload
        self._stopping = False
        self._scheduler = self._start("dask_scheduler", "--port", "0", "--scheduler-file", str(self._file))
        while not self._file.exists():
            time.sleep(0.05)
        self.address = json.loads(self._file.read_text())["address"]
        self.workers = [self._worker() for _ in range(n_workers)]
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        log = (self._folder / f"{module}.log").open("ab")
        line = [sys.executable, "-m", f"distributed.cli.{module}", *words, "--no-dashboard"]
        with log:
            return subprocess.Popen(line, env=ENVIRONMENT, stdout=log, stderr=log, cwd=self._folder)

    def _worker(self) -> subprocess.Popen[bytes]:
        words = ["--local-directory", str(self._folder / "dask")]
        if self._preload is not None:
            words += ["--preload", str(self._preload)]
        return self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", *words)

    def _keep(self) -> None:
        while not self._stopping:
            for place, worker in enumerate(self.workers):
                if worker.poll() is not None and not self._stopping:
                    self.workers[place] = self._worker()
            time.sleep(0.1)

    def kill_scheduler(self) -> None:
        """Let the scheduler vanish."""
        self._scheduler.kill()
        self._scheduler.wait()

    def close(self) -> None:
        """End everything."""
        self._stopping = True
        self._keeper.join()
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def torment(
    line: list[str], out: Path, kinds: list[str], *, n: int, seed: int, cluster: Cluster | None
) -> dict[str, int]:
    """Run to the end with kills at random moments; return how many of each there were."""
    random_ = random.Random(seed)
    random_.shuffle(kinds)
    # One moment in each stretch of the run, anywhere in it: a moment beyond its end would be none.
    stretch = (n - 15) / len(kinds)
    moments = [int((place + random_.random()) * stretch) for place in range(len(kinds))]
    done = {"main": 0, "worker": 0, "starts": 0}
    process = None
    for moment, kind in zip(moments, kinds, strict=True):
        delay = random_.random() * 0.4
        while True:
            if process is None or process.poll() is not None:
                process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                done["starts"] += 1
            if n_finished(out) >= moment:
                break
            time.sleep(0.02)
        time.sleep(delay)
        if kind == "main":
            process.kill()
            process.wait()
        elif cluster is not None:
            random_.choice(cluster.workers).kill()
        else:
            for child in children_of(process.pid)[:1]:
                # It may have ended meanwhile.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        done[kind] += 1
    if process is not None:
        process.wait()
    return done


def results(out: Path) -> dict[str, bytes]:
    """All files of all studies that hold neither a time nor a memory."""
    found = {}
    for path in (out / "tiny-mr").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "result.json":
                told = json.loads(content)
                for name in ("started", "seconds", "peak_memory_mb", "plan"):
                    told["provenance"].pop(name)
                content = json.dumps(told).encode()
            found[str(path.relative_to(out))] = content
    return found


def states(out: Path) -> dict[str, tuple[str, int, bool]]:
    """By case: state, how often it was done, whether it has a reason."""
    with contextlib.closing(sqlite3.connect(out / "cohort.sqlite")) as db:
        rows = db.execute('SELECT "case", state, n_done, fault IS NOT NULL FROM studies').fetchall()
    return {case: (state, n, bool(has)) for case, state, n, has in rows}


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chaos(*, studies: int, main_kills: int, worker_kills: int, seed: int, local: bool) -> dict[str, int]:
    """Do it all, and raise AssertionError with the first thing that is not as it should be."""
    with workplace() as folder, contextlib.ExitStack() as stack:
        source = folder / "in"
        source.mkdir()
        make_good(source, studies - 10)
        make_broken(source)
        model = models.write(folder / "tiny-mr")
        quiet = command(source, folder / "quiet", model, "--in-flight", "1")
        told = subprocess.run(quiet, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert told.returncode == 1, told.stderr
        cluster = None if local else stack.enter_context(contextlib.closing(Cluster(folder)))
        extra = ("--in-flight", "1") if cluster is None else ("--scheduler", cluster.address)
        line = command(source, folder / "out", model, *extra)
        kinds = ["main"] * main_kills + ["worker"] * worker_kills
        kills = torment(line, folder / "out", kinds, n=studies, seed=seed, cluster=cluster)
        last = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        found = states(folder / "out")
        aside = [case for case, (state, _, _) in found.items() if state == "set aside"]
        if aside:
            # Random kills hit the same study three times: nobody can tell that from a study that breaks its worker.
            again = [*line, "--only-failed"]
            last = subprocess.run(again, env=ENVIRONMENT, capture_output=True, text=True, check=False)
            found = states(folder / "out")
        check(found, studies)
        assert last.returncode == 1, last.stderr
        assert results(folder / "out") == results(folder / "quiet"), "a result differs from the undisturbed run's"
        assert not list((folder / "out").rglob(".part-*")), "a half-written file is left"
        return {**kills, "set aside and run again": len(aside)}


def check(found: dict[str, tuple[str, int, bool]], n: int) -> None:
    """See that every good study was done once, and that the ten others are there with their reasons."""
    good = {case: row for case, row in found.items() if case.startswith("good")}
    bad = {case: row for case, row in found.items() if case.startswith("bad")}
    assert len(good) == n - 10, f"{len(good)} good studies of {n - 10}"
    assert all(row[:2] == ("done", 1) for row in good.values()), {c: r for c, r in good.items() if r[:2] != ("done", 1)}
    assert len(bad) == 10, sorted(bad)
    assert all(state in ("failed", "refused") and n_done == 0 and why for state, n_done, why in bad.values()), bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--main-kills", type=int, default=5)
    parser.add_argument("--worker-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--local", action="store_true", help="the run's own workers in place of a Dask cluster")
    arguments = parser.parse_args()
    begin = time.monotonic()
    kills = chaos(**vars(arguments))
    print(f"{arguments.studies} studies, {kills}: as undisturbed. {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
