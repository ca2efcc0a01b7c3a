"""How instances are told apart and matched: options that `compare` and `evaluate` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer


@dataclass(frozen=True)
class Instances:
    """How instances, such as lesions, are matched."""

    instances: Annotated[
        Literal["overlap", "iou", "hungarian"] | None,
        typer.Option(help="Match instances, such as lesions, one by one, by this rule."),
    ] = None
    min_iou: Annotated[float, typer.Option(help="Least IoU of matched instances.", min=0, max=0.999)] = 0.5
    connectivity: Annotated[
        Literal["6", "18", "26"], typer.Option(help="Voxels of one instance share a face, an edge, or a corner.")
    ] = "26"
    apart: Annotated[
        Literal["components", "watershed", "maps"] | None,
        typer.Option(
            help="An instance is what hangs together; also cut where it is narrow; or a value of an instance map (for "
            "evaluate: as model and data set say, its default)."
        ),
    ] = None
    centre_mm: Annotated[
        float | None,
        typer.Option(
            help="A hit's centroids are at most this far apart (mm); the reference's radius if not given.", min=1e-6
        ),
    ] = None
    things: Annotated[
        list[str] | None, typer.Option("--thing", help="A structure that is counted by its parts; repeat for more.")
    ] = None

    def settings(self, apart: Literal["components", "maps"]) -> dict[str, Any]:
        """Return the fields of `CohortSettings`; `apart` is what holds where nothing was said."""
        chosen = self.apart or apart
        # Who says what an instance is wants them matched.
        matched = self.instances or ("iou" if self.apart not in (None, "components") else None)
        return {
            "instances": matched,
            "apart": chosen,
            "centre_mm": self.centre_mm,
            "min_iou": self.min_iou,
            "connectivity": int(self.connectivity),
            "things": self.things or (),
        }
