"""OHIF and an Orthanc server behind one address on this machine: for the demonstration and its tests, and no more.

    python deploy/viewer.py --ohif FOLDER --orthanc http://127.0.0.1:8042 --port 3000

FOLDER is the folder `dist` of the package @ohif/app of npm. OHIF's own settings are replaced by ones that name this
address as its archive; nothing of the folder is changed. It serves the browser of this machine: no login, no TLS.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import mimetypes
from pathlib import Path
from urllib.parse import urlsplit

CONFIG = """window.config = {
  routerBasename: null,
  extensions: [],
  modes: [],
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'dicomweb',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'dicomweb',
    configuration: %s,
  }],
};
"""
ROOT = "/dicom-web"


def config(address: str) -> bytes:
    """Return OHIF's settings for an archive behind the same address."""
    archive = {
        "friendlyName": "Orthanc",
        "name": "orthanc",
        "wadoUriRoot": f"{address}/wado",
        "qidoRoot": f"{address}{ROOT}",
        "wadoRoot": f"{address}{ROOT}",
        "qidoSupportsIncludeField": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True},
        "loadMultiframeAsPart10": True,
    }
    return (CONFIG % json.dumps(archive)).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with a file of OHIF, or with what the archive answers."""

    protocol_version = "HTTP/1.1"
    folder: Path
    archive: str

    def do_GET(self) -> None:
        """Answer one request."""
        path = urlsplit(self.path).path
        if path.startswith((f"{ROOT}/", "/wado")):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(config(f"http://{self.headers.get('Host', '')}"), "text/javascript")
        else:
            self._file(path)

    def _file(self, path: str) -> None:
        found = (self.folder / path.lstrip("/")).resolve()
        # Its pages are routes of one page.
        if not found.is_file() or self.folder not in found.parents:
            found = self.folder / "index.html"
        kind = "application/wasm" if found.suffix == ".wasm" else mimetypes.guess_type(found.name)[0]
        self._answer(found.read_bytes(), kind or "application/octet-stream")

    def _pass_on(self) -> None:
        target = urlsplit(self.archive)
        connection = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=60)
        try:
            connection.request(
                "GET", self.path, headers={"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
            )
            response = connection.getresponse()
            self._answer(response.read(), response.headers.get("Content-Type", ""), response.status)
        except OSError:
            self._answer(b"the archive does not answer", "text/plain", 502)
        finally:
            connection.close()

    def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # OHIF decodes in several threads that share memory, which browsers allow to isolated pages alone.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: paths hold UIDs."""


def serve(folder: Path, archive: str, port: int, *, host: str = "127.0.0.1") -> http.server.ThreadingHTTPServer:
    """Return a server; `serve_forever` runs it."""
    handler = type("Viewer", (Handler,), {"folder": folder.resolve(), "archive": archive})
    return http.server.ThreadingHTTPServer((host, port), handler)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ohif", type=Path, required=True)
    options.add_argument("--orthanc", default="http://127.0.0.1:8042")
    options.add_argument("--port", type=int, default=3000)
    options.add_argument("--host", default="127.0.0.1", help="another address only where nobody else reaches it")
    given = options.parse_args()
    serve(given.ohif, given.orthanc, given.port, host=given.host).serve_forever()
