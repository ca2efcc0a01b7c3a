"""The files of deploy/: settings that are read, and a viewer that serves only what it should."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import requests

from voxmetry.config import load_yaml
from voxmetry.config.service import ServiceSettings

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.parametrize("name", ["serve.yaml", "compose-serve.yaml"])
def test_settings_are_those_that_the_service_reads(name: str) -> None:
    settings = load_yaml(DEPLOY / name, ServiceSettings)
    assert settings.routes
    assert settings.peers


def test_files_name_each_other_as_they_are() -> None:
    image = (DEPLOY / "Dockerfile").read_text()
    compose = (DEPLOY / "compose.yaml").read_text()
    unit = (DEPLOY / "voxmetry.service").read_text()
    for command in ("/etc/voxmetry/serve.yaml",):
        assert command in image
        assert command in compose
        assert command in unit
    for name in ("compose-serve.yaml", "viewer.py", "deploy/Dockerfile"):
        assert name in compose
        assert (DEPLOY / Path(name).name).is_file()
    assert "USER 10001" in image


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "voxmetry.service").read_text()
    assert text.count("/opt/voxmetry/bin/") == 2
    # What it starts is not installed here.
    runs = re.sub(r"/opt/voxmetry/bin/\w+", str(shutil.which("true")), text)
    (tmp_path / "voxmetry.service").write_text(runs)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "voxmetry.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_viewer_serves_its_folder_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DEPLOY))
    import viewer

    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("the page")
    (tmp_path / "dist" / "app-config.js").write_text("theirs")
    (tmp_path / "secret").write_text("secret")
    server = viewer.serve(tmp_path / "dist", "http://127.0.0.1:9", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert requests.get(f"{base}/viewer?StudyInstanceUIDs=1", timeout=120).text == "the page"
        ours = requests.get(f"{base}/app-config.js", timeout=120)
        assert f"{base}/dicom-web" in ours.text
        assert requests.get(f"{base}/dicom-web/studies", timeout=120).status_code == 502
        for path in ("/../secret", "/%2e%2e/secret", "//secret"):
            request = requests.Request("GET", base).prepare()
            request.url = base + path
            assert "secret" not in requests.Session().send(request, timeout=120).text
    finally:
        server.shutdown()
        server.server_close()
