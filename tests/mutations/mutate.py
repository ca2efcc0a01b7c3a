"""Apply each change of mutations.yaml to a copy of the package, and prove that the tests it names fail.

python tests/mutations/mutate.py [NAME ...]     # those whose name holds one of the words; all if none is given
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FAILED = 1
"""pytest's exit code where tests ran and some failed; others mean that nothing was proved."""


@dataclass(frozen=True)
class Mutation:
    """One change of the package and the tests that are to notice it.

    Parameters
    ----------
    name
        What the change does, in words.
    file
        Relative to the repository.
    old, new
        A text that occurs once in the file, and what takes its place.
    tests
        Node ids of pytest; each fails where the change is made.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_mutations() -> list[Mutation]:
    """Read the list beside this file."""
    content = yaml.safe_load(Path(__file__).with_name("mutations.yaml").read_text(encoding="utf-8"))
    return [Mutation(**item | {"tests": tuple(item["tests"])}) for item in content]


def survivors(mutation: Mutation, package: Path) -> list[str]:
    """Return the tests that pass although the change is made in a copy of `src`; its file is put back."""
    path = package / Path(mutation.file).relative_to("src")
    before = path.read_text(encoding="utf-8")
    if before.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.name}: the old text is {before.count(mutation.old)} times in {mutation.file}, not once"
        )
    try:
        path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
        return [test for test in mutation.tests if run_test(test, package) != FAILED]
    finally:
        path.write_text(before, encoding="utf-8")


def run_test(test: str, package: Path) -> int:
    """Run a test on a copy of the package; return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", test, "-q", "-x", "-p", "no:cacheprovider", "-o", "pythonpath=tests"]
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode


def main(words: list[str]) -> int:
    """Go through the list; return 1 where a change went unnoticed."""
    chosen = [m for m in read_mutations() if not words or any(word in m.name for word in words)]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "src"
        shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("__pycache__"))
        for test in sorted({test for mutation in chosen for test in mutation.tests}):
            # Without a change they pass; else their failing would prove nothing.
            if run_test(test, package) != 0:
                raise SystemExit(f"{test} does not pass as it is")
        for mutation in chosen:
            left = survivors(mutation, package)
            unnoticed += bool(left)
            sys.stdout.write(f"{'UNNOTICED by ' + ', '.join(left) if left else 'noticed'}: {mutation.name}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen)} changes, {unnoticed} unnoticed\n")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
