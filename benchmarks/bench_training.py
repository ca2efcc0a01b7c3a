"""Training beside MONAI's own DynUNet recipe, in the same run: the data pipeline, steps a second, and peak memory.

python benchmarks/bench_training.py DATA [--cases 16] [--steps 10] [--repeats 3] [--threads 1] [--device cpu]

DATA is a folder with images/ and labels/, such as the hippocampus cases. Both sides use the same network, patch, batch
and precision, and the same kinds of augmentation; the recipe is written as Project-MONAI/tutorials
modules/dynunet_pipeline has it (CacheDataset, dictionary transforms, DataLoader without workers, DiceCELoss, SGD with
Nesterov momentum). The two take turns, so that other work on the machine meets both. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import monai
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
from torch import nn

from voxmetry.config import TrainSettings
from voxmetry.train.data import LabelledCase, augmentation, batches, load_case
from voxmetry.train.dataset import DataSet, open_data
from voxmetry.train.devices import open_fabric
from voxmetry.train.fingerprint import scan
from voxmetry.train.loop import train_step
from voxmetry.train.losses import build_loss
from voxmetry.train.plan import Budget, make_plan, memory_gb
from voxmetry.train.state import begin

Feed = Iterator[tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    data = open_data(options.data)
    data = data.select([case.name for case in data.cases[: options.cases]])
    named, _, fingerprint = scan(data)
    planned = make_plan(fingerprint, named, data=str(options.data), budget=Budget(device=options.device)).settings
    settings = planned.model_copy(update={"precision": options.precision})
    ours, theirs = _ours(settings, named, options.device), _theirs(settings, named, options.device)
    rows: dict[str, list[tuple[float, float]]] = {"data pipeline": [], "training": []}
    for repeat in range(options.repeats + 1):
        pipeline = tuple(_per_second(_drain(feed(repeat)), options.steps) for feed, _ in (ours, theirs))
        training = tuple(_per_second(_train(feed(repeat), step), options.steps) for feed, step in (ours, theirs))
        if repeat:  # the first turn fills caches
            rows["data pipeline"].append(pipeline)
            rows["training"].append(training)
    _report(rows, settings, options)


def _ours(settings: TrainSettings, data: DataSet, device: str) -> tuple[Callable[[int], Feed], Callable]:
    cases: list[LabelledCase] = [load_case(case, data, settings.model) for case in data.cases]
    change = augmentation(
        settings.augment, patch=settings.model.window.patch, foreground_fraction=settings.foreground_fraction
    )
    state, criterion = begin(settings, open_fabric(settings, device)), build_loss(settings.loss)

    def feed(epoch: int) -> Feed:
        while True:
            yield from batches(cases, change=change, batch_size=settings.batch_size, seed=settings.seed, epoch=epoch)
            epoch += 1000

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        train_step(state, settings, criterion, image, label, 100)

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
    loader = DataLoader(
        CacheDataset(items, transforms, progress=False), batch_size=settings.batch_size, shuffle=True, drop_last=True
    )
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

    def feed(_: int) -> Feed:
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


def _per_second(work: Callable[[], None], steps: int) -> float:
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - began)


def _report(rows: dict[str, list[tuple[float, float]]], settings: TrainSettings, options: argparse.Namespace) -> None:
    patch = " x ".join(map(str, settings.model.window.patch))
    print(
        f"Patch {patch}, batch {settings.batch_size}, channels {settings.model.network.channels}, {options.precision}, "
        f"{options.cases} cases, {options.steps} steps x {options.repeats}, {options.threads} thread(s) on "
        f"{torch.cuda.get_device_name() if options.device == 'cuda' else platform.processor() or platform.machine()}; "
        f"Python {sys.version.split()[0]}, torch {torch.__version__}, MONAI {monai.__version__}\n"
    )
    print("| batches a second | voxmetry | MONAI recipe | ratio (median, lowest to highest) |")
    print("| --- | --- | --- | --- |")
    for name, pairs in rows.items():
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {ours:.2f} | {theirs:.2f} | {spread} |")
    network = settings.model.network
    estimate = memory_gb(
        list(settings.model.window.patch),
        [list(stride) for stride in network.strides],
        list(network.channels),
        settings.batch_size,
    )
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"\nPeak memory of the process {peak:.2f} GB, both sides; the plan's estimate of a step {estimate:.2f}.")


if __name__ == "__main__":
    main()
