"""A model that runs by MONAI's own parts: the reference of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from voxmetry.config import MapName
from voxmetry.core.records.clicks import Click
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError
from voxmetry.nn.confidence import Confidence, MemberAgreement
from voxmetry.nn.model import Model, load_model, overlapping_less
from voxmetry.nn.monai_parts import out_of_memory_in_words
from voxmetry.nn.predictor import Predictor, Study
from voxmetry.nn.preprocess import Prepared, require_channels
from voxmetry.nn.runtime import choose_device


class MonaiPredictor(Predictor):
    """A model that runs by `MonaiParts`: slower, in more memory, to the same labels. It is what the engine is held to.

    It writes no maps, and counts neither confidence nor agreement. It runs in float32 in torch, on the CPU or CUDA.
    Parameters are those of `Predictor`.

    Raises
    ------
    ConfigError
        If another device, precision or execution is asked for.
    """

    def __init__(
        self,
        model: Model | str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        execution: str = "eager",
        fast: bool = False,
        memory_gb: float | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if isinstance(model, Model):
            device, precision, execution = model.choice.device, model.choice.precision, model.choice.execution
        if device == "auto":
            device = choose_device("auto")
        if device not in ("cpu", "cuda") or precision not in ("auto", "float32") or execution != "eager":
            raise ConfigError(
                found=f"the engine monai on {device} in {precision}, {execution}",
                expected="cpu or cuda in float32, eager: it is the reference",
                fix="use --device cpu --precision float32 (device='cpu', precision='float32'), or --engine stream "
                "(engine='stream')",
            )
        if not isinstance(model, Model):
            model = load_model(model, device=device, precision="float32", fast=fast)
        super().__init__(overlapping_less(model), memory_gb=memory_gb, tell=tell)

    def prepare(
        self,
        volumes: Study,
        *,
        maps: Sequence[MapName] = (),
        measured: bool = False,  # noqa: ARG002  (nothing is planned)
        previous: Segmentation | None = None,  # noqa: ARG002  (`as_monai` refuses cascades)
        clicks: Sequence[Click] = (),
    ) -> Prepared:
        """Take the volumes of a study as they are; MONAI's transforms prepare them."""
        channels = [volumes] if isinstance(volumes, Volume) else list(volumes)
        require_channels(channels, self.spec)
        if clicks:
            raise ConfigError(
                found="clicks with the engine monai",
                expected="images alone: its transforms make no channels of clicks",
                fix="use --engine stream (engine='stream')",
            )
        if maps:
            raise ConfigError(
                found=f"maps ({', '.join(maps)}) with the engine monai",
                expected="labels alone: it is the plain way that the engine is compared with",
                fix="leave out --maps (maps=()), or use --engine stream (engine='stream')",
            )
        grid = channels[0].geometry
        return Prepared(torch.empty(0), grid, grid, volumes=tuple(channels))

    def run(
        self,
        prepared: Prepared,
        *,
        maps: Sequence[MapName] = (),  # noqa: ARG002  (refused by `prepare`)
        maps_to: Path | str | None = None,  # noqa: ARG002
        confidence: Confidence | None = None,  # noqa: ARG002
        agreement: MemberAgreement | None = None,  # noqa: ARG002
    ) -> Segmentation:
        """Run the parts on a study; the label map is cleaned up already, which changes nothing when done twice."""
        parts = self.model.as_monai()
        with out_of_memory_in_words(self.spec.name, self.device):
            return parts.segment(prepared.volumes, device=self.model.tensor_device)
