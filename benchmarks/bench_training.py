"""Training beside MONAI's own DynUNet recipe and nnU-Net's trainer, in one run: batches, steps a second, peak memory.

    python benchmarks/bench_training.py DATA|phantoms [--cases 16] [--steps 10] [--repeats 3] [--threads 1] [--by clock]
                                        [--nnunet-python PYTHON] [--minutes 6]

DATA is a folder with images/ and labels/, such as the hippocampus cases; `phantoms` makes larger ones: smooth noise of
160 x 144 x 112 voxels with two ellipsoids. Both sides use the same network, patch, batch and precision, and the same
kinds of augmentation (ours draws a bias field and a low resolution as well); the recipe is written as
Project-MONAI/tutorials modules/dynunet_pipeline has it (CacheDataset, dictionary transforms, DataLoader, DiceCELoss,
SGD with Nesterov momentum). With --nnunet-python, a Python with nnunetv2, nnU-Net's trainer takes its turns too, in a
process of its own, with the same patch, batch and stages and all else as it has it (more augmentation, deep supervision
on each level); on a processor it computes in float32 alone, so that --precision float32 compares like with like. The
data pipeline is measured without anything beside it: no thread ahead here, no worker
there, by the processor's time. Training is measured by the clock, as each is used: one thread ahead here, one worker
process there; with --by processor by the processor's time, and then without either. They take turns, so that other
work on the machine meets all. With --minutes no turn begins that would end later, one of each kind apart: a quick table
is that of small phantoms (--shape 112 96 80) and few steps. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import monai
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    Spacingd,
    SpatialPadd,
)
from scipy.ndimage import gaussian_filter
from torch import nn

import machine
from voxmetry import Geometry, LabelTable, Segmentation, Volume, save
from voxmetry.config import TrainSettings
from voxmetry.nn.runtime import choose_for_training
from voxmetry.train.batches import Batch, ahead, batches
from voxmetry.train.cache import cached_case
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import open_data
from voxmetry.train.devices import open_fabric
from voxmetry.train.fingerprint import scan
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.losses import build_loss
from voxmetry.train.plan import make_plan
from voxmetry.train.plan_memory import Budget, Outputs, memory_gb
from voxmetry.train.state import begin
from voxmetry.train.step import train_step
from voxmetry.workflows.provenance import peak_memory_mb

PIPELINE = "data pipeline, by CPU time"
NNUNET = "nnU-Net's trainer"
Feed = Iterator[tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[160, 144, 112], help="voxels of the phantoms along each axis"
    )
    parser.add_argument("--json", type=Path, help="file that the figures are written to as well")
    parser.add_argument(
        "--by", choices=("clock", "processor"), default="clock", help="How training is timed; busy machines: processor."
    )
    parser.add_argument("--nnunet-python", type=Path, help="a Python with nnunetv2")
    parser.add_argument("--no-training", action="store_true", help="The data pipeline alone.")
    parser.add_argument("--no-pipeline", action="store_true", help="Training alone.")
    parser.add_argument("--minutes", type=float, default=math.inf, help="when the last turn has ended")
    options = parser.parse_args()
    options.end = time.monotonic() + 60 * options.minutes
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work:
        folder = options.data
        if folder == "phantoms":
            folder = phantoms(Path(work) / "phantoms-mr", options.cases, tuple(options.shape))
        _run(open_data(folder), Path(folder), Path(work), options)


def _run(data: DataSet, folder: Path, work: Path, options: argparse.Namespace) -> None:
    data = data.select([case.name for case in data.cases[: options.cases]])
    named, _, fingerprint = scan(data)
    planned = make_plan(fingerprint, named, data=options.data, budget=Budget(device=options.device)).settings
    settings = planned.model_copy(update={"precision": options.precision})
    if len(data.cases) < settings.batch_size:
        # The recipe drops incomplete batches, and would look for a whole one for ever.
        raise SystemExit(f"{len(data.cases)} cases for a batch of {settings.batch_size}: name more with --cases")
    sides = {
        "voxmetry": _ours(settings, named, options.device, work),
        "MONAI recipe": _theirs(settings, named, options.device),
    }
    rows: dict[str, list[dict[str, float]]] = {}
    if not options.no_pipeline:
        feeds = {name: _drain(feed(0)) for name, (feed, _) in sides.items()}
        rows[PIPELINE] = _turns(feeds, options, time.process_time)
    if not options.no_training:
        by_clock = options.by == "clock"
        clock = time.perf_counter if by_clock else time.process_time
        ready = {side: _train(feed(int(by_clock)), step) for side, (feed, step) in sides.items()}
        peer = NnUNet(settings, folder, work / "nnunet", options) if options.nnunet_python else None
        rows[f"training, by {'the clock' if by_clock else 'CPU time'}"] = _turns(ready, options, clock, peer)
        if peer:
            peer.close()
    _report(rows, settings, options)


def _turns(
    sides: dict[str, Callable[[], None]],
    options: argparse.Namespace,
    clock: Callable[[], float],
    peer: NnUNet | None = None,
) -> list[dict[str, float]]:
    """Return the steps a second of each side in each turn but the first, which fills caches."""
    turns: list[dict[str, float]] = []
    for _ in range(options.repeats + 1):
        began = time.monotonic()
        found = {side: _per_second(work, options.steps, clock) for side, work in sides.items()}
        if peer:
            found[NNUNET] = peer.per_second(options.steps, options.by)
        turns.append(found)
        ended = time.monotonic()
        if len(turns) > 1 and 2 * ended - began > options.end:
            break
    return turns[1:]


class NnUNet:
    """nnU-Net's trainer in a process of its own, which waits between its turns; see `nnunet_trainer.py`."""

    def __init__(self, settings: TrainSettings, folder: Path, work: Path, options: argparse.Namespace) -> None:
        spec, network = settings.model, settings.model.network
        content = {
            "patch": spec.window.patch,
            "spacing": spec.spacing_mm,
            "batch": settings.batch_size,
            "channels": network.channels,
            "strides": network.strides,
            "kernels": network.kernels,
            "modality": spec.inputs[0].modality,
            "threads": options.threads,
            # A worker beside, as the others have; by the processor's time none.
            "workers": int(options.by == "clock"),
        }
        script = Path(__file__).with_name("nnunet_trainer.py")
        command = [str(options.nnunet_python), str(script), str(folder), str(work), json.dumps(content)]
        self.log = (work.parent / "nnunet.log").open("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self._answer()

    def per_second(self, steps: int, by: str) -> float:
        """Return the steps a second of so many steps."""
        self.process.stdin.write(f"{steps} {by}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End it. By a word: MONAI's worker process holds the pipe open as well, so that it has no end."""
        self.process.stdin.write("end\n")
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"nnU-Net's trainer ended:\n{self.log.read()[-2000:]}")
        return line


def phantoms(folder: Path, count: int, shape: tuple[int, int, int] = (160, 144, 112)) -> Path:
    """Write smooth noise with a large and a small ellipsoid, in voxels of 1.5 mm; 160 of them are a radius of 40."""
    large = tuple(round(size * share) for size, share in zip(shape, (0.25, 0.21, 0.22), strict=True))
    small = tuple(max(2, round(size * share)) for size, share in zip(shape, (0.056, 0.049, 0.054), strict=True))
    grid, table = Geometry(np.diag([1.5, 1.5, 1.5, 1.0]), shape), LabelTable.from_names({1: "large", 2: "small"})
    for number in range(count):
        rng = np.random.default_rng(number)
        image = gaussian_filter(rng.normal(size=shape).astype(np.float32), 2) * 300 + 200
        label = np.zeros(shape, np.uint8)
        for value, radii in ((1, large), (2, small)):
            centre = [rng.integers(radius, size - radius) for radius, size in zip(radii, shape, strict=True)]
            axes = np.ogrid[tuple(slice(0, size) for size in shape)]
            inside = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)) < 1
            label[inside] = value
        image += 60.0 * label
        for part, thing in (("images", Volume(image, grid)), ("labels", Segmentation(label, grid, table))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            save(thing, folder / part / f"case_{number:02}.nii.gz")
    return folder


def _ours(settings: TrainSettings, data: DataSet, device: str, work: Path) -> tuple[Callable[[int], Feed], Callable]:
    cases: list[LabelledCase] = [cached_case(case, data, settings.model, work / "cache") for case in data.cases]
    state, criterion = (
        begin(settings, open_fabric(settings, choose_for_training(device, settings.precision))),
        build_loss(settings.loss),
    )

    def endless() -> Feed:
        for epoch in itertools.count():
            yield from batches(cases, settings, epoch=epoch, device=device)

    def feed(one_ahead: int) -> Feed:
        return ahead(endless()) if one_ahead else endless()

    def step(*batch: torch.Tensor) -> None:
        train_step(state, settings, criterion, Batch(*batch), 100)

    return feed, step


def _theirs(settings: TrainSettings, data: DataSet, device: str) -> tuple[Callable[[int], Feed], Callable]:
    spec, both = settings.model, ["image", "label"]
    items = [{"image": str(case.images[0]), "label": str(case.label)} for case in data.cases]
    augment = settings.augment
    turn = float(augment.rotate_degrees) * torch.pi / 180
    transforms = Compose(
        [
            LoadImaged(both),
            EnsureChannelFirstd(both),
            Orientationd(both, axcodes="RAS", labels=None),
            Spacingd(both, pixdim=spec.spacing_mm, mode=("bilinear", "nearest")),
            NormalizeIntensityd("image", nonzero=False),
            SpatialPadd(both, spatial_size=spec.window.patch),
            RandCropByPosNegLabeld(
                both, label_key="label", spatial_size=spec.window.patch, pos=2, neg=1, num_samples=1
            ),
            RandAffined(
                both,
                prob=augment.affine_probability,
                rotate_range=(turn, turn, turn),
                scale_range=(augment.scale,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianNoised("image", std=0.01, prob=0.15),
            RandGaussianSmoothd("image", sigma_x=(0.5, 1.15), sigma_y=(0.5, 1.15), sigma_z=(0.5, 1.15), prob=0.15),
            RandScaleIntensityd("image", factors=0.3, prob=0.15),
            RandAdjustContrastd("image", prob=0.3),
            RandFlipd(both, spatial_axis=[0], prob=0.5),
        ]
    )
    cached = CacheDataset(items, transforms, progress=False)
    network = spec.network
    torch.manual_seed(settings.seed)
    model: nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=spec.n_classes,
        kernel_size=[list(kernel) for kernel in network.kernels],
        strides=[list(stride) for stride in network.strides],
        upsample_kernel_size=[list(stride) for stride in network.strides[1:]],
        filters=list(network.channels),
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=network.deep_supervision > 0,
        deep_supr_num=max(1, network.deep_supervision),
    ).to(device)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.99, weight_decay=3e-5, nesterov=True)

    def feed(workers: int) -> Feed:
        loader = DataLoader(
            cached,
            batch_size=settings.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        while True:
            for batch in loader:
                yield batch["image"], batch["label"]

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        model.train()
        optimiser.zero_grad(set_to_none=True)
        image, label = image.to(device), label.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bf16"):
            outputs = model(image)
        outputs = outputs.unbind(1) if outputs.ndim == 6 else [outputs]
        loss = sum(0.5**level * criterion(output.float(), label) for level, output in enumerate(outputs))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 12)
        optimiser.step()

    return feed, step


def _drain(feed: Feed) -> Callable[[], None]:
    return lambda: (next(feed), None)[1]


def _train(feed: Feed, step: Callable) -> Callable[[], None]:
    return lambda: step(*next(feed))


def _per_second(work: Callable[[], None], steps: int, clock: Callable[[], float] = time.perf_counter) -> float:
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = clock()
    for _ in range(steps):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return steps / (clock() - began)


def _report(rows: dict[str, list[dict[str, float]]], settings: TrainSettings, options: argparse.Namespace) -> None:
    patch = " x ".join(map(str, settings.model.window.patch))
    taken = " and ".join(str(len(turns)) for turns in rows.values())
    where = torch.cuda.get_device_name() if options.device == "cuda" else machine.processor()
    print(
        f"Patch {patch}, batch {settings.batch_size}, channels {settings.model.network.channels}, {options.precision}, "
        f"{options.cases} cases of {Path(options.data).name}, {options.steps} steps x {taken}, "
        f"{options.threads} thread(s) on {where}; "
        f"Python {sys.version.split()[0]}, torch {torch.__version__}, MONAI {monai.__version__}\n"
    )
    if options.json:
        figures = {"patch": patch, "batch": settings.batch_size, "per_second": rows}
        options.json.write_text(json.dumps(figures, indent=1))
    print("| batches a second, medians | voxmetry | the other | ratio (median, lowest to highest) |")
    print("| --- | --- | --- | --- |")
    for name, turns in rows.items():
        for other in list(turns[0])[1:]:
            ours, theirs = (statistics.median(turn[side] for turn in turns) for side in ("voxmetry", other))
            ratios = sorted(turn["voxmetry"] / turn[other] for turn in turns)
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"| {name}, beside {other} | {ours:.2f} | {theirs:.2f} | {spread} |")
    network = settings.model.network
    estimate = memory_gb(
        list(settings.model.window.patch),
        [list(stride) for stride in network.strides],
        list(network.channels),
        settings.batch_size,
        Outputs(settings.model.n_classes),
    )
    peak = torch.cuda.max_memory_allocated() / 1e9 if options.device == "cuda" else peak_memory_mb() / 1e3
    print(
        f"\nPeak memory of the process {peak:.2f} GB, ours and MONAI's; the plan's estimate of a step {estimate:.2f}."
    )


if __name__ == "__main__":
    main()
