"""A real disk that fills up and then turns read-only under a run: a small tmpfs in a mount namespace of its own."""

import json
import shutil
import subprocess

import pytest

import chaos
import models
from workflows.cohort.test_run import snapshot

SCRIPT = """
set -e
mount -t tmpfs -o size=$SMALL none "$OUT"
"$@" > "$LOG/full.json" || echo $? > "$LOG/full.code"
mount -o remount,size=200m "$OUT"
"$@" > "$LOG/again.json" || echo $? > "$LOG/again.code"
mount -o remount,ro "$OUT"
"$@" --only-failed > "$LOG/frozen.json" || echo $? > "$LOG/frozen.code"
cp -r "$OUT" "$LOG/out"
"""


def can_mount() -> bool:
    tool = shutil.which("unshare")
    words = [tool or "", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(tool) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs Linux user namespaces with mounts")
def test_a_disk_that_fills_up_and_one_that_becomes_read_only(tmp_path):
    for name in ("in", "mount", "log"):
        (tmp_path / name).mkdir()
    chaos.make_good(tmp_path / "in", 12)
    model = models.write(tmp_path / "tiny-mr")
    line = chaos.command(tmp_path / "in", tmp_path / "mount", model, "--in-flight", "1")
    places = {"OUT": str(tmp_path / "mount"), "LOG": str(tmp_path / "log"), "SMALL": "300k"}
    words = ["unshare", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "bash", *line]
    log = tmp_path / "log"
    told = subprocess.run(words, env=chaos.ENVIRONMENT | places, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    full = json.loads((log / "full.json").read_text())
    assert (full["error"], (log / "full.code").read_text()) == ("OutputError", "1\n")
    assert "full" in full["found"]
    again = json.loads((log / "again.json").read_text())
    assert again["counts"]["done"] == 12
    frozen = json.loads((log / "frozen.json").read_text())
    assert (frozen["error"], (log / "frozen.code").read_text()) == ("OutputError", "1\n")
    quiet = chaos.command(tmp_path / "in", tmp_path / "quiet", model, "--in-flight", "1")
    subprocess.run(quiet, env=chaos.ENVIRONMENT, capture_output=True, check=False)
    assert snapshot(log / "out") == snapshot(tmp_path / "quiet")
    assert not list((log / "out").rglob(".part-*"))
