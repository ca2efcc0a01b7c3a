"""Cohorts: thousands of studies, planned first, run without losing one, recorded and reported.

The package is not called cohort, because `voxmetry.cohort` is the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxmetry.core.base import require_settings
from voxmetry.workflows.cohort.records import CohortPlan, Outcome, RunSettings

if TYPE_CHECKING:
    from voxmetry.workflows.cohort.rules import Rules
    from voxmetry.workflows.cohort.run import Tally

__all__ = ["CohortPlan", "Outcome", "RunSettings", "cohort"]


def cohort(
    source: Path | str,
    out: Path | str | None = None,
    models: str | Path | Sequence[str | Path] = (),
    *,
    rules: Rules | None = None,
    references: Path | str | None = None,
    settings: RunSettings = RunSettings(),  # noqa: B008  (frozen)
    tell: Callable[[str], None] | None = None,
    tally: Tally | None = None,
) -> Iterator[Outcome]:
    """Segment and measure many studies, and yield what becomes of each as it comes.

    Nothing happens until the first outcome is asked for. Stop whenever you like, by leaving the loop, Ctrl-C or a
    kill: the same call goes on where this one stopped.

    Parameters
    ----------
    source
        A folder of DICOM and image files in any mixture, a CSV manifest, or a BIDS data set.
    out
        Folder of the results; None takes `derivatives/voxmetry` of a BIDS data set.
    models
        A bundled model's name, a model folder or a baseline's YAML file, or several; each takes every study of its
        modality. A model of several inputs takes the images that make one study together: DICOM series of one study,
        files of one folder whose names differ in the word for the input alone, a line of a manifest.
    rules
        Which model takes which study, in place of `models`.
    references
        Folder of label maps called as the cases are, to compare with.
    settings
        How it is run: processes, a Dask scheduler, failed studies alone; and in its `study` how each study is read and
        run, as for `segment_study`.
    tell
        Called with a sentence about anything unusual.
    tally
        Counted up as studies come back.

    Yields
    ------
    Outcome
        Of each study that this call ran: done with its measurements, failed with the reason, or set aside. What was
        done before is not run, nor yielded; the record in `out` has all.

    Raises
    ------
    VoxmetryError
        If the run cannot start or go on: no such model, the disk is full, another run holds `out`, the scheduler is
        gone. A study that fails raises nothing.
    """
    from voxmetry.workflows.cohort.bids import is_bids
    from voxmetry.workflows.cohort.plan import out_folder, plan_cohort
    from voxmetry.workflows.cohort.run import run_plan

    require_settings(settings, RunSettings)
    root = Path(source)
    named = [models] if isinstance(models, str | Path) else list(models)
    bids = root.is_dir() and is_bids(root)
    place = out_folder(root, out, bids=bids)

    def make_plan() -> CohortPlan:
        return plan_cohort(
            root,
            place,
            [str(model) for model in named],
            rules=rules,
            references=Path(references) if references else None,
            settings=settings,
            tell=None,
        )

    yield from run_plan(make_plan, place, settings, tell=tell, tally=tally, source=root if bids else None)
