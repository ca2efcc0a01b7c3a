"""The pictures of a report as sheets with their words inside: for viewers that show pictures and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.text import figure as plain
from voxmetry.core.volume import Volume
from voxmetry.report.document import NOTICE
from voxmetry.report.instances import drawn_result, drawn_segmentation, numbers_of
from voxmetry.report.pictures.figures import BACKGROUND, INK, draw_panel
from voxmetry.report.pictures.illustrations import Illustration, illustrate
from voxmetry.report.pictures.plan import MOST_LESIONS, MOST_STRUCTURES
from voxmetry.report.pictures.planning import plan_pictures, require_one_grid
from voxmetry.report.text import clean, millilitres

MOST_SHEETS = 1 + MOST_STRUCTURES + MOST_LESIONS
"""The overview, and those of structures and lesions."""
PIXELS = 512
"""Side of one picture on a sheet."""
_ABOVE, _BELOW = 40, 128
_KEYS_A_ROW = 6
_INCHES = 2.6
"""Side of one picture for matplotlib; its lines and letters are measured against it."""
_SQUARE = "\N{BLACK SQUARE}"
_SIZES = (10.0, 7.5, 6.0)
"""Points of the title, the words below, and the smallest."""


def render_key_images(
    result: StudyResult,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    instances: InstanceSegmentation | None = None,
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draw a sheet for all structures together, one for each structure and one for each lesion.

    Parameters
    ----------
    result
        What was measured.
    volume
        The image (I, J, K).
    segmentation
        The labels that were measured, on its grid.
    reference
        The labels that they were compared with, on the same grid: outlined dashed.
    instances
        The instances of `result.instances`, each with a sheet of its own.

    Yields
    ------
    str, ndarray
        Title, and the picture (rows, columns, 3) in red, green and blue, 0 to 255: three slices with outlines, the
        title and numbers, what made them, and that they are for research use. They name no patient.

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    """
    require_one_grid(result, volume, segmentation, reference)
    shown, apart = result, drawn_segmentation(result, segmentation, instances)
    if apart is segmentation:
        plan = plan_pictures(result, volume, segmentation, reference)
    else:
        shown = drawn_result(result)
        plan = plan_pictures(shown, volume, apart, reference, whole=segmentation, numbers=numbers_of(result))
    made = result.provenance
    origin = clean(f"{made.model} {made.model_version}, voxmetry {made.voxmetry_version}. {NOTICE}")
    for words in illustrate(plan, shown):
        if words.kind != "error":
            yield words.title, _sheet(words, _keys(words, shown), origin, volume, apart, reference)


def _keys(words: Illustration, result: StudyResult) -> list[tuple[str, str]]:
    """Return name with volume, and colour, of each structure that the sheet names."""
    sizes = {clean(row.label): f"{millilitres(row.volume_ml)} mL" for row in result.measurements}
    return [(f"{_SQUARE} {key.label} {sizes.get(key.label, '')}".rstrip(), key.colour) for key in words.keys]


def _sheet(
    words: Illustration,
    keys: Sequence[tuple[str, str]],
    origin: str,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None,
) -> NDArray[np.uint8]:
    n = len(words.pictures)
    width, height = n * PIXELS, _ABOVE + PIXELS + _BELOW
    figure = Figure(figsize=(n * _INCHES, height / PIXELS * _INCHES), dpi=PIXELS / _INCHES, facecolor=BACKGROUND)
    for place, picture in enumerate(words.pictures):
        axes = figure.add_axes((place / n, _BELOW / height, 1 / n, PIXELS / height))
        draw_panel(axes, picture.panel, volume, segmentation, reference)
        _write(figure, (place * PIXELS + 8, _BELOW - 6), picture.caption, _SIZES[2], (width, height))
    title = f"{_SQUARE} {words.title}" if words.colour else words.title
    _write(figure, (8, height - 6), title, _SIZES[0], (width, height), colour=words.colour or INK)
    _write(figure, (8, _BELOW - 30), words.caption, _SIZES[1], (width, height))
    for place, (key, colour) in enumerate(keys):
        row, column = divmod(place, _KEYS_A_ROW)
        at = (8 + column * width / _KEYS_A_ROW, _BELOW - 60 - 20 * row)
        _write(figure, at, key, _SIZES[2], (width, height), colour=colour)
    _write(figure, (8, 22), origin, _SIZES[2], (width, height))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _write(
    figure: Figure,
    at: tuple[float, float],
    words: str,
    points: float,
    size: tuple[int, int],
    *,
    colour: str = INK,
) -> None:
    """Write words below and to the right of a place in pixels, counted from the lower left corner."""
    where = (at[0] / size[0], at[1] / size[1])
    figure.text(*where, plain(words), color=colour, fontsize=points, ha="left", va="top")
