"""Balls and ellipsoids that touch: a small Mask R-CNN, watershed and connected components beside the known answer.

    python benchmarks/bench_instance_phantoms.py [--steps 160] [--json OUT.json]

The network learns on made images for a minute or two of one core; all methods then see new ones, larger than the
patch. Components and watershed are given the true mask, which is more than any network would give them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from voxmetry import Geometry, LabelTable, Segmentation, Volume
from voxmetry.config import ModelSpec, parse_record
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.measurement.instances import match_instance_maps
from voxmetry.nn.instances import InstanceCollector, paint
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.networks.mask_rcnn import MaskRcnn
from voxmetry.nn.preprocess import preprocess
from voxmetry.nn.restore import Restorer
from voxmetry.nn.runtime import RuntimeChoice, TorchRuntime
from voxmetry.nn.window import stream_scores
from voxmetry.ops.instances import tell_apart
from voxmetry.train.instance_losses import InstanceLoss, targets_of
from voxmetry.train.losses import build_loss
from voxmetry.train.schedule import learning_rate

PEAK_RATE = 2e-3
SPEC = {
    "name": "phantom",
    "version": "0.1.0",
    "summary": "Ellipsoids that touch",
    "licence": "Apache-2.0",
    "body_part": "phantom",
    "inputs": [{"name": "mr", "modality": "MR", "normalise": {"method": "zscore", "nonzero": False}}],
    "spacing_mm": [1, 1, 1],
    "window": {"patch": [32, 32, 32]},
    "network": {
        "kind": "maskrcnn",
        "channels": [8, 16, 32],
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "kernels": [[3, 3, 3]] * 3,
        "anchors_mm": [[12, 12, 12]],
        "proposal_levels": [1],
        "pyramid_level": 0,
        "pyramid_channels": 12,
        "head_channels": 64,
        "box_size": 4,
        "mask_size": 8,
        "proposals": 32,
        "samples": 24,
        "min_score": 0.5,
    },
    "labels": {"labels": [{"value": 1, "name": "body", "colour": "#E69F00"}]},
    "training_domain": {},
}


def phantom(shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, and its instances: ellipsoids of 9 to 14 voxels, most of which touch another one."""
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    centres: list[np.ndarray] = []
    axes: list[np.ndarray] = []
    for _ in range(2000):
        if len(centres) == count:
            break
        radius = rng.uniform(4.5, 7)
        centre = rng.uniform(radius, np.array(shape) - radius)
        if centres and rng.random() < 0.8:
            beside = int(rng.integers(len(centres)))
            way = rng.normal(size=3)
            centre = centres[beside] + way / np.linalg.norm(way) * (axes[beside].mean() + radius - 0.5)
        if (centre < 0.8 * radius).any() or (centre > np.array(shape) - 0.8 * radius).any():
            continue
        if any(np.linalg.norm(centre - c) < radius + a.mean() - 1 for c, a in zip(centres, axes, strict=True)):
            continue
        centres.append(centre)
        axes.append(radius * rng.uniform(0.85, 1.15, 3))
    far = np.stack([np.linalg.norm((ijk - c) / a, axis=-1) for c, a in zip(centres, axes, strict=True)])
    instances = np.where(far.min(0) <= 1, far.argmin(0) + 1, 0).astype(np.uint16)
    image = gaussian_filter((instances > 0) + rng.normal(0, 0.25, shape), 0.5)
    return image.astype(np.float32), instances


def learn(spec: ModelSpec, steps: int) -> tuple[MaskRcnn, float]:
    """Train on made images; return the network and the processor seconds."""
    torch.manual_seed(0)
    network, rng = build_network(spec), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE)
    began = time.process_time()
    for step in range(steps):
        pairs = [phantom((32, 32, 32), 6, rng) for _ in range(2)]
        images = torch.stack([torch.from_numpy((image - image.mean()) / image.std())[None] for image, _ in pairs])
        instances = torch.stack([torch.from_numpy(truth.astype(np.int64))[None] for _, truth in pairs])
        label = (instances > 0).long()
        criterion = InstanceLoss(targets_of(instances, label, [1]), build_loss("dice_ce"), label, seed=step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_RATE)
        loss = network.train()(images.float(), criterion)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimiser.step()
    if not isinstance(network, MaskRcnn):
        raise TypeError("no Mask R-CNN")
    return network.eval(), time.process_time() - began


def run(network: MaskRcnn, spec: ModelSpec, image: np.ndarray) -> InstanceSegmentation:
    """Tell the instances of an image apart, in windows."""
    prepared = preprocess([Volume(image, Geometry(np.eye(4), image.shape))], spec)
    runtime = TorchRuntime(network, RuntimeChoice("cpu", "float32", "benchmark"), n_outputs=2)
    i, j, k = prepared.tensor.shape[2:]
    collector = InstanceCollector(runtime, spec, (i, j, k))
    restorer = Restorer(prepared.grid, prepared.native, spec)
    with torch.inference_mode():
        for slab in stream_scores(collector, prepared.tensor, spec.window, n_outputs=2, begin=collector.begin):
            restorer.feed(slab)
    return paint(collector.merged(), restorer.finish(), grid=prepared.grid, spec=spec)


def numbered(array: np.ndarray) -> Segmentation:
    """Return an instance map as a label map whose values are instances."""
    names = {int(value): str(value) for value in np.unique(array) if value} or {1: "1"}
    return Segmentation(array.astype(np.uint16), Geometry(np.eye(4), array.shape), LabelTable.from_names(names))


def main() -> None:
    """Train, run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    spec = parse_record(SPEC, ModelSpec, where="the phantoms")
    network, seconds = learn(spec, arguments.steps)
    rng = np.random.default_rng(99)
    totals: dict[str, list[float]] = {}
    for shape, count in (((32, 32, 32), 6), ((48, 56, 40), 24), ((24, 60, 44), 16), ((40, 40, 64), 20)):
        image, truth = phantom(shape, count, rng)
        mask = Segmentation((truth > 0).astype(np.uint8), Geometry(np.eye(4), shape), spec.labels)
        made = {
            "Mask R-CNN": run(network, spec, image).array,
            "watershed of the true mask": tell_apart(mask, "watershed").array,
            "components of the true mask": tell_apart(mask).array,
        }
        for name, array in made.items():
            row = match_instance_maps(prediction=numbered(array), reference=numbered(truth))
            sums = totals.setdefault(name, [0.0] * 4)
            for place, value in enumerate((row.tp_reference, row.fp, row.fn, row.iou_sum)):
                sums[place] += value
    table = {}
    print(f"{arguments.steps} steps, {seconds:.0f} s of processor\n| method | found | missed | extra | SQ | PQ |")
    for name, (tp, fp, fn, ious) in totals.items():
        table[name] = {"tp": tp, "fn": fn, "fp": fp, "sq": ious / max(tp, 1), "pq": ious / (tp + fp / 2 + fn / 2)}
        print(f"| {name} | {tp:.0f} | {fn:.0f} | {fp:.0f} | {ious / max(tp, 1):.3f} | {table[name]['pq']:.3f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
