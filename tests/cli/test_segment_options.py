"""The options of `segment` in their groups."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from voxmetry.cli import segment as verb
from voxmetry.cli.options import given, grouped
from voxmetry.config import DicomOutput, StudySettings
from voxmetry.core.records import StudyResult
from voxmetry.errors import ConfigError


def test_each_study_setting_is_an_option_and_each_option_of_a_group_a_setting() -> None:
    options = {field.name for group in (verb.Reading, verb.Running, verb.Writing) for field in fields(group)}
    # Options of their own: `names` is `--map`, whose values are pairs; clicks are places; the others choose parts.
    alone = {"dicom", "names", "structures", "fast", "any_region", "clicks"}
    assert options | alone == set(StudySettings.model_fields)
    assert {field.name for field in fields(verb.Objects)} == set(DicomOutput.model_fields)


def run_segment(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> StudySettings:
    """Return the settings that the verb hands on."""
    taken: list[StudySettings] = []

    def note(*_: object, settings: StudySettings, **__: object) -> StudyResult:
        taken.append(settings)
        raise SystemExit(0)

    monkeypatch.setattr("voxmetry.workflows.segment.segment_study", note)
    app = typer.Typer()
    app.command()(verb.segment)
    done = CliRunner().invoke(app, ["study", "-m", "model", "-o", "out", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return taken[0]


def test_names_are_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_segment(monkeypatch, "--map", "GTV_Mass_CT=tumour", "--map", "3 = lung")
    assert found.names == {"GTV_Mass_CT": "tumour", "3": "lung"}


def test_options_that_are_left_out_leave_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_segment(monkeypatch) == StudySettings()


def test_options_win_over_the_settings_file_and_leave_its_other_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("device: cpu\ntolerance_mm: 3\nallow_uneven: true\ndicom: {rtstruct: true, seg_kind: labelmap}\n")
    found = run_segment(
        monkeypatch, "--settings", str(file), "--tolerance-mm", "2", "--dicom-seg", "--seg-kind", "binary"
    )
    wanted = StudySettings(
        device="cpu", tolerance_mm=2, allow_uneven=True, dicom=DicomOutput(seg=True, rtstruct=True, seg_kind="binary")
    )
    assert found == wanted


def test_a_setting_is_given_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_segment(
        monkeypatch, "--set", "memory_gb=8", "--set", "maps=[entropy]", "--set", "dicom.seg_kind=labelmap"
    )
    assert found == StudySettings(memory_gb=8, maps=("entropy",), dicom=DicomOutput(seg_kind="labelmap"))


@pytest.mark.parametrize("pair", ["memory_gb", "memory=8", "memory_gb=much", "dicom.kind=binary", "x.y=1", "maps=[a"])
def test_a_setting_that_is_none_is_refused(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--set"):
        run_segment(monkeypatch, "--set", pair)


@dataclass(frozen=True)
class Sizes:
    wide: Annotated[int | None, typer.Option(help="Width.")] = None
    flat: Annotated[bool, typer.Option("--flat", help="Whether flat.")] = False


def test_a_group_becomes_options_and_comes_back_as_one_value() -> None:
    taken: list[tuple[str, Sizes]] = []

    @grouped
    def verb(name: Annotated[str, typer.Argument()], sizes: Sizes) -> None:
        taken.append((name, sizes))

    app = typer.Typer()
    app.command()(verb)
    assert CliRunner().invoke(app, ["box", "--wide", "3"]).exit_code == 0
    assert CliRunner().invoke(app, ["box", "--flat"]).exit_code == 0
    assert taken == [("box", Sizes(wide=3)), ("box", Sizes(flat=True))]
    assert [given(sizes) for _, sizes in taken] == [{"wide": 3}, {"flat": True}]
