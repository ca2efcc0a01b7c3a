"""Seconds and peak memory of a whole segmentation, beside MONAI's way and nnU-Net's, each in a process of its own.

    python benchmarks/bench_inference.py --data DATA [--size 512 512 300] [--classes 25] [--rows voxmetry monai]
                                         [--nnunet FOLDER --imported MODEL --nnunet-python PYTHON]
                                         [--cache FILE] [--plot FILE]

The image is the abdominal CT of data/README.md (ct-multiorgan), interpolated to voxels of 0.71 x 0.59 x 1.12 mm and cut
or mirrored to the size asked for, so that the work grows with the size; the network a
DynUNet of 32 to 320 channels with a patch of 96 x 96 x 96, whose weights are random but for its last layer: that is
fitted to the label map that comes with the CT, so that what it finds has the shape of organs. Each row is read from
and written to NIfTI files. Results are kept in --cache by what they depend on, so that one row can be run again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATCH, SPACING_MM = 96, 1.5
FULL = (512, 512, 300)
ROWS = ("voxmetry", "voxmetry-float32", "monai")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOXMETRY_TEST_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300], action="append")
    parser.add_argument("--classes", type=int, nargs="+", default=[25])
    parser.add_argument("--rows", nargs="+", default=list(ROWS[:1] + ROWS[2:]))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--nnunet", type=Path, help="an nnU-Net v2 model folder, for nnU-Net's own predictor")
    parser.add_argument("--imported", type=Path, help="the same model after `voxmetry models import`")
    parser.add_argument("--nnunet-python", type=Path, help="a Python with nnunetv2")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "voxmetry-bench-inference.json")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "voxmetry-bench-inference")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("ROW", "MODEL", "IMAGE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_row(*options.one)))
        return
    sizes = options.size[3:] or [options.size[:3]]
    results = [row for size in sizes for n in options.classes for row in rows_of(options, size, n)]
    print(table(results))
    if options.plot:
        plot(results, options.plot)


def rows_of(options: argparse.Namespace, size: list[int], n_classes: int) -> list[dict[str, object]]:
    """Run each row for one size and number of classes, or take it from the cache."""
    options.work.mkdir(parents=True, exist_ok=True)
    image, model = options.work / f"ct-{'x'.join(map(str, size))}.nii.gz", options.work / f"model-{n_classes}"
    if not image.exists():
        make_image(options.data, image, size)
    if not model.exists():
        make_model(options.data, model, n_classes)
    known = json.loads(options.cache.read_text()) if options.cache.exists() else {}
    found, labels = [], {}
    for row in [*options.rows, *(["voxmetry-nnunet", "nnunet"] if options.nnunet else [])]:
        out = options.work / f"{row}-{n_classes}-{image.name}"
        key = f"{row} {size} {n_classes} {fingerprint()}"
        if key not in known or not out.exists():
            known[key] = start(options, row, model, image, out)
            options.cache.write_text(json.dumps(known, indent=1))
        labels[row] = out
        found.append({"row": row, "size": size, "classes": n_classes} | known[key])
    add_agreement(found, labels)
    return found


def fingerprint() -> str:
    """Name the code and the machine that a cached result belongs to."""
    source = sorted((Path(__file__).parents[1] / "src" / "voxmetry" / "nn").glob("*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in source)).hexdigest()[:12]
    return f"{code} {platform.node()} {os.cpu_count()}"


def start(options: argparse.Namespace, row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run one row in a process of its own, as often as asked, and keep the quickest."""
    python = str(options.nnunet_python) if row == "nnunet" else sys.executable
    if row.endswith("nnunet"):
        model = options.nnunet if row == "nnunet" else options.imported
    command = [python, __file__, "--one", row, str(model), str(image), str(out)]
    print(f"{row} on {image.name} ...", file=sys.stderr, flush=True)
    runs = []
    for _ in range(options.repeats):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(f"{row} failed:\n{ran.stderr[-2000:]}")
        runs.append(json.loads(ran.stdout.splitlines()[-1]))
        print(f"  {runs[-1]}", file=sys.stderr, flush=True)
    return min(runs, key=lambda run: run["seconds"])


def run_row(row: str, model: str, image: str, out: str) -> dict[str, object]:
    """Run in this process; return its seconds in all, those in the network, and its peak memory."""
    begin = time.perf_counter()
    run = {"monai": run_monai, "nnunet": run_nnunet}.get(row, run_voxmetry)
    stages = run(row, Path(model), Path(image), Path(out))
    return {"seconds": time.perf_counter() - begin, "peak_gb": peak_gb(), **stages}


def peak_gb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Timed:
    """A network that adds up its own seconds and counts its windows."""

    def __init__(self, network: object) -> None:
        self.network, self.seconds, self.windows = network, 0.0, 0

    def __call__(self, patches: object) -> object:
        """Run the network and note the time."""
        begin = time.perf_counter()
        scores = self.network(patches)
        self.seconds += time.perf_counter() - begin
        self.windows += len(patches)
        return scores


def run_voxmetry(row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    import dataclasses

    import voxmetry

    clock = [time.perf_counter()]
    precision = "float32" if row == "voxmetry-float32" else "auto"
    loaded = voxmetry.load_model(model, precision=precision)
    timed = Timed(loaded.members[0])
    predictor = voxmetry.Predictor(dataclasses.replace(loaded, members=(timed,)))
    clock.append(time.perf_counter())
    volume = voxmetry.read_volume(image, modality="CT")
    clock.append(time.perf_counter())
    prepared = predictor.prepare(volume)
    clock.append(time.perf_counter())
    segmentation = predictor.run(prepared)
    clock.append(time.perf_counter())
    voxmetry.save(segmentation, out)
    clock.append(time.perf_counter())
    load, read, prepare, run, write = (b - a for a, b in itertools.pairwise(clock))
    return {
        "network_s": timed.seconds,
        "windows": timed.windows,
        "load_s": load,
        "read_s": read,
        "prepare_s": prepare,
        "restore_s": run - timed.seconds,
        "write_s": write,
        "device": str(loaded.choice),
        "predicted_gb": prepared.plan.needed / 1e9,
    }


def run_monai(_row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run the plain way of MONAI's bundles: Spacing, SlidingWindowInferer, Invertd of the scores, argmax, save."""
    import numpy as np
    import torch
    from monai import transforms as t
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer

    from voxmetry.config import ModelSpec, load_yaml
    from voxmetry.nn.networks import build_network
    from voxmetry.nn.weights import load_into

    spec = load_yaml(model / "model.yaml", ModelSpec)
    network = build_network(spec)
    load_into(network, model / spec.weights.file, sha256=spec.weights.sha256)
    timed = Timed(network.eval())
    how = spec.inputs[0].normalise
    before = t.Compose(
        [
            t.LoadImaged("image", ensure_channel_first=True),
            t.Orientationd("image", axcodes=spec.orientation, labels=None),
            t.Spacingd("image", pixdim=spec.spacing_mm, mode="bilinear"),
            t.ScaleIntensityRanged(
                "image", how.low, how.high, (how.low - how.mean) / how.sd, (how.high - how.mean) / how.sd, clip=True
            ),
        ]
    )
    after = t.Compose(
        [
            t.Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", argmax=True),
        ]
    )
    data = before({"image": str(image)})
    inferer = SlidingWindowInferer(spec.window.patch, sw_batch_size=1, overlap=spec.window.overlap, mode="gaussian")
    with torch.no_grad():
        scores = inferer(data["image"][None].as_tensor(), timed)[0]
        data["pred"] = MetaTensor(scores, meta=data["image"].meta)
        del scores
        done = after(data)
    import nibabel

    affine = np.asarray(done["pred"].affine)
    nibabel.save(nibabel.Nifti1Image(done["pred"][0].numpy().astype(np.uint8), affine), out)
    return {"network_s": timed.seconds, "windows": timed.windows, "device": "torch cpu in float32"}


def run_nnunet(_row: str, model: Path, image: Path, out: Path) -> dict[str, object]:
    """Run nnU-Net's own predictor, mirroring off, from file to file in one process."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False
    )
    predictor.initialize_from_trained_model_folder(
        str(model), use_folds=("all",) if (model / "fold_all").exists() else (0,)
    )
    timed = Timed(predictor.network.forward)
    predictor.network.forward = timed
    predictor.predict_from_files_sequential([[str(image)]], [str(out)[: -len(".nii.gz")]])
    return {"network_s": timed.seconds, "windows": timed.windows, "device": "torch cpu in float32"}


def make_image(data: Path, path: Path, size: list[int]) -> None:
    """Interpolate the CT to 512 x 512 x 300 voxels, then cut or mirror it to a size: the voxels stay as large."""
    import nibabel
    import numpy as np
    import torch

    source = nibabel.load(data / "ct-multiorgan" / "example_ct.nii.gz")
    values = torch.from_numpy(np.asarray(source.dataobj, dtype=np.float32))
    finer = (
        torch.nn.functional.interpolate(values[None, None], size=FULL, mode="trilinear")[0, 0].round().short().numpy()
    )
    for axis, (have, want) in enumerate(zip(FULL, size, strict=True)):
        if want > have:
            finer = np.pad(finer, [(0, want - have) if axis == other else (0, 0) for other in range(3)], "symmetric")
        else:
            finer = finer.take(np.arange(want) + (have - want) // 2, axis)
    affine = np.array(source.affine)
    affine[:3, :3] = affine[:3, :3] * (np.array(values.shape) / np.array(FULL))
    nibabel.save(nibabel.Nifti1Image(finer, affine), path)


def make_model(data: Path, folder: Path, n_classes: int) -> None:
    """Write a model whose last layer is fitted by ridge regression to the label map that comes with the CT."""
    import nibabel
    import numpy as np
    import torch

    from voxmetry.config import ModelSpec, Weights, dump_yaml, parse_record
    from voxmetry.nn.networks import build_network
    from voxmetry.nn.weights import sha256_of, to_bytes

    torch.manual_seed(0)
    window = {"method": "window", "low": -1000.0, "high": 1000.0, "mean": 0.0, "sd": 400.0}
    content = {
        "name": f"bench-{n_classes}",
        "version": "0.0.0",
        "summary": "For the benchmark",
        "licence": "Apache-2.0",
        "body_part": "abdomen",
        "inputs": [{"name": "ct", "modality": "CT", "normalise": window}],
        "spacing_mm": [SPACING_MM] * 3,
        # The grid that MONAI's Spacing makes, so that both ways see the same voxels.
        "resampling": {"rule": "monai"},
        "window": {"patch": [PATCH] * 3, "overlap": 0.5},
        "network": {
            "channels": [32, 64, 128, 256, 320, 320],
            "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
            "kernels": [[3, 3, 3]] * 6,
        },
        "labels": {"labels": [{"value": n, "name": f"s{n}", "colour": "#E69F00"} for n in range(1, n_classes)]},
        "training_domain": {},
    }
    spec = parse_record(content, ModelSpec, where="benchmark")
    network = build_network(spec)
    labels = np.asarray(nibabel.load(data / "ct-multiorgan" / "example_seg.nii.gz").dataobj).astype(int)
    image = np.asarray(nibabel.load(data / "ct-multiorgan" / "example_ct_sm.nii.gz").dataobj, dtype=np.float32)
    kept = np.argsort(-np.bincount(labels[labels > 0]))[: n_classes - 1]
    classes = np.zeros(labels.max() + 1, int)
    classes[kept] = np.arange(1, len(kept) + 1)
    crop = (slice(13, 109), slice(2, 98), slice(0, 30))
    # At half its spacing: the network sees 1.5 mm voxels.
    patch = torch.from_numpy(image[crop])[None, None, 24:72, 24:72, :].repeat_interleave(2, 2)
    patch = patch.repeat_interleave(2, 3).repeat_interleave(2, 4)
    patch = torch.nn.functional.pad(patch.clip(-1000, 1000) / 400, (0, 36, 0, 0, 0, 0), mode="replicate")
    truth = torch.from_numpy(classes[labels[crop][24:72, 24:72]])
    truth = truth.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(-1)
    seen = []
    head = network.output_block.conv.conv
    hook = head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.inference_mode():
        network(patch)
        hook.remove()
        features = seen[0][0, :, :, :, :60].reshape(32, -1).T.double()
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        wanted = torch.nn.functional.one_hot(truth, n_classes).double()
        gram = features.T @ features + 1e-3 * len(features) * torch.eye(33)
        weights = torch.linalg.solve(gram, features.T @ wanted).float() * 10
        head.weight.copy_(weights[:32].T.reshape(head.weight.shape))
        head.bias.copy_(weights[32])
    data_bytes = to_bytes(network)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data_bytes)
    finished = spec.model_copy(update={"weights": Weights(sha256=sha256_of(data_bytes))})
    (folder / "model.yaml").write_text(dump_yaml(finished))


def add_agreement(rows: list[dict[str, object]], files: dict[str, Path]) -> None:
    """Hold each label map against the peer's, where that was run: the share of foreground voxels that are equal."""
    import nibabel
    import numpy as np

    for row in rows:
        peer = files.get("nnunet" if str(row["row"]).endswith("nnunet") else "monai")
        if peer is None:
            continue
        plain = np.asarray(nibabel.load(peer).dataobj)
        other = np.asarray(nibabel.load(files[str(row["row"])]).dataobj)
        foreground = (plain > 0) | (other > 0)
        row["same_foreground"] = float((plain == other)[foreground].mean()) if foreground.any() else float("nan")


def table(rows: list[dict[str, object]]) -> str:
    """Spell the rows as Markdown, ratios against the row 'voxmetry' of the same case."""
    import importlib.metadata

    packages = ("torch", "monai", "openvino", "numpy")
    lines = [
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
        + f"; {os.cpu_count()} cores, {platform.machine()}",
        "",
        "| size | classes | way | s | network s | rest | peak GB | predicted GB | time | memory | same foreground |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        own = next(
            (r for r in rows if r["row"] == "voxmetry" and (r["size"], r["classes"]) == (row["size"], row["classes"])),
            row,
        )
        rest = 1 - row["network_s"] / row["seconds"]
        predicted = f"{row['predicted_gb']:.2f}" if "predicted_gb" in row else ""
        same = f"{row['same_foreground']:.4%}" if "same_foreground" in row else ""
        lines.append(
            f"| {' x '.join(map(str, row['size']))} | {row['classes']} | {row['row']}: {row['device']} | "
            f"{row['seconds']:.1f} | {row['network_s']:.1f} | {rest:.0%} | {row['peak_gb']:.2f} | {predicted} | "
            f"{row['seconds'] / own['seconds']:.2f} | {row['peak_gb'] / own['peak_gb']:.2f} | {same} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Draw seconds and peak memory over the number of voxels, one line a way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, both = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, key, label in zip(both, ("seconds", "peak_gb"), ("seconds", "peak memory, GB"), strict=True):
        for name in dict.fromkeys(row["row"] for row in rows):
            points = sorted((np.prod(row["size"]) / 1e6, row[key]) for row in rows if row["row"] == name)
            axes.plot(*zip(*points, strict=True), "o-", label=name)
        axes.set(xlabel="million voxels", ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
