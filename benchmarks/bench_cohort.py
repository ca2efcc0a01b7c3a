"""Throughput and memory of a cohort, two Dask workers against one, and the plan and the record at 100,000 studies.

    python benchmarks/bench_cohort.py DATA --plots docs/pictures
    python benchmarks/bench_cohort.py DATA --part scale --simulated 1000 10000 100000

DATA is the folder hippocampus-mr of data/README.md. Parts: processor (processor time of a study and the network's
share), speed (the cohort against the bare network in a loop and against one process a study, for NIfTI and DICOM), long
(the same over many studies once, with resident memory and a picture of the cohort's page), dask (two workers, each on a
core of its own, against one), scale (seconds to plan, resume and export by the number of studies). Each prints its part
of docs/how-to/cohort.md. It needs Linux, and for dask two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

import voxmetry
from voxmetry import StudySettings, Volume, read_volume, save, segment_study
from voxmetry.io import write_series
from voxmetry.workflows.cohort.plan import plan_cohort
from voxmetry.workflows.cohort.records import RunSettings

MODEL = "hippocampus-mr"
SRC = Path(voxmetry.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONWARNINGS": "ignore"}


FORMATS = ("NIfTI", "DICOM")


def make_studies(data: Path, folder: Path, n: int, formats: Sequence[str] = FORMATS) -> None:
    """Write n studies from real ones, each with noise of its own, in turns in the formats."""
    images = sorted((data / "images").glob("*.nii.gz"))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        volume = read_volume(images[number % len(images)])
        # Some images reach a million: they are scaled to what 16 bits hold; a few voxels may be far brighter.
        top = float(np.percentile(volume.array, 99.9))
        values = volume.array * min(1.0, 30000 / top)
        noise = np.random.default_rng(number).normal(0, 0.01 * min(top, 30000), volume.geometry.shape)
        array = np.clip(np.rint(values + noise * (number >= len(images))), 0, 32767).astype(np.int16)
        twin = Volume(array, volume.geometry)
        if formats[number % len(formats)] == "DICOM":
            write_series(twin, folder / f"study_{number:05}", modality="MR")
        else:
            save(twin, folder / f"study_{number:05}.nii.gz")


def tell(words: str) -> None:
    """Say how far it is, beside the tables."""
    print(words, file=sys.stderr, flush=True)


def run_cohort(source: Path, out: Path, *extra: str) -> float:
    """Run the verb; return the seconds of the whole call."""
    line = [
        sys.executable,
        "-m",
        "voxmetry",
        "cohort",
        "run",
        str(source),
        "-m",
        MODEL,
        "-o",
        str(out),
        "--json",
        *extra,
    ]
    begin = time.perf_counter()
    told = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if told.returncode not in (0, 3):
        raise SystemExit(told.stderr)
    return seconds


def rate_after(out: Path, n: int) -> float:
    """Studies a second from the end of the n-th to that of the last: without the start of workers and models."""
    with contextlib.closing(sqlite3.connect(out / "cohort.sqlite")) as db:
        sql = "SELECT julianday(finished) * 86400 FROM studies WHERE state = 'done' ORDER BY finished"
        ends = [row[0] for row in db.execute(sql)]
    return (len(ends) - n) / (ends[-1] - ends[n - 1])


def memory(out: Path) -> list[float]:
    """Resident memory of the worker after each study, in the order in which they ended."""
    with contextlib.closing(sqlite3.connect(out / "cohort.sqlite")) as db:
        return [row[0] for row in db.execute("SELECT resident_mb FROM studies ORDER BY finished, position")]


def bare_network(source: Path, n: int) -> float:
    """Studies a second of the network alone, in a loop over inputs that are ready in memory."""
    from voxmetry.nn import Predictor

    predictor = Predictor(MODEL)
    paths = sorted(source.iterdir())[:n]
    ready = [predictor.prepare(read_volume(path)) for path in paths]
    predictor.run(ready[0])
    begin = time.perf_counter()
    for prepared in ready:
        predictor.run(prepared)
    return n / (time.perf_counter() - begin)


def one_process_each(source: Path, folder: Path, n: int) -> float:
    """Studies a second with a process for each, one after the other."""
    begin = time.perf_counter()
    for number, path in enumerate(sorted(source.iterdir())[:n]):
        words = ["segment", str(path), "-m", MODEL, "-o", str(folder / str(number)), "--report", "brief"]
        line = [sys.executable, "-m", "voxmetry", *words]
        subprocess.run(line, env=ENVIRONMENT, capture_output=True, check=False)
    return n / (time.perf_counter() - begin)


def processor(arguments: argparse.Namespace) -> None:
    """Processor time of a study, and the network's share: other programs disturb it less than they do the clock."""
    import torch

    from voxmetry.nn import Predictor

    torch.set_num_threads(1)
    settings = StudySettings(report=arguments.report, device="cpu", overwrite=True)
    spent = [0.0]
    network = Predictor.run

    def timed_run(*given: object, **named: object) -> object:
        begin = time.process_time()
        made = network(*given, **named)
        spent[0] += time.process_time() - begin
        return made

    Predictor.run = timed_run
    print("\n| studies as | all | the network | everything else |\n| --- | --- | --- | --- |")
    with workplace() as folder:
        for kind in FORMATS:
            make_studies(arguments.data, folder / kind, 9, (kind,))
            model = Predictor(MODEL, device="cpu")
            first, *paths = sorted((folder / kind).iterdir())
            segment_study(first, folder / "out", model, settings=settings)
            spent[0], begin = 0.0, time.process_time()
            for path in paths:
                segment_study(path, folder / "out", model, settings=settings)
            both = (time.process_time() - begin) / len(paths)
            alone = spent[0] / len(paths)
            rest = f"{alone:.2f} s ({alone / both:.0%}) | {both - alone:.3f} s"
            print(f"| {kind} | {both:.2f} s | {rest} |", flush=True)
    Predictor.run = network


def speed(arguments: argparse.Namespace) -> None:
    """Compare by format, in turns; then one long run of both formats, for the memory."""
    rates: dict[tuple[str, str], list[float]] = {}
    with workplace() as folder:
        for kind in FORMATS:
            make_studies(arguments.data, folder / kind, arguments.format_studies, (kind,))
        for repeat in range(arguments.repeats):
            for kind in FORMATS:
                out = folder / f"out-{kind}-{repeat}"
                n_bare = min(arguments.bare, arguments.format_studies)
                found = {"bare network": bare_network(folder / kind, n_bare)}
                seconds = run_cohort(folder / kind, out, *options(arguments))
                found["cohort"] = rate_after(out, arguments.in_flight * arguments.workers)
                found["cohort, start to end"] = arguments.format_studies / seconds
                found["one process a study"] = one_process_each(folder / kind, folder / f"each-{kind}-{repeat}", 3)
                for what, rate in found.items():
                    rates.setdefault((kind, what), []).append(rate)
                    tell(f"repeat {repeat + 1}: {kind}: {what}: {rate:.2f} a second")
    print(f"\n{arguments.format_studies} studies, {arguments.repeats} repeats, report {arguments.report}\n")
    print("| studies as | what | studies a second (range) | of the bare network | times one process a study |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    middle = {key: statistics.median(values) for key, values in rates.items()}
    for (kind, what), rate in middle.items():
        spread = f"{min(rates[kind, what]):.2f} to {max(rates[kind, what]):.2f}"
        shares = f"{rate / middle[kind, 'bare network']:.2f} | {rate / middle[kind, 'one process a study']:.1f}"
        print(f"| {kind} | {what} | {rate:.2f} ({spread}) | {shares} |", flush=True)


def options(arguments: argparse.Namespace) -> tuple[str, ...]:
    """How each cohort is run."""
    flight = ("--in-flight", str(arguments.in_flight), "--workers", str(arguments.workers))
    return ("--report", arguments.report, *flight)


def long(arguments: argparse.Namespace) -> None:
    """Run many studies of both formats once: throughput beside the bare network before and after, and memory."""
    with workplace() as folder:
        make_studies(arguments.data, folder / "in", arguments.studies)
        bare = [bare_network(folder / "in", arguments.bare)]
        out = folder / "out"
        seconds = run_cohort(folder / "in", out, *options(arguments))
        bare.append(bare_network(folder / "in", arguments.bare))
        resident = memory(out)
        rate = rate_after(out, arguments.in_flight * arguments.workers)
        if arguments.plots:
            plot_memory(resident, arguments.plots / "cohort-memory.svg")
            shoot(out / "cohort.html", arguments.plots / "cohort-desktop.png", folder)
        if arguments.keep:
            shutil.copytree(out, arguments.keep)
    tenth = max(1, len(resident) // 10)
    tenths = [statistics.median(resident[place * tenth : (place + 1) * tenth]) for place in range(10)]
    print(f"\n{arguments.studies} studies, half of them DICOM, once, in {seconds:.0f} s from start to end:", end=" ")
    network = statistics.fmean(bare)
    print(f"{rate:.2f} a second; the bare network {bare[0]:.2f} before and {bare[1]:.2f} after ({rate / network:.2f}).")
    print(
        "Resident memory of the worker by tenths of the run, MB: " + ", ".join(f"{x:.0f}" for x in tenths), flush=True
    )


def shoot(page: Path, picture: Path, folder: Path) -> None:
    """Take a picture of a page with headless Chromium, where there is one."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium: no picture of the page")
        return
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    words += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,1500"]
    line = [browser, *words, f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(line, capture_output=True, check=True)


def plot_memory(resident: Sequence[float], path: Path) -> None:
    """Draw resident memory over the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(resident, linewidth=0.8, color="#0072B2")
    axes.set(xlabel="studies done", ylabel="resident memory of the worker, MB", ylim=(0, max(resident) * 1.15))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


@contextlib.contextmanager
def cluster(n_workers: int, folder: Path) -> Iterator[str]:
    """A Dask scheduler, and workers of one thread each on a core of its own."""
    file = folder / f"scheduler-{n_workers}.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    single = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen([*line, "--scheduler-file", str(file)], env=single, **quiet)]
    while not file.exists():
        time.sleep(0.05)
    address = json.loads(file.read_text())["address"]
    for core in range(n_workers):
        line = ["taskset", "-c", str(core), sys.executable, "-m", "distributed.cli.dask_worker", address]
        words = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder / "dask")]
        processes.append(subprocess.Popen([*line, *words], env=single, **quiet))
    try:
        yield address
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def dask(arguments: argparse.Namespace) -> None:
    """Two Dask workers against one: medians over the repeats, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with workplace() as folder:
        make_studies(arguments.data, folder / "in", arguments.dask_studies)
        for repeat in range(arguments.repeats):
            for n_workers, found in rates.items():
                out = folder / f"out-{n_workers}-{repeat}"
                with cluster(n_workers, folder) as address:
                    run_cohort(folder / "in", out, "--scheduler", address, "--report", "none")
                # Without the workers' first load of torch: a cluster is up for longer than that.
                found.append(rate_after(out, 4 * n_workers))
                tell(f"repeat {repeat + 1}: {n_workers} workers: {found[-1]:.2f} a second")
                (folder / f"scheduler-{n_workers}.json").unlink()
    one, two = (statistics.median(rates[n]) for n in (1, 2))
    print(f"\n{arguments.dask_studies} studies, {arguments.repeats} repeats, one thread and one core a worker\n")
    print("| Dask workers | studies a second | ratio |\n| --- | --- | --- |")
    print(f"| 1 | {one:.2f} | 1 |\n| 2 | {two:.2f} | {two / one:.2f} |")


def scale(arguments: argparse.Namespace) -> None:
    """Seconds to plan, record, resume and export, by the number of studies."""
    from voxmetry.workflows.cohort.database import CohortRecord
    from voxmetry.workflows.cohort.export import export_tables
    from voxmetry.workflows.cohort.page import write_page

    print("\n| studies | plan | write the record | plan again, all done | export | page | record MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    settings = RunSettings(study=StudySettings(report="none"))
    for n in arguments.simulated:
        with workplace() as folder:
            simulate(folder / "in", n)
            out = folder / "out"
            out.mkdir()
            times = []
            with timed(times):
                plan = plan_cohort(folder / "in", out, [MODEL], settings=settings)
            with timed(times), CohortRecord(out) as record:
                record.begin("run", settings="{}", host="", pid=0, studies=plan.studies)
                for study in plan.studies:
                    record.finished(pretend(study, out), run="run")
            with timed(times):
                again = plan_cohort(folder / "in", out, [MODEL], settings=settings)
            if len(again.of("done")) != n:
                raise SystemExit("what was done is not found done")
            with timed(times):
                export_tables(out)
            with timed(times):
                write_page(out)
            size = (out / "cohort.sqlite").stat().st_size / 1e6
            print(f"| {n} | " + " | ".join(f"{x:.1f} s" for x in times) + f" | {size:.0f} |", flush=True)


def simulate(folder: Path, n: int) -> None:
    """Write n files that are images by their headers, each with voxels of its own, a hundred a folder."""
    header = nib.Nifti1Header()
    header.set_data_shape((35, 51, 35))
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
    start = header.binaryblock + b"\0" * 4
    for number in range(n):
        place = folder / f"{number // 100:05}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07}.nii").write_bytes(start + number.to_bytes(64, "little"))


def pretend(study: object, out: Path) -> object:
    """An outcome with two structures, and its one file."""
    from voxmetry.core.records import Measurement
    from voxmetry.workflows.cohort.progress import mark_of
    from voxmetry.workflows.cohort.records import Outcome, PlannedStudy

    if not isinstance(study, PlannedStudy):
        raise TypeError(study)
    place = f"{study.model}/{study.case}"
    (out / place).mkdir(parents=True)
    (out / place / "result.json").write_text(study.case)
    mark = mark_of(out / place / "result.json")
    facts = {"kind": "organ", "extent_rl_mm": 9.0, "extent_ap_mm": 9.0, "extent_si_mm": 9.0, "touches_border": False}
    volume_ml = 1 + hash(study.case) % 1000 / 1000
    rows = tuple(
        Measurement(label=name, value=value, n_voxels=9, volume_ml=volume_ml, centroid_ras_mm=(1.0, 2.0, 3.0), **facts)
        for value, name in enumerate(("anterior", "posterior"), start=1)
    )
    files = {f"{place}/result.json": mark} if mark else {}
    seconds = {"study": 0.5}
    return Outcome(
        case=study.case, model=study.model, state="done", place=place, measurements=rows, files=files, seconds=seconds
    )


@contextlib.contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Add the seconds of the block to a list."""
    begin = time.perf_counter()
    yield
    times.append(time.perf_counter() - begin)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with `in` inside, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-cohort-") as name:
        (Path(name) / "in").mkdir()
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder with images/")
    parser.add_argument("--part", choices=("processor", "speed", "long", "dask", "scale", "all"), default="all")
    parser.add_argument("--studies", type=int, default=1000, help="of the long run")
    parser.add_argument("--format-studies", type=int, default=40, help="of each format, for each repeat")
    parser.add_argument("--bare", type=int, default=40, help="studies of the bare network's loop")
    parser.add_argument("--keep", type=Path, help="keep the results of the long run in this folder")
    parser.add_argument("--dask-studies", type=int, default=60)
    parser.add_argument("--simulated", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of a cohort")
    parser.add_argument("--report", choices=("full", "brief", "none"), default="brief")
    parser.add_argument("--plots", type=Path, help="folder for the plot of the memory")
    arguments = parser.parse_args()
    print(f"voxmetry {voxmetry.__version__}, {os.cpu_count()} cores")
    parts = (("processor", processor), ("speed", speed), ("long", long), ("dask", dask), ("scale", scale))
    for name, part in parts:
        if arguments.part in (name, "all"):
            part(arguments)


if __name__ == "__main__":
    main()
