"""The tests of the command line look at no picture of a report."""

from __future__ import annotations

from quick import quick_pictures

__all__ = ["quick_pictures"]
