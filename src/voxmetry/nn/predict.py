"""The network's part of the straight path in one call."""

from __future__ import annotations

from pathlib import Path

from voxmetry.core.segmentation import Segmentation
from voxmetry.nn.composite import Composite, How, is_composite
from voxmetry.nn.model import Model
from voxmetry.nn.predictor import Predictor, Study


def segment(
    volumes: Study, model: Model | str | Path, *, device: str = "auto", precision: str = "auto", fast: bool = False
) -> Segmentation:
    """Segment one study: prepare, run the network, restore to the study's own grid, clean up.

    Parameters
    ----------
    volumes
        One volume, or one for each input of the model in its order.
    model
        A loaded model, a bundled model's name, or a model folder. For many volumes, load it once: see `Predictor`.
    device
        "auto", "cpu", "cuda", "mps" or "openvino"; a loaded model keeps its own.
    precision
        "auto", "float32", "bf16" or "fp16"; a loaded model keeps its own.
    fast
        Trade accuracy for time, see `load_model` and `Composite`; a loaded model keeps its own.

    Returns
    -------
    Segmentation
        On the first volume's grid.

    Raises
    ------
    VoxmetryError
        If the input does not fit the model, the model cannot be loaded, or its scores are not finite.
    """
    if is_composite(model):
        return Composite(Path(str(model)), How(device=device, precision=precision), fast=fast)(volumes)
    return Predictor(model, device=device, precision=precision, fast=fast)(volumes)
