"""What the pictures share: a figure that shows itself."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that a notebook can show whichever backend is set, or none."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=110)
        return out.getvalue()


def new_figure(width: float, height: float) -> NotebookFigure:
    """Return an empty white figure of this size in inches, without pyplot's global state."""
    figure = NotebookFigure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure
