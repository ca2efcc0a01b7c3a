"""A model that is loaded once and takes any number of studies, one after the other, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from voxmetry.config import MapName, ModelSpec, Weights
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import FastRun
from voxmetry.core.records.clicks import Click
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.nn.clicks import with_clicks
from voxmetry.nn.confidence import Confidence, MemberAgreement
from voxmetry.nn.constant_windows import ConstantWindows
from voxmetry.nn.device_memory import OutOfMemory, out_of_memory, release_device
from voxmetry.nn.device_preprocess import preprocess_on
from voxmetry.nn.fewer_windows import FewerWindows
from voxmetry.nn.instances import InstanceCollector, paint, tells_instances
from voxmetry.nn.memory import MemoryPlan, fallback, plan_memory
from voxmetry.nn.mirroring import averaged, swapped_sides
from voxmetry.nn.model import Model, load_model
from voxmetry.nn.preprocess import Prepared, normalise, preprocess, require_channels
from voxmetry.nn.progress import followed
from voxmetry.nn.restore import Decision, Restorer
from voxmetry.nn.ring_buffer import RingOverflow
from voxmetry.nn.runtime import TorchRuntime, first_layer_not_finite
from voxmetry.nn.slabs import Streaming
from voxmetry.nn.streamed_input import preprocess_streamed
from voxmetry.nn.uncertainty_maps import MapWriter, require_maps, with_disagreement
from voxmetry.nn.window import stream_scores
from voxmetry.ops.components import clean

Study: TypeAlias = Volume | Sequence[Volume]
"""One volume, or one for each input of the model in its order."""


class Predictor:
    """A loaded model as a function from volumes to label maps.

    It runs in this process and starts no other: it needs no `if __name__ == "__main__"` and works in notebooks. The
    same input gives the same bytes on the same machine and device, whatever maps are asked for beside it; on CUDA in
    bf16 and fp16 but for ties, as the quickest algorithm is found anew by each process.

    Parameters
    ----------
    model
        A loaded model, a bundled model's name, or a model folder.
    device
        "auto", "cpu", "cuda", "mps" or "openvino"; a loaded model keeps its own.
    precision
        "auto", "float32", "bf16" or "fp16"; a loaded model keeps its own.
    execution
        "eager", "compile" or "graph", see `load_model`; a loaded model keeps its own.
    fast
        Trade accuracy for time, see `load_model`; a loaded model keeps its own.
    memory_gb
        The most that this process may hold, in 10^9 bytes of resident memory; None takes what the system has left.
        What a study needs is predicted before it is prepared: it is run within that, or refused with the figure.
    tell
        Called with a line of text where something was chosen: the device, the plan, a fallback.

    Raises
    ------
    VoxmetryError
        If the model cannot be loaded or the device is not there.

    Examples
    --------
    >>> import numpy as np
    >>> from voxmetry import Geometry
    >>> predictor = Predictor("hippocampus-mr", device="cpu")
    >>> noise = np.random.default_rng(0).integers(0, 200, (20, 30, 24)).astype(np.int16)
    >>> predictor(Volume(noise, Geometry(np.eye(4), noise.shape)))
    Segmentation(2 labels, Geometry(20 x 30 x 24 @ 1 x 1 x 1 mm, RAS))
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
        if not isinstance(model, Model):
            model = load_model(model, device=device, precision=precision, execution=execution, fast=fast)
        self.model = model
        self._memory_gb = memory_gb
        self._tell = tell or (lambda _: None)
        self.last_plan: MemoryPlan | None = None
        """How the last study was run."""
        self._tell(f"{self.spec.name} on {self.model.choice}" + (f"; fast: {self.fast}" if self.fast else ""))

    @property
    def spec(self) -> ModelSpec:
        """What the model takes and returns."""
        return self.model.spec

    @property
    def weights(self) -> Weights:
        """File and checksum of the model's parameters."""
        return self.model.weights

    @property
    def device(self) -> str:
        """What the network runs on."""
        return self.model.choice.device

    @property
    def precision(self) -> str:
        """Precision of the network's products."""
        return self.model.choice.precision

    @property
    def fast(self) -> FastRun | None:
        """What is traded for time; None where runs are full ones."""
        return self.model.fast

    def __call__(
        self,
        volumes: Study,
        *,
        maps: Sequence[MapName] = (),
        maps_to: Path | str | None = None,
        previous: Segmentation | None = None,
        clicks: Sequence[Click] = (),
    ) -> Segmentation:
        """Segment one study: prepare, run the network, restore to the first volume's own grid, clean up.

        Parameters
        ----------
        volumes
            One volume, or one for each input of the model in its order.
        maps, maps_to
            Which of "probabilities", "entropy" and "disagreement" to write to which folder; see `nn.uncertainty_maps`.
        previous
            Labels of the first network of a cascade, for the second one.
        clicks
            What a person says is there, for a model that was trained with clicks.

        Raises
        ------
        VoxmetryError
            If the input does not fit the model, memory does not suffice, or the scores are not finite.
        """
        prepared = self.prepare(volumes, maps=maps, previous=previous, clicks=clicks)
        return clean(self.run(prepared, maps=maps, maps_to=maps_to), self.spec.clean)

    def plan(
        self, volumes: Study, *, maps: Sequence[MapName] = (), measured: bool = False, clicks: bool = False
    ) -> MemoryPlan:
        """Say how a study would be run, and these maps written, and what memory that takes, without running it.

        With `measured`, what is needed to measure the result in this process counts as well; with `clicks`, their
        channels.

        Raises
        ------
        InferenceError
            If it does not fit; the message says how much is needed.
        """
        model = self.model
        return plan_memory(
            _channels(volumes),
            self.spec,
            model.cost,
            model.choice,
            memory_gb=self._memory_gb,
            maps=bool(maps),
            measured=measured,
            clicks=clicks,
            whole=self.tells_instances,
        )

    def prepare(
        self,
        volumes: Study,
        *,
        maps: Sequence[MapName] = (),
        measured: bool = False,
        previous: Segmentation | None = None,
        clicks: Sequence[Click] = (),
    ) -> Prepared:
        """See that a study fits into memory, see `plan`; then orient, resample and normalise it."""
        require_channels(_channels(volumes), self.spec)
        plan = self.plan(volumes, maps=maps, measured=measured, clicks=bool(clicks))
        if clicks and not isinstance(self.model.members[0], TorchRuntime):
            raise ConfigError(
                found=f"clicks on {self.device}",
                expected="cpu or cuda: other runtimes keep the network of images alone",
                fix="use --device cpu or cuda (device='cpu')",
            )
        prepared = with_clicks(self._preprocess(_channels(volumes), plan, previous), clicks, self.spec)
        return replace(prepared, plan=plan)

    def _preprocess(self, volumes: Sequence[Volume], plan: MemoryPlan, previous: Segmentation | None) -> Prepared:
        """Prepare a study on the GPU where its input is to lie there and there is room; else on the host.

        What does not fit there either is prepared slab by slab, while the network runs.
        """
        if plan.how.streamed:
            return preprocess_streamed(volumes, self.spec)
        if previous is None and (plan.how.image_device or self.model.tensor_device) == "cuda":
            with contextlib.suppress(OutOfMemory), out_of_memory():
                found = preprocess_on("cuda", volumes, self.spec)
                if found is not None:
                    return found
            release_device("cuda")
        return preprocess(volumes, self.spec, previous)

    def run(
        self,
        prepared: Prepared,
        *,
        maps: Sequence[MapName] = (),
        maps_to: Path | str | None = None,
        confidence: Confidence | None = None,
        agreement: MemberAgreement | None = None,
    ) -> Segmentation:
        """Run the network on a prepared study and choose the labels on the study's own grid, slab by slab.

        `confidence` is fed with each slab, `agreement` with the scores of each member of an ensemble.
        Where memory runs out all the same, a smaller plan is tried, once.
        """
        if self.tells_instances:
            return self.run_instances(prepared, maps=maps, maps_to=maps_to, confidence=confidence).segmentation
        return self._run(prepared, maps, maps_to, confidence, agreement, None)

    def run_instances(
        self,
        prepared: Prepared,
        *,
        maps: Sequence[MapName] = (),
        maps_to: Path | str | None = None,
        confidence: Confidence | None = None,
    ) -> InstanceSegmentation:
        """Run a network that tells instances apart; see `run`, and `nn.instances`.

        Raises
        ------
        ConfigError
            If the network tells none apart.
        """
        i, j, k = prepared.tensor.shape[2:]
        member = self.model.members[0]
        if not isinstance(member, TorchRuntime):
            raise ConfigError(
                found=f"{self.spec.name} on {self.device}",
                expected="torch: proposals and masks run there only",
                fix="use --device cpu or cuda (device='cpu')",
            )
        collector = InstanceCollector(member, self.spec, (i, j, k))
        semantic = self._run(prepared, maps, maps_to, confidence, None, collector)
        found = collector.merged()
        return paint(found, semantic, grid=prepared.grid, spec=self.spec)

    def instances(self, volumes: Study) -> InstanceSegmentation:
        """Tell the instances of one study apart, on the first volume's own grid, before any post-processing."""
        return self.run_instances(self.prepare(volumes))

    @property
    def tells_instances(self) -> bool:
        """Whether the network tells instances apart."""
        return tells_instances(self.spec)

    def _run(
        self,
        prepared: Prepared,
        maps: Sequence[MapName],
        maps_to: Path | str | None,
        confidence: Confidence | None,
        agreement: MemberAgreement | None,
        collector: InstanceCollector | None,
    ) -> Segmentation:
        require_maps(maps, self.spec)
        folder = Path(maps_to) if maps_to is not None else Path()
        plan = self.last_plan = prepared.plan
        how = plan.how if plan else Streaming()
        if plan:
            self._tell(str(plan))
        try:
            with contextlib.suppress(OutOfMemory):
                return self._stream(prepared, how, maps, folder, confidence, agreement, collector)
        except RingOverflow:
            how = replace(how, dtype=torch.float32)
            self._tell(f"scores too large for float16; once more with {how}")
            with contextlib.suppress(OutOfMemory):
                return self._stream(prepared, how, maps, folder, confidence, agreement, collector)
        smaller = fallback(how, self.device)
        release_device(self.device)
        self._tell(f"out of memory; once more with {smaller}")
        try:
            return self._stream(prepared, smaller, maps, folder, confidence, agreement, collector)
        except (OutOfMemory, RingOverflow) as error:
            # The smaller plan's ring may not hold the scores: then there is none that does both.
            raise InferenceError(
                found=f"{self.spec.name} ran out of memory on {self.device}, with a smaller plan too",
                expected=f"{plan.needed / 1e9:.2f} GB, as was predicted"
                if plan
                else "room for one window and the ring",
                fix="end other programs that use this device, or name --memory-gb (memory_gb=8) so that a smaller "
                "plan is chosen",
            ) from error

    def _stream(
        self,
        prepared: Prepared,
        how: Streaming,
        maps: Sequence[MapName],
        folder: Path,
        confidence: Confidence | None,
        agreement: MemberAgreement | None,
        collector: InstanceCollector | None,
    ) -> Segmentation:
        spec = self.spec
        members = self.model.members if collector is None else (collector,)
        for counts in (confidence, agreement, collector):
            # What a plan that ran out of memory had counted is forgotten.
            if counts is not None:
                counts.reset()
        watch = agreement.watch if agreement is not None and agreement.defined else None
        restorer = Restorer(prepared.grid, prepared.native, spec, on_disk=how.labels_on_disk)
        place = how.image_device or self.model.tensor_device
        apart = "disagreement" in maps
        mirrored, swapped = spec.window.mirror_axes, swapped_sides(spec)
        with torch.inference_mode(), out_of_memory(), ExitStack() as stack:
            writer = MapWriter(folder, maps, prepared.grid, prepared.native, spec) if maps else None
            regions = spec.regions is not None
            reuse = how.reuse and collector is None
            constant = ConstantWindows(spec.n_classes, regions=regions, kind=how.dtype) if reuse else None
            fewer = FewerWindows(Decision(regions=regions).of_slab, spec.n_classes)
            if writer:
                stack.enter_context(writer)
            slabs = stream_scores(
                with_disagreement(members, mirrored, watch=watch, swapped=swapped)
                if apart
                else averaged(members, mirrored, watch=watch, swapped=swapped),
                prepared.streamed or prepared.tensor.to(place),
                spec.window,
                n_outputs=spec.n_classes + apart,
                how=how,
                skip_up_to=skip_level(spec),
                explain=lambda patch: first_layer_not_finite(members, patch),
                device=self.model.tensor_device,
                constant=constant,
                begin=collector.begin if collector is not None else None,
                fewer=fewer if self.fast is not None and self.fast.fewer_windows else None,
            )
            for slab in followed(slabs, prepared.grid.shape, self._tell):
                outputs = slab.outputs(spec.n_classes)
                restorer.feed(outputs)
                if confidence is not None:
                    confidence.feed(outputs)
                if writer:
                    writer.feed(slab)
        if constant is not None and constant.reused:
            self._tell(f"{constant.reused} windows of one value were not run: their scores are those of the first")
        return restorer.finish()


def _channels(volumes: Study) -> list[Volume]:
    return [volumes] if isinstance(volumes, Volume) else list(volumes)


def skip_level(spec: ModelSpec) -> float | None:
    """Return `WindowSpec.skip_up_to` in the unit of the network's input."""
    level = spec.window.skip_up_to
    if level is None:
        return None
    return float(normalise(np.array([level], dtype=np.float32), spec.inputs[0])[0])
