"""The documentation site: `make docs` builds it from these pages, as they are, into build/docs."""

from __future__ import annotations

project = "Voxmetry"
author = "The Voxmetry authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = "Voxmetry"
html_static_path: list[str] = []
# Headings become targets, so that [text](page.md#heading) works as it does in a repository viewer.
myst_heading_anchors = 4
# Links to the code and to files beside docs/ are for readers of the repository; tests/test_docs.py checks them.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
html_copy_source = False
html_show_sphinx = False
