"""Average precision, FROC, counts and their intervals: worked out by hand, and held to MONAI and panoptica."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import phantoms
from measurement.panoptica_cases import RULES, SEEDS, case
from voxmetry import Geometry, LabelTable, Segmentation, save
from voxmetry.config import parse_record
from voxmetry.core.records import CohortSettings, Detection
from voxmetry.errors import ConfigError, LabelError
from voxmetry.io.instances import of_rows
from voxmetry.measurement.compare_cases import compare_pair
from voxmetry.measurement.detection import FROC_RATES, Pool, average_precision, average_precisions, froc
from voxmetry.measurement.instances import match_instances
from voxmetry.measurement.statistics import bootstrap_mean, bootstrap_statistic
from voxmetry.measurement.summarise_cases import summarise_cohort
from voxmetry.ops.instances import require_instances, tell_apart

GRID = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), (60, 4, 5))
SETTINGS = CohortSettings(instances="iou", resamples=300)


def bars(*parts: tuple[int, int, float], grid: Geometry = GRID):
    """Bars from start to stop along the first axis, 2 x 2 voxels thick, each with a score."""
    array = np.zeros(grid.shape, np.uint16)
    rows = []
    for value, (start, stop, score) in enumerate(parts, start=1):
        array[start:stop, 1:3, 1:3] = value
        rows.append(Detection(value=value, label="node", score=score, box_ras_mm=((0, 0, 0), (0, 0, 0))))
    return of_rows(array, grid, rows)


def pool(scores, hits, n_reference, *, n_cases=1):
    order = np.argsort(-np.array(scores), kind="stable")
    return Pool(
        np.array(scores, float)[order],
        np.array(hits, bool)[order],
        np.zeros(len(scores), int),
        np.array([float(n_reference)]),
        np.array([float(n_cases)]),
    )


class TestAveragePrecision:
    def test_by_hand(self):
        # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: 51 recalls of 101 up to 0.5 have 1, the other 50 have 2/3.
        assert average_precision(pool([0.9, 0.8, 0.7], [1, 0, 1], 2)) == pytest.approx((51 + 50 * 2 / 3) / 101)

    def test_the_missed_cost_recall(self):
        # One of four found, and nothing else: precision 1 for the recalls 0 to 0.25.
        assert average_precision(pool([0.9], [1], 4)) == pytest.approx(26 / 101)

    def test_all_found_is_one_and_nothing_found_is_zero(self):
        assert average_precision(pool([0.2, 0.1], [1, 1], 2)) == 1.0
        assert average_precision(pool([], [], 2)) == 0.0
        assert average_precision(pool([0.5], [0], 2)) == 0.0

    def test_without_a_reference_it_is_not_defined(self):
        assert math.isnan(average_precision(pool([0.5], [0], 0)))

    def test_predictions_of_one_score_come_in_together_whatever_their_order(self):
        for hits in ([1, 1, 0], [0, 1, 1], [1, 0, 1]):
            assert average_precision(pool([0.5] * 3, hits, 2)) == pytest.approx(2 / 3)

    def test_predictions_without_a_score_come_in_together_after_the_others(self):
        # No warning either: -inf - -inf is none.
        without = pool([0.9, -math.inf, -math.inf], [1, 0, 1], 2)
        assert average_precision(without) == pytest.approx((51 + 50 * 2 / 3) / 101)
        assert froc(without)[3] == 1.0

    def test_a_patient_that_is_drawn_twice_counts_twice(self):
        two = Pool(
            np.array([0.9, 0.8, 0.7]),
            np.array([True, False, True]),
            np.array([0, 1, 0]),
            np.array([2.0, 1.0]),
            np.array([1.0, 1.0]),
        )
        draws = average_precisions(two, np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        assert draws.tolist() == [1.0, 0.0, average_precision(two)]


class TestFroc:
    def test_by_hand(self):
        # Two cases, four instances. Thresholds: 0.9 hit; 0.8 false; 0.7 hit; 0.6 false; 0.5 hit.
        found = froc(pool([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 0, 1], 4, n_cases=2))
        # At no false positive 1/4; at 0.5 a case 2/4; at 1 a case 3/4; level from there on.
        assert dict(zip(FROC_RATES, found.tolist(), strict=True)) == {
            0.125: pytest.approx(0.25 + 0.25 * 0.25),
            0.25: pytest.approx(0.375),
            0.5: 0.5,
            1.0: 0.75,
            2.0: 0.75,
            4.0: 0.75,
            8.0: 0.75,
        }

    def test_nothing_predicted_finds_nothing(self):
        assert froc(pool([], [], 3)).tolist() == [0.0] * 7
        assert np.isnan(froc(pool([0.4], [0], 0))).all()

    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_that_of_monai(self, seed):
        from monai.metrics import compute_froc_curve_data, compute_froc_score

        rng = np.random.default_rng(seed)
        hit, score = rng.random(40) < 0.5, rng.permutation(40) / 40
        n_reference, n_cases = int(hit.sum()) + 5, 4
        fps, sensitivity = compute_froc_curve_data(score[~hit], score[hit], n_reference, n_cases)
        theirs = compute_froc_score(fps, sensitivity, FROC_RATES)
        ours = froc(pool(score, hit, n_reference, n_cases=n_cases)).mean()
        assert ours == pytest.approx(theirs, abs=0.02)


class TestHits:
    REFERENCE = bars((0, 10, 0), (20, 24, 0), (30, 40, 0))
    PREDICTION = bars((1, 10, 0.9), (23, 27, 0.8), (30, 36, 0.7), (36, 40, 0.95), (50, 53, 0.2))

    def hits(self, **more):
        settings = SETTINGS.model_copy(update=more)
        (row,) = compare_pair("a", prediction=self.PREDICTION, reference=self.REFERENCE, settings=settings).matchings
        return {x.rule: dict(zip(x.scores, x.hits, strict=True)) for x in row.detections}

    def test_by_hand(self):
        # IoU 9/10, 1/7, 6/10, 4/10, 0.
        assert self.hits(hit_iou=(0.1, 0.5, 0.75)) == {
            # At 0.1 the surest prediction, of IoU 0.4, takes the third bar; the better one comes too late.
            "IoU 0.1": {0.9: True, 0.8: True, 0.7: False, 0.95: True, 0.2: False},
            "IoU 0.5": {0.9: True, 0.8: False, 0.7: True, 0.95: False, 0.2: False},
            "IoU 0.75": {0.9: True, 0.8: False, 0.7: False, 0.95: False, 0.2: False},
            # Radii of spheres of 80 and 32 mm3: 2.67 and 1.97 mm; centres lie 0.5, 3, 2, 3 mm apart.
            "centre in radius": {0.9: True, 0.8: False, 0.7: True, 0.95: False, 0.2: False},
        }

    def test_a_distance_in_mm_replaces_the_radius(self):
        found = self.hits(centre_mm=3.0)["centre 3 mm"]
        assert found == {0.9: True, 0.8: True, 0.7: False, 0.95: True, 0.2: False}

    def test_a_pair_has_its_score_dice_and_hd95(self):
        (row,) = compare_pair("a", prediction=self.PREDICTION, reference=self.REFERENCE, settings=SETTINGS).matchings
        by_status = {x.status: x for x in row.instances if x.score in (0.9, 0.2)}
        assert by_status["matched"].dice == pytest.approx(18 / 19)
        # The one surface ends 1 mm before the other, on more than a twentieth of its area.
        assert by_status["matched"].hd95_mm == pytest.approx(1.0)
        assert math.isnan(by_status["extra"].hd95_mm)
        assert row.connectivity is None

    def test_touching_instances_are_kept_apart(self):
        both = bars((0, 10, 0.9), (10, 20, 0.8))
        (row,) = match_instances(prediction=both, reference=both)
        assert (row.n_reference, row.tp_reference, row.pq) == (2, 2, 1.0)
        (joined,) = match_instances(prediction=both.segmentation, reference=both)
        assert (joined.n_prediction, joined.n_reference, joined.pq) == (1, 2, 0.0)


class TestCohort:
    def cases(self):
        reference = bars((0, 10, 0), (20, 30, 0))
        predictions = [
            bars((0, 10, 0.9), (20, 30, 0.8)),
            bars((0, 10, 0.7), (20, 24, 0.6), (40, 50, 0.3)),
            bars((1, 10, 0.9)),
            bars(),
        ]
        return [
            compare_pair(f"c{n}", prediction=x, reference=reference, settings=SETTINGS, patient=n)
            for n, x in enumerate(predictions)
        ]

    def test_counts_quality_and_intervals(self):
        (row,) = summarise_cohort(self.cases(), SETTINGS).detection
        assert (row.n_cases, row.n_reference, row.n_prediction, row.n_scored) == (4, 8, 6, 6)
        # Differences of the counts: 0, +1, -1, -2.
        assert row.count_error.mean == pytest.approx(1.0)
        assert row.count_bias.mean == pytest.approx(-0.5)
        assert row.all_found == 0.25
        # Four hits of IoU 1, 1, 1, 0.9; two false, four missed.
        assert row.sq.mean == pytest.approx(3.9 / 4)
        assert row.rq.mean == pytest.approx(4 / (4 + 1 + 2))
        assert row.pq.mean == pytest.approx(3.9 / 7)
        assert row.pq.low < row.pq.mean < row.pq.high
        assert row.dice.mean == pytest.approx((3 + 18 / 19) / 4)
        # Scores 0.9, 0.9, 0.8, 0.7 hit; then 0.6 and 0.3 false: precision 1 up to the recall 0.5.
        assert row.average_precision["IoU 0.5"].mean == pytest.approx(51 / 101)
        assert row.froc["IoU 0.5"]["1"] == 0.5

    def test_no_instance_anywhere(self):
        empty = compare_pair(
            "a", prediction=bars(), reference=bars(), settings=SETTINGS.model_copy(update={"things": ("instance",)})
        )
        (row,) = summarise_cohort([empty], SETTINGS).detection
        assert (row.n_reference, row.n_prediction) == (0, 0)
        assert math.isnan(row.pq.mean)
        assert "nothing to divide" in row.pq.reason
        assert row.count_error.mean == 0

    def test_a_mean_has_the_interval_of_a_mean(self):
        values = np.array([0.9, 0.8, 0.85, 0.95, 0.7, 0.88])
        mean = bootstrap_mean(values, resamples=500)
        same = bootstrap_statistic(lambda times: times @ values / times.sum(axis=1), n=6, n_patients=6, resamples=500)
        assert (same.low, same.high) == (pytest.approx(mean.low), pytest.approx(mean.high))


class TestPanoptica:
    NUMBERS = json.loads((Path(__file__).parent / "panoptica-2.1.7.json").read_text())

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("rule", RULES)
    def test_instances_of_their_own_have_its_numbers(self, rule, seed):
        prediction, reference = case(seed)
        table = LabelTable.from_names({1: "node"})
        grid = phantoms.geometry(shape=prediction.shape)
        ours, theirs = (tell_apart(Segmentation(x, grid, table)) for x in (prediction, reference))
        (row,) = match_instances(prediction=ours, reference=theirs, rule=rule, min_iou=RULES[rule][1])
        expected = self.NUMBERS[f"{rule}-{seed}"]
        assert (row.n_reference, row.n_prediction, row.tp_reference, row.fp, row.fn) == tuple(
            expected[name] for name in ("n_ref_instances", "n_pred_instances", "tp", "fp", "fn")
        )
        assert row.pq == pytest.approx(expected["pq"], abs=1e-12)
        assert row.rq == pytest.approx(expected["rq"], abs=1e-12)


class TestMapsOnDisk:
    @pytest.fixture
    def folders(self, tmp_path):
        truth = phantoms.balls(
            phantoms.geometry(shape=(48, 40, 20), spacing_mm=(1.0, 1.2, 2.5)),
            ((14, 24, 25), 9),
            ((29, 24, 25), 8.5),
            ((39, 8, 10), 5),
        )
        for name, array in (("reference", truth), ("prediction", np.where(truth == 3, 0, truth) * np.uint16(5))):
            (tmp_path / name).mkdir()
            for n in (1, 2, 3):
                values = {int(v): str(v) for v in np.unique(array) if v}
                grid = phantoms.geometry(shape=array.shape, spacing_mm=(1.0, 1.2, 2.5))
                whole = Segmentation(array, grid, LabelTable.from_names(values))
                save(whole, tmp_path / name / f"case_{n}.nii.gz")
        return tmp_path

    def run(self, folders, out, *words):
        from voxmetry.cli import run

        code = run(["compare", str(folders / "prediction"), str(folders / "reference"), "-o", str(out), *words])
        return code, json.loads((out / "comparison.json").read_text()) if out.exists() else {}

    def test_compare_takes_instance_maps(self, folders):
        code, found = self.run(folders, folders / "out", "--apart", "maps", "--no-parquet")
        assert code == 0
        (row,) = found["detection"]
        assert (row["label"], row["n_reference"], row["n_prediction"], row["n_scored"]) == ("instance", 9, 6, 0)
        assert row["sq"]["mean"] == 1.0
        assert row["rq"]["mean"] == pytest.approx(6 / 7.5)
        assert row["count_bias"]["mean"] == -1
        assert 'id="found"' in (folders / "out" / "comparison.html").read_text()
        assert "hd95_mm" in (folders / "out" / "instances.csv").read_text().splitlines()[0]

    def test_components_take_touching_ones_for_one_and_watershed_does_not(self, tmp_path, folders):
        # As label maps of one structure.
        for path in folders.glob("*/*.nii.gz"):
            from voxmetry.io.instances import read_instances

            save(read_instances(path).segmentation, path)
        _, joined = self.run(
            folders, folders / "a", "--apart", "components", "--instances", "iou", "--thing", "instance"
        )
        _, cut = self.run(folders, folders / "b", "--apart", "watershed", "--thing", "instance")
        assert [x["detection"][0]["n_reference"] for x in (joined, cut)] == [6, 9]

    def test_a_label_map_of_structures_is_refused_as_a_reference(self, folders, capsys):
        array = np.zeros((30, 20, 10), np.uint8)
        array[2:6, 2:6, 2:6], array[12:16, 2:6, 2:6], array[22:25, 2:6, 2:6] = 1, 1, 1
        whole = Segmentation(array, phantoms.geometry(shape=array.shape), LabelTable.from_names({1: "node"}))
        for name in ("prediction", "reference"):
            for path in (folders / name).iterdir():
                save(whole, path)
        code, _ = self.run(folders, folders / "out", "--apart", "maps", "--no-parquet")
        assert code == 1
        rows = (folders / "out" / "comparison.csv").read_text()
        assert "1 of 1 values lie in several pieces, up to 3" in rows

    def test_crumbs_do_not_make_a_label_map(self):
        array = np.zeros((30, 20, 10), np.uint16)
        array[2:8, 2:8, 2:8], array[12, 2, 2] = 1, 1
        require_instances(array, "a.nii.gz")


REAL = Path(__file__).parents[3] / "shared" / "data" / "ms-lesions-mni"


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="ms-lesions-mni is not beside the checkout")
def test_lesions_that_are_shifted_and_thinned_out_are_found_as_often_as_they_were_kept():
    from voxmetry import read_segmentation

    rng = np.random.default_rng(0)
    cases, kept, added, total = [], 0, 0, 0
    for n, path in enumerate(sorted(REAL.glob("*.nii.gz"))[:2]):
        whole = read_segmentation(path)
        crop = tell_apart(whole)
        keep = rng.random(len(crop) + 1) < 0.7
        keep[0] = False
        kept, total = kept + int(keep.sum()), total + len(crop)
        rows = [
            row.model_copy(update={"score": float(rng.uniform(0.5, 1))}) for row in crop.detections if keep[row.value]
        ]
        array = np.where(keep[crop.array], crop.array, 0).astype(np.uint16)
        # Five inventions a case, less certain than any find.
        for k in range(5):
            at = (3 + 3 * k, 3, 3)
            assert not whole.array[at[0] - 1 : at[0] + 2, 2:5, 2:5].any()
            array[at] = len(crop) + 1 + k
            rows.append(
                Detection(value=len(crop) + 1 + k, label=rows[0].label, score=0.1, box_ras_mm=((0, 0, 0), (0, 0, 0)))
            )
            added += 1
        found = of_rows(array, whole.geometry, rows)
        settings = SETTINGS.model_copy(update={"things": (rows[0].label,)})
        cases.append(compare_pair(path.name, prediction=found, reference=crop, settings=settings, patient=n))
    (row,) = summarise_cohort(cases, SETTINGS).detection
    assert (row.n_reference, row.n_prediction) == (total, kept + added)
    assert row.froc["IoU 0.5"]["0.125"] == pytest.approx(kept / total)
    assert row.froc["centre in radius"]["8"] == pytest.approx(kept / total)
    assert row.average_precision["IoU 0.75"].mean == pytest.approx(kept / total, abs=0.011)
    assert (row.sq.mean, row.dice.mean, row.hd95_mm.mean) == (1.0, 1.0, 0.0)


def test_a_least_iou_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="hit_iou"):
        parse_record({"hit_iou": (0.0,)}, CohortSettings, where="test")


def test_a_value_in_two_pieces_is_no_instance():
    array = np.zeros(GRID.shape, np.uint16)
    array[0:4], array[10:14] = 1, 1
    with pytest.raises(LabelError, match="in several pieces"):
        require_instances(array, "a.nii.gz")


class TestNamedAlike:
    """An instance map without names means the only structure that there is."""

    def one(self, label):
        array = np.zeros(GRID.shape, np.uint16)
        array[0:4, 1:3, 1:3] = 7
        return of_rows(array, GRID, [Detection(value=7, label=label, box_ras_mm=((0, 0, 0), (0, 0, 0)))])

    @pytest.mark.parametrize(("ours", "theirs"), [("instance", "node"), ("node", "instance")])
    def test_a_map_without_a_table_takes_the_other_sides_name(self, ours, theirs):
        (row,) = compare_pair("a", prediction=self.one(ours), reference=self.one(theirs), settings=SETTINGS).matchings
        assert (row.label, row.pq) == ("node", 1.0)

    def test_two_different_names_are_refused(self):
        with pytest.raises(LabelError, match="tooth"):
            compare_pair("a", prediction=self.one("tooth"), reference=self.one("node"), settings=SETTINGS)

    def test_a_map_without_an_instance_has_missed_them_all(self):
        (row,) = compare_pair("a", prediction=bars(), reference=self.one("node"), settings=SETTINGS).matchings
        assert (row.n_prediction, row.fn, row.pq) == (0, 1, 0.0)
