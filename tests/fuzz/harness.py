"""Run cases of damage, within limits of time and memory, and judge each against a reference in a process of its own."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from voxmetry.errors import ReadingWarning

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

SECONDS = 20
REFERENCE_SECONDS = 60
LIMIT = 2 << 30
_READY = "ready"

Files = dict[str, bytearray]
Mutation = Callable[[random.Random, Files], None]
Kind = Literal["right", "refused", "unjudged", "finding"]


class Target(Protocol):
    """What is damaged and how it is judged."""

    name: str
    share: float
    """Of all cases, before all shares are scaled to 1."""
    mutations: dict[str, Mutation]

    def sources(self, data: Path | None, scratch: Path) -> list[Files]:
        """Return undamaged inputs, as bytes by file name: some made by code, more from `data` if it is there."""

    def judge(self, folder: Path, reference: Reference) -> tuple[Kind, str]:
        """Read what is in a folder; say whether it was right, refused, or neither, and how."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    kind: Kind
    mutations: tuple[str, ...]
    told: str


class ReferenceDiedError(Exception):
    """The reference ended without an answer: it was killed, aborted, or took too long."""


class Reference:
    """Calls functions in another process, so that a decoder that aborts there takes nothing with it."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Any = None

    def call(self, function: Callable[..., str], *args: Any) -> str:
        """Return what a function says; raise ReferenceDiedError if it never does.

        An exception of the function comes back as RuntimeError with its text.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        try:
            self._pipe.send((function, args))
            if not self._pipe.poll(REFERENCE_SECONDS):
                raise ReferenceDiedError(f"longer than {REFERENCE_SECONDS} s")
            is_error, told = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            code = self._process.exitcode
            self.close()
            raise ReferenceDiedError(f"ended with code {code}") from error
        except ReferenceDiedError:
            self.close()
            raise
        if is_error:
            raise RuntimeError(told)
        return told

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(REFERENCE_SECONDS) or self._pipe.recv() != _READY:
            raise RuntimeError("the process of the reference does not start")

    def close(self) -> None:
        """End the other process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Any) -> None:
    if resource is not None:
        # What a length says is allocated by some references before that much is read.
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    warnings.simplefilter("ignore")
    pipe.send(_READY)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, function(*args)))
        except Exception as error:  # noqa: BLE001  (the reference's failure is told, whatever it is)
            pipe.send((True, f"{type(error).__name__}: {str(error)[:200]}"))


class SlowError(Exception):
    """A case took too long."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `SlowError` when the block takes longer."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(*_: object) -> None:
        raise SlowError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Let this process take `LIMIT` bytes more than it has; only where the system has such limits."""
    if resource is None or sys.platform != "linux":
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_case(target: Target, seed: int, sources: Sequence[Files], scratch: Path, reference: Reference) -> Outcome:
    """Damage one source by one to three mutations, and judge what is read of it."""
    r = random.Random(seed)
    files = {name: bytearray(content) for name, content in r.choice(sources).items()}
    names = tuple(r.choice(sorted(target.mutations)) for _ in range(r.choice((1, 1, 1, 2, 3))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            target.mutations[name](r, files)
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        with limited(SECONDS + REFERENCE_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ReadingWarning)
            kind, told = target.judge(folder, reference)
    except ReferenceDiedError as error:
        return Outcome("unjudged", names, f"the reference {error}")
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a finding)
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(
            "finding", names, f"{type(error).__name__}: {error} at {Path(where.filename).name}:{where.lineno}"
        )
    return Outcome(kind, names, told)


@dataclasses.dataclass
class Tally:
    """What became of the cases of one target."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unjudged: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    findings: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    slowest_s: float = 0.0

    def add(self, seed: int, outcome: Outcome, seconds: float) -> None:
        """Count one case."""
        self.counts[outcome.kind] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if outcome.kind == "unjudged":
            self.unjudged[outcome.told.split(":")[0]] += 1
        if outcome.kind == "finding":
            self.findings[seed] = outcome


def run(
    target: Target,
    seeds: Sequence[int],
    sources: Sequence[Files],
    scratch: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Run the cases of these seeds, and say each finding as it comes."""
    tally, reference = Tally(), Reference()
    try:
        for seed in seeds:
            start = time.perf_counter()
            outcome = run_case(target, seed, sources, scratch, reference)
            tally.add(seed, outcome, time.perf_counter() - start)
            if outcome.kind == "finding":
                say(f"{target.name}:{seed} ({', '.join(outcome.mutations)}): {outcome.told}")
    finally:
        reference.close()
    return tally
