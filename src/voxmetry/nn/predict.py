"""The network's part of the straight path in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.nn.model import Model, load_model
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.restore import restore
from voxmetry.nn.window import window_scores
from voxmetry.ops.components import clean


def segment(volumes: Volume | Sequence[Volume], model: Model | str | Path, *, device: str = "auto") -> Segmentation:
    """Segment one study: prepare, run the network, restore to the study's own grid, clean up.

    Parameters
    ----------
    volumes
        One volume, or one for each input of the model in its order.
    model
        A loaded model (load it once for many volumes), a bundled model's name, or a model folder.
    device
        "auto", "cpu", "cuda" or "openvino"; a loaded model keeps its own.

    Returns
    -------
    Segmentation
        On the first volume's grid.

    Raises
    ------
    VoxmetryError
        If the input does not fit the model, the model cannot be loaded, or its scores are not finite.
    """
    ready = model if isinstance(model, Model) else load_model(model, device=device)
    channels = [volumes] if isinstance(volumes, Volume) else list(volumes)
    prepared = preprocess(channels, ready.spec)
    scores = window_scores(ready.run, prepared.tensor.to(ready.tensor_device), ready.spec.window)
    found = restore(scores, grid=prepared.grid, native=prepared.native, spec=ready.spec)
    return clean(found, ready.spec.clean)
