"""The service under load: throughput beside a cohort, memory, how quickly it answers meanwhile, and kills.

    python benchmarks/bench_service.py --jobs 200 --clients 8
    python benchmarks/bench_service.py --part kill --jobs 40 --kills 10

Studies are the two regions of the brain template of `voxmetry demo`, each with noise of its own; the model is
hippocampus-mr. Parts: load (all studies are uploaded by several clients at once; a cohort does one half of them before
and the other half after; studies a second from the first end to the last in both records; processor seconds a study of
all processes, start and end included, which say more than the clock on a machine with other work; resident memory of
the server and of its worker; the time of GET /info/ every half second meanwhile), kill (kill -9 of workers and server
in turns while jobs run; each job must be done once). It prints what docs/reference/serve.md says, with how busy the
machine was. It needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

import voxmetry
from voxmetry import Volume, read_volume, save
from voxmetry.config import dump_yaml
from voxmetry.config.service import ServiceSettings
from voxmetry.demo import FOLDER

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from service_clients import ServerProcess

MODEL = "hippocampus-mr"
SRC = Path(voxmetry.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONWARNINGS": "ignore"}
EVERY_SECONDS = 0.5
T = TypeVar("T")


def make_studies(folder: Path, n: int, *, first: int = 0) -> list[Path]:
    """Write n studies, each with noise of its own."""
    images = [read_volume(path) for path in sorted(FOLDER.glob("*hippocampus*.nii.gz"))]
    folder.mkdir(parents=True)
    made = []
    for number in range(first, first + n):
        image = images[number % len(images)]
        noise = np.random.default_rng(number).normal(0, 0.01 * float(image.array.max()), image.geometry.shape)
        array = np.clip(np.rint(image.array + noise), 0, 32767).astype(np.int16)
        made.append(folder / f"study_{number:04}.nii.gz")
        save(Volume(array, image.geometry), made[-1])
    return made


class Server(ServerProcess):
    """`voxmetry serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        settings = ServiceSettings(
            data=str(folder / "data"),
            port=0,
            models=(MODEL,),
            settings={"report": "brief", "device": "cpu"},  # type: ignore[arg-type]
            limits={"free_mb": 100},  # type: ignore[arg-type]
        )
        self.data = folder / "data"
        file = folder / "serve.yaml"
        file.write_text(dump_yaml(settings))
        super().__init__(file, **ENVIRONMENT)

    def get(self, path: str) -> dict:
        """Return the JSON at an address."""
        return json.loads(call(self.host, "GET", path))

    def n_done(self) -> int:
        """How many jobs are done; end where one will never be."""
        counts = self.get("/v1/jobs?limit=1")["counts"]
        if over := {state: counts[state] for state in ("failed", "set aside", "cancelled") if counts.get(state)}:
            raise SystemExit(f"not every job can be done any more: {over}")
        return counts.get("done", 0)


def call(host: str, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
    """Return the body of one answer, which must be a good one."""
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        connection.request(method, path, body, {"content-type": kind} if kind else {})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return text
    finally:
        connection.close()


def upload(host: str, study: Path) -> str:
    """Send a study, and return the id of its job."""
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + MODEL.encode(),
        b'\r\n--b\r\nContent-Disposition: form-data; name="files"; filename="a.nii.gz"\r\n\r\n' + study.read_bytes(),
        b"\r\n--b--\r\n",
    ]
    return json.loads(call(host, "POST", "/v1/jobs/upload", b"".join(parts), "multipart/form-data; boundary=b"))["id"]


def resident_mb(process: int) -> float:
    """Resident memory of a process in units of 10^6 bytes; nan where it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


class Watch:
    """Asks for /info/ and looks at memory, again and again, until it is stopped."""

    def __init__(self, server: Server) -> None:
        self.seconds: list[float] = []
        self.memory: list[tuple[float, float]] = []
        self._server, self._stopping = server, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            begin = time.perf_counter()
            call(self._server.host, "GET", "/info/")
            self.seconds.append(time.perf_counter() - begin)
            if len(self.seconds) % 2 == 0:
                workers = max((resident_mb(each) for each in self._server.workers()), default=float("nan"))
                self.memory.append((resident_mb(self._server.process.pid), workers))


def rate(database: Path, table: str) -> float:
    """Studies a second between the first end and the last one in a record: the start of workers does not count."""
    with contextlib.closing(sqlite3.connect(database)) as record:
        ends = record.execute(f"SELECT min(finished), max(finished), count(*) FROM {table} WHERE state = 'done'")
        first, last, n = ends.fetchone()
    seconds = datetime.datetime.fromisoformat(last) - datetime.datetime.fromisoformat(first)
    return (n - 1) / seconds.total_seconds()


def processor_seconds() -> float:
    """Processor time of all child processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def serve_all(studies: Sequence[Path], clients: int) -> tuple[float, Watch]:
    """Do all studies by the service, and return its studies a second, and what was seen meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            with Watch(server) as watch:
                shares = [studies[number::clients] for number in range(clients)]
                threads = [
                    threading.Thread(target=lambda share=share: [upload(server.host, each) for each in share])
                    for share in shares
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                wait_until(lambda: server.n_done() == len(studies))
            require_once(server, len(studies))
        finally:
            server.end()
        return rate(server.data / "service.sqlite", "jobs"), watch


def cohort_all(studies: Sequence[Path]) -> float:
    """Do all studies as a cohort, and return its studies a second."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "voxmetry", "cohort", "run", str(studies[0].parent), "-m", MODEL]
        command += ["-o", folder, "--device", "cpu", "--json"]
        subprocess.run(command, env=ENVIRONMENT, check=False, capture_output=True)
        return rate(Path(folder) / "cohort.sqlite", "studies")


def wait_until(true: Callable[[], bool], seconds: float = 3600) -> None:
    """Wait for something, or give up."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit("it did not end")
        time.sleep(0.5)


def require_once(server: Server, n: int) -> None:
    """See that each of n jobs is done, once, with its result."""
    with contextlib.closing(sqlite3.connect(server.data / "service.sqlite")) as record:
        done = record.execute("SELECT job, count(*) FROM events WHERE what = 'done' GROUP BY job").fetchall()
        states = record.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
    results = list((server.data / "results").glob("*/result.json"))
    if [n for _, n in done] != [1] * n or states != [("done", n)] or len(results) != n:
        raise SystemExit(f"lost or doubled: {states}, {len(done)} of {n} done, {len(results)} results")


def load(n: int, clients: int) -> None:
    """Print throughput beside a cohort, memory and answers."""
    with tempfile.TemporaryDirectory() as folder:
        halves = [make_studies(Path(folder) / name, n // 2, first=first) for name, first in (("a", 0), ("b", n // 2))]
        studies = [*halves[0], *halves[1]]
        cohort, used = [], dict.fromkeys(("cohort", "service"), 0.0)

        def count(what: str, work: Callable[[], T]) -> T:
            before = processor_seconds()
            found = work()
            used[what] += (processor_seconds() - before) / len(studies)
            return found

        cohort.append(count("cohort", lambda: cohort_all(halves[0])))
        print(f"cohort, first half: {cohort[0]:.3f} studies/s", flush=True)
        service, watch = count("service", lambda: serve_all(studies, clients))
        print(f"service, all: {service:.3f} studies/s", flush=True)
        cohort.append(count("cohort", lambda: cohort_all(halves[1])))
        print(f"cohort, second half: {cohort[1]:.3f} studies/s", flush=True)
    print(f"service / cohort: {service / statistics.harmonic_mean(cohort):.2f}; processor seconds a study: "
          f"{used['service']:.3f} and {used['cohort']:.3f}")  # fmt: skip
    ordered = sorted(watch.seconds)
    print(f"GET /info/, {len(ordered)} times: median {1000 * statistics.median(ordered):.0f} ms, "
          f"p95 {1000 * ordered[int(0.95 * len(ordered))]:.0f} ms, longest {1000 * ordered[-1]:.0f} ms")  # fmt: skip
    memory = watch.memory
    parts = [memory[int(share * (len(memory) - 1))] for share in (0.25, 0.5, 0.75, 1.0)] if memory else []
    for who, place in (("server", 0), ("worker", 1)):
        print(f"resident memory of the {who} at 25, 50, 75 and 100 %: {', '.join(f'{x[place]:.0f}' for x in parts)} MB")


def kill(n: int, kills: int) -> None:
    """Print what became of jobs whose server and workers were killed."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        studies = make_studies(Path(folder) / "in", n)
        server = Server(Path(folder))
        try:
            for study in studies:
                upload(server.host, study)
            for number in range(kills):
                before = server.n_done()
                if before < n:
                    wait_until(lambda server=server, before=before: server.n_done() > before)
                time.sleep(chance.uniform(0, 1.5))
                if number % 2:
                    for worker in server.workers():
                        os.kill(worker, signal.SIGKILL)
                else:
                    server.end(signal.SIGKILL)
                    server = Server(Path(folder))
            wait_until(lambda: server.n_done() == n)
            require_once(server, n)
            print(f"{n} jobs, {kills} kills of server and workers in turns: all done, each once")
        finally:
            server.end()


def main() -> None:
    """Run a part and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("load", "kill"), default="load")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before")
    if given.part == "load":
        load(given.jobs, given.clients)
    else:
        kill(given.jobs, given.kills)
    print(f"load average {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
