"""The folds of a cross-validation as one model: what stands behind `voxmetry ensemble`."""

from __future__ import annotations

from pathlib import Path

from voxmetry.errors import ConfigError
from voxmetry.train.dataset import open_data
from voxmetry.train.ensemble import PostProcessingChoice, choose_clean, write_clean, write_ensemble


def ensemble_run(
    run: Path, out: Path, *, data: Path | None = None, clean_into: Path | None = None, device: str = "auto"
) -> tuple[Path, list[PostProcessingChoice]]:
    """Write the folds of a run as one model, with the best post-processing where a data set is given.

    Parameters
    ----------
    run
        A run folder with `fold-0/model` and so on.
    out
        The model folder to make.
    data
        The data set, to choose the post-processing on the cases that each fold held out; None keeps that of the folds.
    clean_into
        Another model folder whose post-processing is set to the chosen one too.
    device
        Where the networks run.

    Returns
    -------
    Path, list of PostProcessingChoice
        The model folder, and what was tried, the one that was taken first; empty without a data set.

    Raises
    ------
    ConfigError
        If there are fewer than two folds or they differ, or `clean_into` is given without a data set.
    """
    if clean_into is not None and data is None:
        raise ConfigError(
            found="--clean-into without --data",
            expected="the data set on whose held-out cases the post-processing is chosen",
            fix="add --data DATASET",
        )
    choices = choose_clean(run, open_data(data), device=device) if data is not None else []
    folder = write_ensemble(run, out, steps=choices[0].steps if choices else None)
    if clean_into is not None:
        write_clean(clean_into, choices[0].steps)
    return folder, choices
