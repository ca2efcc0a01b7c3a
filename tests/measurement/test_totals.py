import csv
import json

import pytest

import models
import phantoms
from voxmetry import save
from voxmetry.config import ModelSpec, parse_record
from voxmetry.errors import ConfigError
from voxmetry.measurement.totals import total_of
from voxmetry.workflows.segment import segment_study


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.nii.gz"
    save(phantoms.volume(phantoms.geometry(spacing_mm=(1.0, 1.2, 2.5))), path)
    return path


class TestTotal:
    @pytest.mark.parametrize(("labels", "of"), [([], ["front", "back"]), (["back"], ["back"])])
    def test_is_the_sum_of_its_structures_in_every_face(self, labels, of, study, tmp_path):
        model = models.write(tmp_path / "tiny", total={"name": "intracranial_volume", "labels": labels})
        result = segment_study(study, tmp_path / "out", model)
        volumes = {m.label: m.volume_ml for m in result.measurements if m.label in of}
        assert sum(volumes.values()) > 0
        assert result.total.labels == tuple(of)
        assert result.total.volume_ml == pytest.approx(sum(volumes.values()))
        shares = {name: pytest.approx(100 * ml / sum(volumes.values())) for name, ml in volumes.items()}
        assert result.total.share_percent == shares
        rows = list(csv.DictReader((tmp_path / "out" / "measurements.csv").read_text().splitlines()))
        assert {row["label"]: float(row["share_percent"]) for row in rows if row["share_percent"]} == shares
        assert json.loads((tmp_path / "out" / "result.json").read_text())["total"]["labels"] == of
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Intracranial volume: " in page
        assert "It is too small: a structure is cut off." in page or not result.total.touches_border

    def test_without_one_nothing_is_shared(self, study, tmp_path):
        result = segment_study(study, tmp_path / "out", models.write(tmp_path / "tiny"))
        assert result.total is None
        assert "share_percent" not in (tmp_path / "out" / "measurements.csv").read_text()

    def test_of_nothing_has_no_shares(self):
        assert total_of((), "intracranial_volume").share_percent == {}

    def test_of_a_structure_that_the_model_lacks_is_refused(self):
        content = models.spec().model_dump(mode="json") | {"total": {"name": "all", "labels": ["liver"]}}
        with pytest.raises(ConfigError, match="liver"):
            parse_record(content, ModelSpec, where="model.yaml")
