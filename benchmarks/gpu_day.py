"""All that a GPU is wanted for, in the minutes that there are: tests, benchmarks, and a training in what is left.

    python benchmarks/gpu_day.py --out FOLDER [--minutes 9] [--wheels FOLDER] [--settings FILE.yaml --data FOLDER]
                                 [--device cuda] [--tiny]

Steps, in this order: install what is missing, tests/nn/test_gpu.py, a network and a study of 105 classes (eager),
training steps beside MONAI's recipe, the same study as a CUDA graph and compiled, training. Each is a process of its
own with a limit; one that takes longer is stopped, and the next one runs. The whole ends by the clock. A summary
(summary.md, summary.json) is written anew after each step, so that a machine that is taken away leaves what was done.

It needs Python, torch with CUDA, and no network connection where --wheels names a folder of wheels; those are installed
without their dependencies, so that the torch that is there stays. Without --settings it trains on phantoms that it
makes. The weights lie in FOLDER/training/model; a training that was stopped goes on with `voxmetry train --resume`.
`--device cpu --tiny` goes the same way in some minutes on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "monai", "nibabel", "isal", "pydantic", "yaml", "typer", "rich", "safetensors", "lightning_fabric")
NEEDED += ("cc3d", "edt", "skimage", "filelock", "lazy_loader", "pytest")
LIMITS_S = {"install": 120, "tests": 120, "eager": 90, "training-steps": 60, "graph": 60, "compile": 120}
"""Of the nine minutes; with more or fewer, each in proportion."""
WHOLE_S = 540
KEPT_S = 90
"""Of the nine minutes, for the training: no earlier step takes them."""
LEAST_S = 5
"""A step that has less is not begun."""
TELL_S = 1
TINY_STUDY = "--size 48 48 32 --classes 3 --patch 32 --channels 8 16 16 --repeats 1 --batch 1 --precision float32"
TINY_TRAINING = "--shape 32 28 24 --cases 4 --steps 1 --repeats 1 --precision float32"
TRAINING = "--cases 6 --steps 20 --repeats 2 --threads 8"
TAIL = 40


@dataclasses.dataclass
class Result:
    """How a step ended: "done", "failed", "stopped" by the clock, or "not run"."""

    name: str
    state: str
    seconds: float
    words: str = ""


class Day:
    """The clock, and what was done so far.

    Parameters
    ----------
    out
        Folder of logs, figures and weights.
    seconds
        After which all is to have ended.
    now
        The clock.
    """

    def __init__(self, out: Path, seconds: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self.out, self.whole, self._now = out, seconds, now
        self.end = now() + seconds
        self.results: list[Result] = []

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - self._now()

    def limit(self, name: str) -> float:
        """Return the seconds that a step may take, those kept for the training left out."""
        share = self.whole / WHOLE_S
        if name not in LIMITS_S:
            return self.left
        return min(LIMITS_S[name] * share, self.left - KEPT_S * share)

    def run(self, name: str, command: Sequence[str], *, environment: dict[str, str] | None = None) -> Result:
        """Run a step within its limit, its words in NAME.log, and write the summary."""
        limit = self.limit(name)
        if limit < LEAST_S:
            return self.note(Result(name, "not run", 0.0, f"{max(0.0, limit):.0f} s were left for it"))
        print(f"== {name}: at most {limit:.0f} s, {self.left:.0f} s until the end", flush=True)
        log, began = self.out / f"{name}.log", self._now()
        with log.open("w", encoding="utf-8") as words:
            step = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=words, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                state = "failed" if step.wait(timeout=limit) else "done"
            except subprocess.TimeoutExpired:
                state = "stopped"
            finally:
                end(step)
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        return self.note(Result(name, state, round(self._now() - began, 1), "\n".join(tail)))

    def note(self, result: Result) -> Result:
        """Keep a result and write the summary anew."""
        self.results.append(result)
        rows = [dataclasses.asdict(row) for row in self.results]
        lines = ["| step | how it ended | s |", "| --- | --- | --: |"]
        lines += [f"| {row.name} | {row.state} | {row.seconds:.1f} |" for row in self.results]
        for row in self.results:
            lines += ["", f"## {row.name}", "", "```text", row.words, "```"]
        replace(self.out / "summary.json", json.dumps({"seconds": self.whole, "steps": rows}, indent=1))
        replace(self.out / "summary.md", "\n".join(lines) + "\n")
        print(f"== {result.name}: {result.state} after {result.seconds:.1f} s", flush=True)
        return result


def end(step: subprocess.Popen[bytes]) -> None:
    """End a step and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(step.pid, signal.SIGKILL)
    step.wait()


def replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def install_command(wheels: Path | None, present: Callable[[str], object] = importlib.util.find_spec) -> list[str]:
    """Return what installs what is missing; empty where nothing is."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    if wheels is not None:
        return [*pip, "--no-index", "--no-deps", *(str(wheel) for wheel in sorted(wheels.glob("*.whl")))]
    if all(present(name) for name in NEEDED):
        return []
    # Without the versions of constraints.txt: a torch that fits the machine's driver is there, and stays.
    return [*pip, "--editable", ".[train]", "pytest>=8.3"]


def no_cuda(device: str) -> str:
    """Say why a device cannot be used; "" where it can be."""
    if device != "cuda":
        return ""
    code = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no word"])[-1]
        return f"found: torch cannot be imported ({last})\nexpected: torch with CUDA\nfix: install it, or name --wheels"
    version, cuda, there = asked.stdout.split()
    if there == "True":
        return ""
    return (
        f"found: no CUDA device (torch {version}, {'built without CUDA' if cuda == 'None' else 'CUDA ' + cuda})\n"
        "expected: a GPU that `nvidia-smi` lists, and a torch that was built for its driver\n"
        "fix: run it on a machine with a GPU, or try the same steps without one: --device cpu --tiny"
    )


def steps_of(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Return the steps between installing and training, by name."""
    python, out, device = sys.executable, options.out, options.device
    study = [python, "benchmarks/bench_gpu.py", "--device", device]
    training = [python, "benchmarks/bench_training.py", "phantoms", "--device", device]
    training += ["--json", str(out / "training-steps.json")]
    if options.tiny:
        study += TINY_STUDY.split()
        training += TINY_TRAINING.split()
    else:
        training += TRAINING.split()
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", "tests/nn/test_gpu.py"]
    if device == "cuda":
        tests += ["-m", "gpu or not slow"]
    elif options.tiny:
        tests += ["-k", "TestLaunches"]
    steps = [("tests", tests)]
    for name in ("eager", "training-steps", "graph", "compile"):
        if name == "training-steps":
            steps.append((name, training))
        elif name == "eager" or device == "cuda":
            steps.append((name, [*study, "--execution", name, "--json", str(out / f"{name}.json")]))
    return steps


def training_command(options: argparse.Namespace, seconds: float) -> list[str]:
    """Return the process that trains, which knows when it is to have ended."""
    command = [sys.executable, __file__, "--train", f"{seconds:.0f}", "--out", str(options.out)]
    command += ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    if options.settings:
        command += ["--settings", str(options.settings), "--data", str(options.data)]
    return command


def train_for(options: argparse.Namespace) -> None:
    """Prepare the cases, then train until the weights can still be written in time."""
    began = time.monotonic()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from bench_training import phantoms
    from voxmetry.config import TrainSettings, load_yaml
    from voxmetry.train.cache import cached_case
    from voxmetry.train.dataset import open_data
    from voxmetry.train.fingerprint import scan
    from voxmetry.train.loop import train
    from voxmetry.train.plan import make_plan
    from voxmetry.train.plan_memory import Budget

    out = options.out / "training"
    if options.settings:
        settings, data = load_yaml(options.settings, TrainSettings), options.data
    else:
        shape = (32, 28, 24) if options.tiny else (160, 144, 112)
        data = phantoms(options.out / "phantoms-mr", 4 if options.tiny else 12, shape)
        named, _, fingerprint = scan(open_data(data))
        budget = Budget(device=options.device, memory_gb=2.0 if options.tiny else 16.0)
        planned = make_plan(fingerprint, named, data=str(data), budget=budget).settings
        settings = planned.model_copy(update={"epochs": 1000, "steps_per_epoch": 2 if options.tiny else 20})
    found = open_data(data)
    for case in found.cases:
        cached_case(case, found, settings.model, options.out / "cache")
    # The rest is for the last validation, the model's folder, and the epoch in which the time ends.
    left = 0.8 * (options.train - (time.monotonic() - began)) - LEAST_S
    print(f"{len(found.cases)} cases prepared, {left:.0f} s of training", flush=True)
    if left <= 0:
        raise SystemExit("no time is left to train: the cases are prepared, and a later start finds them")
    path = train(
        settings,
        out,
        data=Path(data),
        device=options.device,
        cache=options.out / "cache",
        max_minutes=left / 60,
        resume=(out / "settings.yaml").exists(),
    )
    print(f"weights in {path}", flush=True)


def main() -> None:
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.train is not None:
        train_for(options)
        return
    day = Day(options.out, 60 * options.minutes)
    paths = [str(ROOT / part) for part in ("src", "tests", "benchmarks")]
    earlier = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths + ([earlier] if earlier else []))}
    command = install_command(options.wheels)
    if command and day.run("install", command).state != "done":
        sys.exit(f"gpu-day: could not install what is missing; see {options.out / 'install.log'}")
    words = no_cuda(options.device)
    if words:
        day.note(Result("device", "failed", 0.0, words))
        sys.exit(f"gpu-day: no device to run on\n{words}")
    for name, step in steps_of(options):
        day.run(name, step, environment=environment)
    day.run("training", training_command(options, day.left - TELL_S), environment=environment)
    print(f"== {day.out / 'summary.md'}")
    if any(row.state == "failed" for row in day.results):
        sys.exit(1)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=(ROOT / "out" / "gpu-day"))
    parser.add_argument("--minutes", type=float, default=9.0, help="after which all has ended")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--wheels", type=lambda text: Path(text).resolve(), help="folder of wheels to install")
    parser.add_argument("--settings", type=lambda text: Path(text).resolve(), help="a training configuration")
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), help="its data set")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--train", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.settings is None) != (options.data is None):
        parser.error("--settings and --data go together")
    if options.wheels is not None and not list(options.wheels.glob("*.whl")):
        parser.error(f"{options.wheels} holds no wheels")
    return options


if __name__ == "__main__":
    main()
