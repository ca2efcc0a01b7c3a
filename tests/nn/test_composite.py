"""Models of models: TotalSegmentator's ways equal its own published steps; merge, vote, crop, structures, fast."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import zoom

import models
import phantoms
import totalsegmentator_cases
import totalsegmentator_folders
from voxmetry import Geometry, LabelTable, Segmentation, Volume, io
from voxmetry.config import Range, TrainingDomain, dump_yaml
from voxmetry.core.memory import is_mapped
from voxmetry.errors import ConfigError, InferenceError, InputError, ModelError
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.models import find_model, read_any_spec, read_spec
from voxmetry.models.composite import CommonGrid as GridSpec
from voxmetry.models.composite import CompositeInput, CompositeSpec, Crop, Member
from voxmetry.nn import Composite, Predictor, common_grid, label_merging
from voxmetry.nn import memory as nn_memory
from voxmetry.nn.common_grid import CommonGrid, box_of, inside
from voxmetry.nn.composite import How
from voxmetry.nn.memory import Hold
from voxmetry.workflows.pull_model import PullOptions, pull_model
from voxmetry.workflows.segment import segment_study

REFERENCE = Path(__file__).parent / "totalsegmentator-float32.npz"
"""nnU-Net's half-precision sums alone move 0.03 to 0.5 % of the voxels of such networks; see the oracle's --float32."""
EQUAL = 0.999
CPU = How(device="cpu", precision="float32")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """All cases pulled from folders into one folder of models, and their images."""
    root = tmp_path_factory.mktemp("store")
    patch = pytest.MonkeyPatch()
    patch.setenv("VOXMETRY_MODELS", str(root / "models"))
    for name in totalsegmentator_cases.CASES:
        totalsegmentator_cases.write(root / name, name)
    for name in totalsegmentator_cases.CASES:
        pull_model(name, PullOptions(source=root / name))
    yield root
    patch.undo()


def volume_of(root, name):
    return io.read_volume(root / name / "image.nii.gz", modality=totalsegmentator_cases.CASES[name]["modality"])


class TestTotalSegmentator:
    @pytest.mark.parametrize("name", list(totalsegmentator_cases.CASES))
    def test_a_task_equals_its_own_steps(self, installed, name):
        expected = np.load(REFERENCE)[name]
        found = Composite(name, CPU)(volume_of(installed, name)).array
        assert found.shape == expected.shape
        assert len(np.unique(expected)) > 4
        assert (found == expected).mean() >= EQUAL
        # Not carried by a background that everybody finds.
        foreground = (expected > 0) | (found > 0)
        assert (found == expected)[foreground].mean() >= EQUAL

    def test_names_codes_and_colours_are_those_of_the_whole_map(self, installed):
        labels = read_any_spec("totalsegmentator-ct").labels
        assert len(labels) == 117
        assert all(label.code is not None for label in labels)
        assert labels["kidney_left"].laterality == "left"
        assert labels["liver"].colour == "#288C28"

    def test_a_crop_whose_structures_are_not_there_is_background_and_said(self, installed, monkeypatch):
        composite = Composite("liver-segments-ct", CPU)
        volume = volume_of(installed, "liver-segments-ct")
        monkeypatch.setattr("voxmetry.nn.composite.box_of", lambda *_: None)
        found = composite(volume)
        assert not found.array.any()
        assert "found no liver" in composite.notes[0]


class TestCommonGrid:
    @pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 3.0, 3.0), (0.7, 0.7, 1.0)])
    def test_it_is_scipys_zoom_of_the_turned_image_cut_to_whole_numbers(self, spacing):
        image = totalsegmentator_folders.image((31, 27, 19), (1.1, 1.3, 2.1))
        volume = Volume(np.asarray(image.dataobj), Geometry(image.affine, image.shape))
        grid = CommonGrid(volume.geometry, spacing)
        turned = nibabel.as_closest_canonical(image)
        factors = np.array(turned.header.get_zooms()) / np.array(spacing)
        expected = zoom(np.asarray(turned.dataobj, dtype=np.float64), factors, order=3)
        found = grid.resample(volume)
        assert found.array.shape == expected.shape
        assert np.abs(found.array - expected).max() < 1.01
        assert (found.array == expected.astype(np.int32)).mean() > 0.99
        assert np.allclose(found.geometry.spacing_mm, spacing, atol=1e-5)
        labels = (found.array > 0).astype(np.uint8)
        back = zoom(labels, np.array(turned.shape) / np.array(labels.shape), order=0)
        assert np.array_equal(grid.moved.forward(grid.back(labels)), back)

    def test_a_study_of_this_voxel_size_stays_as_it_is(self):
        volume = phantoms.volume(Geometry(np.diag([-1.5, 1.5, 1.5, 1]), (7, 8, 9)))
        grid = CommonGrid(volume.geometry, (1.5, 1.5, 1.5))
        moved = grid.resample(volume).array
        assert np.array_equal(moved, volume.array[::-1])
        assert np.array_equal(grid.back(moved), volume.array)

    def test_values_that_would_all_become_0_are_refused(self):
        volume = Volume(np.random.default_rng(0).random((8, 8, 8)), Geometry(np.eye(4), (8, 8, 8)))
        with pytest.raises(InputError, match="whole numbers"):
            CommonGrid(volume.geometry, (1.5, 1.5, 1.5)).resample(volume)

    def test_a_box_has_a_margin_in_whole_voxels_and_keeps_its_place(self):
        volume = phantoms.volume(phantoms.geometry())
        mask = np.zeros(volume.array.shape, bool)
        mask[4, 5, 6] = True
        spacing = volume.geometry.spacing_mm
        box = box_of(mask, 1.9 * spacing[0], volume.geometry)
        assert box[0] == slice(3, 6)
        part = inside(volume, box)
        assert np.allclose(part.geometry.to_mm([0, 0, 0]), volume.geometry.to_mm([x.start for x in box]))
        assert np.array_equal(part.array, volume.array[box])
        assert box_of(np.zeros_like(mask), 1.0, volume.geometry) is None


@pytest.fixture
def parts(tmp_path):
    """Two tiny models, and a study."""
    for seed, name in enumerate(("a", "b")):
        models.write(tmp_path / "whole" / name, seed=seed)
    return tmp_path / "whole"


def composite(folder, **change):
    labels = LabelTable.from_names({1: "front a", 2: "back a", 3: "front b", 4: "back b"})
    content = {
        "kind": "composite",
        "name": "both",
        "version": "1",
        "summary": "Two",
        "licence": "MIT",
        "body_part": "phantom",
        "inputs": (CompositeInput(name="t1", modality="MR"),),
        "labels": labels,
        "members": (Member(model="a", values={2: 1, 7: 2}), Member(model="b", values={2: 3, 7: 4})),
    }
    spec = CompositeSpec(**(content | change))
    (folder / "model.yaml").write_text(dump_yaml(spec))
    return folder


@pytest.fixture
def study():
    return phantoms.volume(phantoms.geometry(shape=(30, 28, 14)))


def alone(folder, study):
    return Predictor(folder, device="cpu", precision="float32")(study).array


def test_a_later_member_paints_over_an_earlier_one_unless_said_otherwise(parts, study):
    a, b = (alone(parts / name, study) for name in "ab")
    lut = np.zeros(8, np.uint8)
    lut[[2, 7]] = (1, 2)
    later = np.where(b > 0, lut[b] + 2 * (b > 0), lut[a])
    earlier = np.where(a > 0, lut[a], lut[b] + 2 * (b > 0))
    assert ((a > 0) & (b > 0)).any()
    assert np.array_equal(Composite(composite(parts), CPU)(study).array, later)
    assert np.array_equal(Composite(composite(parts, precedence="earlier"), CPU)(study).array, earlier)


def test_only_the_members_that_give_a_wanted_structure_run(parts, study, monkeypatch):
    whole = Composite(composite(parts), CPU)(study)
    loaded = []
    plain = Predictor.__init__

    def noted(self, model, **how):
        loaded.append(Path(model).name)
        plain(self, model, **how)

    monkeypatch.setattr(Predictor, "__init__", noted)
    part = Composite(composite(parts, precedence="later"), CPU, structures=["back b"])(study)
    assert loaded == ["b"]
    assert part.labels.names == ("back b",)
    assert np.array_equal(part.array == 4, whole.array == 4)
    with pytest.raises(ConfigError, match="no structure back c"):
        Composite(composite(parts), CPU, structures=["back c"])


def test_members_vote(parts, study):
    models.write(parts / "c", seed=2)
    labels = LabelTable.from_names({1: "front", 2: "back"})
    members = tuple(Member(model=name, values={2: 1, 7: 2}) for name in "abc")
    found = Composite(composite(parts, how="vote", labels=labels, members=members), CPU)(study).array
    lut = np.zeros(8, np.uint8)
    lut[[2, 7]] = (1, 2)
    maps = [lut[alone(parts / name, study)] for name in "abc"]
    counts = np.stack([sum(one == value for one in maps) for value in range(3)])
    sure = counts.max(0) >= 2
    assert 0.2 < sure.mean() < 1
    assert np.array_equal(found[sure], counts.argmax(0)[sure])
    # Where all three differ, the later one has it.
    assert np.array_equal(found[~sure], maps[2][~sure])


@pytest.mark.parametrize("change", [
    {"precedence": "later"},
    {"precedence": "earlier"},
    {"precedence": "later", "grid": GridSpec(spacing_mm=(2.0, 2.0, 2.5))},
    {"how": "vote"},
    {"how": "vote", "precedence": "earlier"},
    {"crop": Crop(model="c", structures=("front",), margin_mm=0.0)},
])  # fmt: skip
def test_a_label_map_that_lies_in_a_file_has_the_same_labels(parts, study, monkeypatch, change):
    models.write(parts / "c", seed=2)
    if change.get("how") == "vote":
        members = tuple(Member(model=name, values={2: 1, 7: 2}) for name in "abc")
        change = {"labels": LabelTable.from_names({1: "front", 2: "back"}), "members": members} | change
    folder = composite(parts, **change)
    held = Composite(folder, CPU)(study)
    assert not is_mapped(held.array)
    assert len(np.unique(held.array)) > 2
    monkeypatch.setattr(nn_memory, "HELD", Hold(streamed=True, on_disk=True))
    mapped = Composite(folder, CPU)(study)
    assert is_mapped(mapped.array)
    assert np.array_equal(mapped.array, held.array)


def test_maps_that_vote_lie_in_files_where_memory_is_short(parts, study, monkeypatch):
    models.write(parts / "c", seed=2)
    members = tuple(Member(model=name, values={2: 1, 7: 2}) for name in "abc")
    labels = LabelTable.from_names({1: "front", 2: "back"})
    folder = composite(parts, how="vote", labels=labels, members=members)
    held = Composite(folder, CPU)(study)
    aside = []
    monkeypatch.setattr(label_merging, "fits_memory", lambda needed: needed == 0)
    monkeypatch.setattr(label_merging, "zeros_on_disk", lambda *of: aside.append(of) or zeros_on_disk(*of))
    assert np.array_equal(Composite(folder, CPU)(study).array, held.array)
    assert len(aside) == 2


def test_a_common_grid_that_has_no_room_is_refused(study, monkeypatch):
    monkeypatch.setattr(common_grid, "free_bytes", lambda: 1000)
    with pytest.raises(InferenceError, match="held whole"):
        CommonGrid(study.geometry, (1.5, 1.5, 1.5)).resample(study)


def test_a_member_is_loaded_once_for_all_studies(parts, study, monkeypatch):
    made = Composite(composite(parts), CPU)
    first = made(study).array
    monkeypatch.setattr(Predictor, "__init__", lambda *_, **__: pytest.fail("loaded again"))
    assert np.array_equal(made(study).array, first)


def test_fast_runs_inside_the_box_that_the_coarse_model_finds(parts, study, tmp_path):
    folder = composite(parts, coarse="a", labels=LabelTable.from_names({2: "front", 7: "back"}),
                       members=(Member(model="b", values={2: 2, 7: 7}),))  # fmt: skip
    seen = []
    made = Composite(folder, CPU, fast=True, structures=["back"])
    made._load("b")
    run = made._loaded["b"]
    made._loaded["b"] = lambda volumes: seen.append(volumes[0].array.shape) or run(volumes)
    found = made(study)
    mask = alone(parts / "a", study) == 7
    box = box_of(mask, 20.0, study.geometry)
    assert seen == [tuple(part.stop - part.start for part in box)]
    outside = np.ones(mask.shape, bool)
    outside[box] = False
    assert not found.array[outside].any()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"members": (Member(model="a", values={3: 1}), Member(model="b", values={2: 2, 7: 3})),
          "labels": LabelTable.from_names({1: "x", 2: "y", 3: "z"})}, ConfigError, "takes the values"),
        ({"members": (Member(model="gone", values={2: 1, 7: 2}), Member(model="b", values={2: 3, 7: 4}))},
         ModelError, "no model 'gone'"),
        ({"inputs": (CompositeInput(name="ct", modality="CT"),)}, ConfigError, "which takes MR"),
    ],
)  # fmt: skip
def test_a_composite_that_cannot_run_says_why_before_it_does(parts, change, error, says):
    with pytest.raises(error, match=says):
        Composite(composite(parts, **change), CPU)


def test_a_model_that_leads_back_to_itself_is_refused(parts, study):
    folder = composite(parts, crop=Crop(model="loop", structures=("front a",)))
    (parts / "loop").symlink_to(parts)
    with pytest.raises((ConfigError, OSError)):
        Composite(folder, CPU)(study)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"members": (Member(model="a", values={2: 9}),)}, "which the label table lacks"),
        ({"members": (Member(model="a", values={2: 1}),)}, "no member gives back a"),
        (
            {"members": (Member(model="../a", values={2: 1, 7: 2, 3: 3, 4: 4}),)},
            "nor a name",
        ),
        ({"how": "vote"}, "give the same values"),
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(parts, change, says):
    with pytest.raises(ValueError, match=says):
        composite(parts, **change)


def test_a_composite_is_no_single_network(parts):
    folder = composite(parts)
    assert find_model(folder) == folder
    with pytest.raises(ModelError, match="made of 2 models"):
        read_spec(folder)


def test_a_cohort_plans_with_a_composite_and_loads_it_once(parts):
    from voxmetry.config import StudySettings
    from voxmetry.workflows.cohort.model_index import load_known_model
    from voxmetry.workflows.cohort.task import load_once

    def how(structures=()):
        settings = StudySettings(device="cpu", precision="float32", structures=structures)
        return settings.model_dump_json(include=set(StudySettings.OF_LOADING))

    known = load_known_model(str(composite(parts)))
    assert known.spec.name == "both"
    first, gate = load_once(known.path, known.sha256, how(["back b"]))
    assert isinstance(first, Composite)
    assert load_once(known.path, known.sha256, how(["back b"])) == (first, gate)
    whole, _ = load_once(known.path, known.sha256, how())
    assert whole is not first, "another choice of structures is another set of members"
    # A member that was replaced is noticed.
    models.write(parts / "b", seed=5)
    assert load_known_model(str(parts)).sha256 != known.sha256


def test_a_study_is_flagged_for_what_a_member_takes_for_granted_or_has_seen(parts, study, tmp_path):
    composite(parts)
    spec = read_spec(parts / "b")
    wide = Range(low=40, high=50)
    odd = spec.model_copy(
        update={"orientation": "IJK", "training_domain": TrainingDomain(spacing_mm=(wide, wide, wide))}
    )
    (parts / "b" / "model.yaml").write_text(dump_yaml(odd))
    (parts / "b" / "split.json").write_text('{"training": ["case-7"]}')
    io.save(study, tmp_path / "case-7.nii.gz")
    labels = Segmentation(np.ones(study.array.shape, np.uint8), study.geometry, LabelTable.from_names({1: "front a"}))
    io.save(labels, tmp_path / "truth.nii.gz")
    result = segment_study(tmp_path / "case-7.nii.gz", tmp_path / "out", parts, reference=tmp_path / "truth.nii.gz")
    codes = [flag.code for flag in result.flags]
    assert codes.count("axes_assumed") == codes.count("spacing_out_of_domain") == 1
    assert codes.count("reference_in_training") == 1
