from __future__ import annotations

import csv
import io
import json
import math
import sys

import pytest

import cohorts
from voxmetry.core.records import CohortComparison, CohortSettings
from voxmetry.errors import ConfigError, MissingExtraError
from voxmetry.measurement import tables
from voxmetry.measurement.compare_cases import compare_cohort
from voxmetry.measurement.match_files import match_files
from voxmetry.measurement.patients import number_patients, read_patients
from voxmetry.measurement.summarise_cases import summarise_cohort

QUICK = CohortSettings(resamples=200)


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    return match_files(*cohorts.write_cohort(tmp_path_factory.mktemp("cohort")))


@pytest.fixture(scope="module")
def cohort(matched):
    return compare_cohort(matched.pairs, QUICK.model_copy(update={"instances": "iou"}))


def structure(cohort: CohortComparison, label: str):
    return next(s for s in cohort.structures if s.label == label)


class TestSummary:
    def test_counts_by_hand(self, cohort):
        organ, lesion = (structure(cohort, name) for name in ("organ", "lesion"))
        assert (organ.n_cases, organ.n_both, organ.n_missed, organ.n_extra, organ.n_absent) == (4, 3, 1, 0, 0)
        assert (lesion.n_both, lesion.n_missed, lesion.n_extra, lesion.n_absent) == (2, 0, 1, 1)
        assert (cohort.overall.n_both, cohort.overall.n_missed, cohort.overall.n_extra) == (5, 1, 1)

    def test_a_missed_structure_stays_in_the_mean_of_dice(self, cohort):
        organ = structure(cohort, "organ")
        assert organ.present["dice"].mean.mean == pytest.approx((1 + 0.9 + 0.8 + 0) / 4)
        assert organ.both["dice"].mean.mean == pytest.approx(0.9)
        assert (organ.present["dice"].worst, organ.present["dice"].worst_case) == (0.0, "d")
        # Of 0, 0.8, 0.9, 1: quartiles at ranks 0.75, 1.5 and 2.25.
        d = organ.present["dice"]
        assert (d.q1, d.median, d.q3) == (pytest.approx(0.6), pytest.approx(0.85), pytest.approx(0.925))
        assert organ.both["dice"].sd == pytest.approx(0.1)
        assert d.mean.low < d.mean.mean < d.mean.high

    def test_a_missed_structure_makes_the_mean_distance_undefined_and_ranks_as_the_worst(self, cohort):
        d = structure(cohort, "organ").present["hausdorff_mm"]
        assert math.isnan(d.mean.mean)
        assert "1 of 4 values are undefined" in d.mean.reason
        assert (d.n_undefined, d.worst_case) == (1, "d")
        # 0, 0.9, 1.8 and undefined: the third quartile reaches the undefined one.
        assert (d.q1, d.median) == (pytest.approx(0.675, abs=1e-5), pytest.approx(1.35, abs=1e-5))
        assert math.isnan(d.q3)
        both = structure(cohort, "organ").both["hausdorff_mm"]
        assert both.mean.mean == pytest.approx(0.9, abs=1e-5)
        assert both.worst_case == "c"

    def test_with_the_diagonal_the_mean_is_defined_and_the_policy_says_so(self, matched):
        cohort = compare_cohort(matched.pairs, QUICK.model_copy(update={"empty": "diagonal"}))
        d = structure(cohort, "organ").present["hausdorff_mm"]
        assert d.mean.mean > 5
        assert "diagonal" in cohort.policy
        assert d.worst_case == "d"

    def test_volumes_by_hand(self, cohort):
        organ = structure(cohort, "organ")
        ml = 10 * 12 * 0.9 * 1.3 * 2.6 / 1000
        # Three equal volumes and one missed: differences 0, 0, 0, -V.
        assert organ.volumes.bias == pytest.approx(-ml / 4, rel=1e-5)
        assert organ.volumes.sd == pytest.approx(ml / 2, rel=1e-5)
        assert organ.reliability.n == 4

    def test_panoptic_counts_add_up(self, cohort):
        organ, lesion = cohort.panoptic.classes
        assert (lesion.kind, lesion.n_reference, lesion.tp_reference, lesion.fp, lesion.fn) == ("thing", 3, 2, 1, 1)
        assert (organ.kind, organ.tp_reference, organ.fp, organ.fn) == ("stuff", 3, 0, 1)
        assert cohort.panoptic.pq["things"] == pytest.approx(2 / 3)

    def test_rows_of_a_patient_are_resampled_together(self, matched):
        alone = compare_cohort(matched.pairs, QUICK)
        paired = compare_cohort(matched.pairs, QUICK, patients={"a": "x", "b": "x", "c": "y", "d": "y"})
        assert [case.patient for case in paired.cases] == [1, 1, 2, 2]
        mean = structure(paired, "organ").present["dice"].mean
        assert (mean.n, mean.n_patients) == (4, 2)
        assert mean.mean == structure(alone, "organ").present["dice"].mean.mean
        assert "x" not in {str(case.patient) for case in paired.cases}

    def test_json_comes_back_equal(self, cohort):
        text = cohort.model_dump_json()
        assert "NaN" not in text
        assert CohortComparison.model_validate_json(text).model_dump_json() == text


class TestFailures:
    @pytest.fixture(scope="class")
    @classmethod
    def broken(cls, tmp_path_factory):
        p, r = cohorts.write_cohort(tmp_path_factory.mktemp("broken"))
        (p / "b.nii.gz").write_bytes(b"no image")
        return compare_cohort(match_files(p, r).pairs, QUICK)

    def test_a_failing_case_is_a_row_with_its_reason_and_in_no_mean(self, broken):
        (failed,) = broken.failed
        assert failed.case == "b"
        assert {"error", "found", "expected", "fix"} == set(failed.error)
        assert structure(broken, "organ").n_cases == 3
        assert [case.case for case in broken.cases] == ["a", "b", "c", "d"]

    def test_the_table_has_it_too(self, broken):
        rows = tables.comparison_rows(broken.cases)
        (failed,) = (row for row in rows if row["error"])
        assert failed["case"] == "b"
        assert failed["dice"] is None
        assert len(rows) == 3 * 2 + 1

    def test_all_failing_leaves_no_summary(self, broken):
        cohort = summarise_cohort(broken.failed, QUICK)
        assert cohort.structures == ()
        assert cohort.overall is None

    def test_a_wrong_setting_is_not_a_failing_case(self, matched):
        with pytest.raises(ConfigError):
            compare_cohort(matched.pairs, QUICK.model_copy(update={"tolerance_mm": {"spleen": 1.0}}))

    def test_too_little_memory_is_a_row(self, matched, monkeypatch):
        def full(*_args, **_settings):
            raise MemoryError

        monkeypatch.setattr("voxmetry.measurement.compare_cases.compare", full)
        cohort = compare_cohort(matched.pairs[:1], QUICK)
        assert cohort.failed[0].error["error"] == "MemoryError"

    def test_nothing_to_compare_is_refused(self):
        with pytest.raises(ConfigError, match="no case"):
            compare_cohort([])


class TestTwoModels:
    @pytest.fixture(scope="class")
    @classmethod
    def two(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("two")
        p, r = cohorts.write_cohort(folder)
        for name, organ in {"a": (2, 12), "b": (2, 12), "c": (2, 12), "d": (5, 15)}.items():
            cohorts.write(folder / "other" / f"{name}.nii.gz", organ)
        return compare_cohort(match_files(p, r).pairs, QUICK, other=match_files(folder / "other", r).pairs)

    def test_differences_by_hand(self, two):
        row = next(r for r in two.paired if (r.label, r.metric) == ("organ", "dice"))
        # 1 - 1, 0.9 - 1, 0.8 - 1, 0 - 0.7.
        assert row.difference.mean == pytest.approx(-0.25)
        assert (row.n_ties, row.w_plus) == (1, 0.0)
        assert row.effect_size == -1
        assert row.p_value <= row.p_adjusted <= 1

    def test_a_distance_that_one_model_lacks_is_left_out_and_counted(self, two):
        row = next(r for r in two.paired if (r.label, r.metric) == ("organ", "hd95_mm"))
        assert (row.difference.n, row.n_undefined) == (3, 1)

    def test_a_case_with_the_structure_nowhere_is_no_pair(self, two):
        row = next(r for r in two.paired if (r.label, r.metric) == ("lesion", "dice"))
        # a and b; in c the first model invents it and the other does not, so that only one has a Dice; d has none.
        assert (row.difference.n, row.n_undefined) == (2, 1)

    def test_the_other_models_cases_are_kept(self, two):
        assert [case.case for case in two.other] == ["a", "b", "c", "d"]


class TestPatients:
    def test_are_read_from_csv(self, tmp_path):
        path = tmp_path / "patients.csv"
        path.write_text("case,patient,site\na,p1,x\nb,p1,y\n")
        assert read_patients(path) == {"a": "p1", "b": "p1"}

    @pytest.mark.parametrize("text", ["case\na\n", "case,patient\na,1\na,2\n", ""])
    def test_a_file_that_says_something_else_is_refused(self, tmp_path, text):
        path = tmp_path / "patients.csv"
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_patients(path)

    def test_a_missing_file_and_unknown_cases_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="no file"):
            read_patients(tmp_path / "none.csv")
        with pytest.raises(ConfigError, match="not compared: z"):
            number_patients(["a"], {"z": "p"})

    def test_a_patient_that_is_called_like_a_case_is_another_one(self):
        assert number_patients(["a", "b"], {"b": "a"}) == {"a": 1, "b": 2}


class TestTables:
    def test_csv_is_tidy(self, cohort, tmp_path):
        tables.write_csv(tables.comparison_rows(cohort.cases), tables.COMPARISON_COLUMNS, tmp_path / "x.csv")
        rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
        assert len(rows) == 8
        assert len({(row["case"], row["label"]) for row in rows}) == 8
        missed = next(row for row in rows if row["status"] == "missed")
        assert (missed["case"], missed["dice"], missed["hd95_mm"]) == ("d", "0.0", "")

    def test_parquet_says_the_same_as_csv(self, cohort, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = tables.comparison_rows(cohort.cases)
        tables.write_parquet(rows, tmp_path / "x.parquet")
        table = parquet.read_table(tmp_path / "x.parquet")
        assert table.to_pylist() == rows
        kinds = {field.name: str(field.type) for field in table.schema}
        assert (kinds["dice"], kinds["value_reference"], kinds["status"]) == ("double", "int64", "string")

    def test_without_pyarrow_it_says_what_to_install(self, cohort, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
        with pytest.raises(MissingExtraError, match="pyarrow"):
            tables.write_parquet(tables.comparison_rows(cohort.cases), tmp_path / "x.parquet")
        assert list(tmp_path.iterdir()) == []

    def test_instances_have_a_table(self, cohort):
        rows = tables.instance_rows(cohort.cases)
        assert [(row["case"], row["status"]) for row in rows] == [
            ("a", "matched"),
            ("b", "matched"),
            ("b", "missed"),
            ("c", "extra"),
        ]
        assert set(rows[0]) == set(tables.INSTANCE_COLUMNS)
        assert json.dumps(rows)
