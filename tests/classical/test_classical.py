from pathlib import Path

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, Segmentation, Volume, save, segment_study
from voxmetry.classical import BaselineSpec, is_baseline, load_baseline
from voxmetry.classical.methods import find
from voxmetry.classical.spec import Edges, KMeans, Otsu, PercentOfMaximum, Threshold
from voxmetry.config import parse_record
from voxmetry.errors import ConfigError, InputError

MODELS = Path(__file__).parents[2] / "configs" / "models"
ALL = [
    Threshold(low=6.0),
    Otsu(method="otsu"),
    PercentOfMaximum(method="percent_of_maximum", percent=50),
    KMeans(method="kmeans", clusters=2),
    Edges(method="edges", sigma_mm=2.0, inside=97, outside=50),
]


def ball(*, bright: float = 10.0, ground: float = 2.0, noise: float = 0.3) -> tuple[Volume, np.ndarray]:
    """A ball of 12 mm radius, off centre, on a grid of three spacings; and its mask."""
    shape = (36, 30, 20)
    grid = phantoms.geometry(shape=shape, spacing_mm=(1.0, 1.2, 2.5))
    at = np.indices(shape) * np.array(grid.spacing_mm)[:, None, None, None]
    mask = ((at - np.array([17.0, 19.0, 23.0])[:, None, None, None]) ** 2).sum(0) <= 12.0**2
    values = np.where(mask, bright, ground) + np.random.default_rng(1).normal(0, noise, shape)
    return Volume(values.astype(np.float32), grid), mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.method)
def test_each_method_finds_a_bright_ball(how):
    volume, mask = ball()
    # The edges are of an image that was blurred by 2 mm, on slices of 2.5 mm: the border moves by up to a voxel.
    assert dice(find(volume, how), mask) > (0.93 if how.method == "edges" else 0.99)


@pytest.mark.parametrize(
    "how",
    [
        Threshold(high=6.0),
        Otsu(method="otsu", bright=False),
        KMeans(method="kmeans", clusters=2, bright=False),
        Edges(method="edges", sigma_mm=2.0, inside=97, outside=50, bright=False),
    ],
    ids=lambda how: how.method,
)
def test_and_a_dark_one_where_it_is_told_to(how):
    volume, mask = ball(bright=2.0, ground=10.0)
    assert dice(find(volume, how), mask) > (0.93 if how.method == "edges" else 0.99)


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.method)
def test_an_image_without_contrast_is_refused(how):
    grid = Geometry(np.diag([1.0, 2.0, 3.0, 1.0]), (4, 5, 6))
    with pytest.raises(InputError, match="single value 7"):
        find(Volume(np.full((4, 5, 6), 7, np.int16), grid), how)


def test_a_share_of_a_maximum_that_is_not_positive_is_refused():
    grid = Geometry(np.diag([1.0, 2.0, 3.0, 1.0]), (1, 1, 2))
    with pytest.raises(InputError, match="largest value is -1"):
        find(Volume(np.array([[[-3.0, -1.0]]]), grid), PercentOfMaximum(method="percent_of_maximum"))


def test_limits_are_included():
    grid = Geometry(np.diag([1.0, 2.0, 3.0, 1.0]), (1, 1, 4))
    volume = Volume(np.array([[[1, 2, 3, 4]]], np.int16), grid)
    assert find(volume, Threshold(low=2, high=3)).ravel().tolist() == [False, True, True, False]


def test_three_classes_of_otsu_take_the_brightest():
    volume, mask = ball()
    array = np.array(volume.array)
    array[:, :, :5] += 4.0
    assert dice(find(Volume(array, volume.geometry), Otsu(method="otsu", classes=3)), mask) > 0.95


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ({"method": "threshold"}, "low, high or both"),
        ({"method": "edges", "inside": 50.0, "outside": 60.0}, "must be below inside"),
        ({"method": "magic"}, "magic"),
        ({"method": "otsu", "percent": 3}, "percent"),
    ],
)
def test_a_specification_that_means_nothing_is_refused(segment, words):
    content = load_baseline(MODELS / "otsu.yaml").spec.model_dump(mode="json")
    with pytest.raises(ConfigError, match=words):
        parse_record(content | {"segment": segment}, BaselineSpec, where="test")


def test_one_channel_and_one_structure():
    baseline = load_baseline(MODELS / "otsu.yaml")
    volume, _ = ball()
    with pytest.raises(InputError, match="2 images"):
        baseline.segment([volume, volume])
    two = baseline.spec.model_dump(mode="json")
    two["labels"]["labels"].append({"value": 2, "name": "other", "colour": "#000000"})
    with pytest.raises(ConfigError, match="one structure"):
        parse_record(two, BaselineSpec, where="test")


def test_only_a_file_that_says_so_is_a_baseline(tmp_path):
    assert is_baseline(MODELS / "otsu.yaml")
    assert not is_baseline("hippocampus-mr")
    (tmp_path / "a.yaml").write_text("kind: [", encoding="utf-8")
    assert not is_baseline(tmp_path / "a.yaml")


class TestStudy:
    def test_segment_writes_the_files_of_any_model(self, tmp_path):
        volume, mask = ball()
        save(volume, tmp_path / "study.nii.gz")
        label = load_baseline(MODELS / "otsu.yaml").spec.labels
        save(Segmentation(mask.astype(np.uint8), volume.geometry, label), tmp_path / "truth.nii.gz")
        result = segment_study(
            tmp_path / "study.nii.gz",
            tmp_path / "out",
            MODELS / "otsu.yaml",
            reference=tmp_path / "truth.nii.gz",
        )
        assert result.comparisons[0].dice > 0.99
        assert result.provenance.model == "otsu"
        assert len(result.provenance.weights_sha256) == 64
        assert (tmp_path / "out" / "report.html").exists()

    @pytest.mark.real_data
    def test_41_percent_of_suvmax_on_a_real_tumour(self, real_data):
        """A threshold finds the active part of a tumour, not all of it."""
        from voxmetry import read_segmentation, read_volume

        study = real_data / "sarcoma" / "STS_005"
        volume = read_volume(study / "PET_image.nii.gz", modality="PT")
        truth = read_segmentation(study / "PET_mask.nii.gz").array > 0
        found = load_baseline(MODELS / "suv41.yaml").segment(volume).array > 0
        assert np.array_equal(
            found & (volume.array >= 0.41 * volume.array.max()), volume.array >= 0.41 * volume.array.max()
        )
        assert dice(found, truth) == pytest.approx(0.694, abs=0.001)
