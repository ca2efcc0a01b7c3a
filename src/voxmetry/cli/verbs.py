"""The list of verbs in `voxmetry --help`: in groups, and in the order in which one comes to need them."""

from __future__ import annotations

from typing import Any

from voxmetry.cli.strict import StrictGroup

GROUPS = {
    "Segment and measure": ("segment", "measure", "compare", "follow-up", "refine", "report", "demo"),
    "Look at data": ("inspect", "convert", "data"),
    "Many studies": ("cohort", "annotate", "serve"),
    "Models": ("models", "train", "train-plan", "evaluate", "calibrate", "ensemble"),
}
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Verbs(StrictGroup):
    """A group of verbs that lists them by `GROUPS`; one that is in none of them comes last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs in their order."""
        known = [name for names in GROUPS.values() for name in names if name in self.commands]
        return known + [name for name in super().list_commands(ctx) if name not in known]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, each verb with the first sentence of its help."""
        names = self.list_commands(ctx)
        grouped = {name for group in GROUPS.values() for name in group}
        sections = {**GROUPS, "Further": tuple(name for name in names if name not in grouped)}
        for title, members in sections.items():
            there = [name for name in members if name in names]
            if there:
                with formatter.section(title):
                    formatter.write_dl(self.rows_of(ctx, there))
