"""nnU-Net's own trainer on a folder of cases, step by step, as `bench_training.py --nnunet-python` runs it.

    PYTHON benchmarks/nnunet_trainer.py DATA WORK SPEC

PYTHON has nnunetv2. DATA holds images/ and labels/ whose values run from 1, WORK is a folder for nnU-Net's files, SPEC
is JSON: patch and spacing along I, J, K, batch, channels, strides, kernels, modality, threads, workers. nnU-Net
measures, plans and prepares by its own functions; of its plan the patch, the batch, the spacing and the stages are then
those of SPEC. Each line that is read, a number of steps and "clock" or "processor", is answered by the steps a second
of its `train_step` with its own loader; "end" ends it. Everything else goes to standard error.
"""

import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

NAME = "Dataset001_bench"


def main() -> None:
    data, work, spec = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nnU-Net prints much
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
    paths = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    os.environ.update(paths | {"nnUNet_n_proc_DA": str(spec["workers"]), "nnUNet_compile": "f"})
    import torch

    torch.set_num_threads(spec["threads"])
    write_raw(data, work / "raw" / NAME, spec["modality"])
    trainer = open_trainer(work, spec)
    trainer.network.train()
    batches = trainer.dataloader_train
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        if line.strip() == "end":
            break
        steps, by = line.split()
        clock = time.perf_counter if by == "clock" else time.process_time
        trainer.train_step(next(batches))
        began = clock()
        for _ in range(int(steps)):
            trainer.train_step(next(batches))
        answers.write(f"{int(steps) / (clock() - began)}\n")
        answers.flush()
    # Its workers would be waited for, and would stay behind without.
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)


def write_raw(data: Path, folder: Path, modality: str) -> None:
    """Copy the cases as nnU-Net names them."""
    import SimpleITK

    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    images, highest = sorted((data / "images").glob("*.nii.gz")), 0
    for image in images:
        stem = image.name.removesuffix(".nii.gz")
        shutil.copy(image, folder / "imagesTr" / f"{stem}_0000.nii.gz")
        shutil.copy(data / "labels" / image.name, folder / "labelsTr" / image.name)
        label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(data / "labels" / image.name)))
        highest = max(highest, int(label.max()))
    content = {
        "channel_names": {"0": modality},
        "labels": {"background": 0} | {f"s{n}": n for n in range(1, highest + 1)},
        "numTraining": len(images),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def open_trainer(work: Path, spec: dict):
    """Prepare the cases and return a trainer that has its loaders."""
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess_dataset,
    )
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    plan_experiments([1])
    path = work / "preprocessed" / NAME / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    # Its arrays lie with the axes K, J, I.
    turned = {name: [row[::-1] for row in spec[name]] for name in ("strides", "kernels")}
    full = plans["configurations"]["3d_fullres"]
    full |= {"patch_size": spec["patch"][::-1], "batch_size": spec["batch"], "spacing": spec["spacing"][::-1]}
    n = len(spec["channels"])
    full["architecture"]["arch_kwargs"] |= {
        "n_stages": n,
        "features_per_stage": spec["channels"],
        "strides": turned["strides"],
        "kernel_sizes": turned["kernels"],
        "n_conv_per_stage": [2] * n,
        "n_conv_per_stage_decoder": [2] * (n - 1),
    }
    plans["transpose_forward"] = plans["transpose_backward"] = [0, 1, 2]
    path.write_text(json.dumps(plans))
    preprocess_dataset(1, configurations=("3d_fullres",), num_processes=(1,), show_progress_bar=False)
    labels = json.loads((work / "raw" / NAME / "dataset.json").read_text())
    plans["continue_training"] = False  # as `nnUNetv2_train` says it to its trainer since 2.8
    trainer = nnUNetTrainer(plans, "3d_fullres", "all", labels, device=torch.device("cpu"))
    trainer.on_train_start()
    return trainer


if __name__ == "__main__":
    main()
