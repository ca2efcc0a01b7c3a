"""The results that the tests of the report make, for the verbs that read them."""

from __future__ import annotations

from quick import quick_pictures
from report.conftest import make_result, many_labels

__all__ = ["make_result", "many_labels", "quick_pictures"]
