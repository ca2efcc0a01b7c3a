"""A cohort in which one of every kind of bad entry sits, and a run of it in full.

    python tests/bad_entries.py [--studies 300]

The good studies must all be done, each bad entry must be a row with its reason, and nothing may hang.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import chaos
import models
from voxmetry.io import write_series


def make_odd(folder: Path) -> dict[str, str]:
    """Write one entry of every kind that is no file one can read; return the word that its reason must hold."""
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    expected = {}

    def add(name: str, word: str) -> Path:
        expected[name.removesuffix(".nii.gz")] = word
        return folder / name

    add("odd_link.dcm", "a link to a file that is not there").symlink_to(outside / "gone.dcm")
    add("odd_link_nifti.nii.gz", "a link to a file that is not there").symlink_to(outside / "gone.nii.gz")
    loop = add("odd_loop", "leads back to itself")
    loop.symlink_to(loop)
    os.mkfifo(add("odd_pipe.dcm", "named pipe"))
    os.mkfifo(add("odd_pipe_nifti.nii.gz", "named pipe"))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server, contextlib.chdir(folder):
        server.bind("odd_socket")
    expected["odd_socket"] = "a socket"
    add("odd_device.nii.gz", "a device").symlink_to("/dev/zero")
    (folder / "odd_empty.nii.gz").touch()
    expected["odd_empty"] = ""
    (folder / "odd_empty.dcm").touch()
    expected[folder.name] = "odd_empty.dcm"
    for name in (b"odd_\xff.dcm", b"odd_\xfe.dcm", b"odd_folder_\xff"):
        path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118  (bytes)
        if name.endswith(b".dcm"):
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(bytes(200))
        else:
            os.mkdir(path)  # noqa: PTH102
    series = write_series(chaos.phantom(9990), folder / "odd_series", modality="MR")
    series[2].unlink()
    series[2].symlink_to(outside / "gone.dcm")
    expected["odd_series"] = "missing"
    folder_to_self = folder / "odd_folder_loop"
    folder_to_self.mkdir()
    (folder_to_self / "again").symlink_to(folder)
    return expected


def bad_rows(out: Path) -> dict[str, str]:
    """Return the reason of each row that was not done, by case."""
    with contextlib.closing(sqlite3.connect(out / "cohort.sqlite")) as db:
        rows = db.execute("SELECT \"case\", fault FROM studies WHERE state != 'done'").fetchall()
    return {case: json.loads(fault)["found"] if fault else "" for case, fault in rows}


def n_done(out: Path) -> int:
    """Return how many studies are done."""
    with contextlib.closing(sqlite3.connect(out / "cohort.sqlite")) as db:
        found: int = db.execute("SELECT count(*) FROM studies WHERE state = 'done'").fetchone()[0]
    return found


def check(out: Path, n_good: int, expected: dict[str, str], n_broken: int) -> dict[str, str]:
    """See that the good ones are done and the others rows with their reasons."""
    assert n_done(out) == n_good, (n_done(out), n_good, bad_rows(out))
    rows = bad_rows(out)
    for case, word in expected.items():
        assert case in rows, f"no row for {case}: {sorted(rows)}"
        assert word in rows[case], f"{case}: {rows[case]!r} does not say {word!r}"
    assert sum("UTF-8" in reason for reason in rows.values()) == 3, rows
    assert all(rows.values()), rows
    # Beside them: three names that are no text, and the link in the place of a slice.
    assert len(rows) == len(expected) + 4 + n_broken, sorted(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=300)
    n = parser.parse_args().studies
    folder = Path(tempfile.mkdtemp(prefix="bad-entries-"))
    try:
        source = folder / "in"
        source.mkdir()
        chaos.make_broken(source)
        expected = make_odd(source)
        n_good = n - 10 - len(expected) - 4
        chaos.make_good(source, n_good)
        model = models.write(folder / "tiny-mr")
        line = chaos.command(source, folder / "out", model)
        told = subprocess.run(line, env=chaos.ENVIRONMENT, capture_output=True, text=True, check=False, timeout=3600)
        assert told.returncode == 1, told.stderr
        assert "Traceback" not in told.stderr
        rows = check(folder / "out", n_good, expected, 10)
        print(f"{n_done(folder / 'out')} done, {len(rows)} rows with a reason:")
        for case, reason in sorted(rows.items()):
            print(f"  {case}: {reason.splitlines()[0]}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
