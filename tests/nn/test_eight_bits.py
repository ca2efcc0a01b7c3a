"""Networks in 8 bits: made by a verb, compared with float32, run by fast runs alone, never those of other weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Predictor, StudySettings, Volume, load_model, save, segment_study
from voxmetry.cli import run
from voxmetry.config import MaskRcnnNetwork
from voxmetry.errors import ConfigError, InputError, MissingExtraError, ModelError, OutputExistsError
from voxmetry.io import write_series
from voxmetry.measurement.overlap import overlaps
from voxmetry.models.eight_bits import RECORD, EightBits, read_eight_bits
from voxmetry.nn.eight_bits import find_eight_bits, why_never_eight_bits
from voxmetry.nn.runtime import RuntimeChoice
from voxmetry.workflows.quantise_model import QuantiseOptions, quantise_model

needs_nncf = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("nncf") is None, reason="the extra int8 is not installed"
)
ANY = QuantiseOptions(windows=6, least_dice=0.0)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("VOXMETRY_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "mr.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=(30, 34, 15))), path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A model without 8 bits."""
    return models.write(tmp_path_factory.mktemp("plain") / "tiny-mr")


@pytest.fixture(scope="module")
def quantised(plain, study, tmp_path_factory) -> tuple[EightBits, Path]:
    """A copy of it with them."""
    return quantise_model(plain, [study], out=tmp_path_factory.mktemp("short") / "tiny-mr", options=ANY)


@pytest.fixture
def short(quantised, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(quantised[1], tmp_path / "tiny-mr"))


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@needs_nncf
class TestMaking:
    def test_a_copy_has_the_model_and_what_it_was_calibrated_on(self, plain, quantised):
        made, folder = quantised
        assert names(folder) == names(plain) | {"int8-1.bin", "int8-1.xml", RECORD}
        assert made == EightBits.model_validate_json((folder / RECORD).read_bytes())
        assert made == read_eight_bits(folder, load_model(plain, device="cpu").spec)
        assert (made.windows, len(made.images)) == (6, 1)
        assert {"nncf", "openvino", "torch", "voxmetry"} <= set(made.versions)
        assert str(folder) not in (folder / RECORD).read_text()

    def test_it_gives_the_same_file_twice(self, plain, quantised, study, tmp_path):
        again, _ = quantise_model(plain, [study], out=tmp_path / "again", options=ANY)
        assert again == quantised[0]

    def test_what_is_said_of_dice_is_what_a_fast_run_gives(self, plain, quantised, study):
        made, folder = quantised
        volume = phantoms.volume(phantoms.geometry(shape=(30, 34, 15)))
        full = Predictor(plain, device="openvino", precision="float32")(volume)
        fast = Predictor(folder, fast=True)(volume)
        compared = []
        for row, label in zip(made.structures, full.labels, strict=True):
            found = overlaps(prediction=fast, reference=full, pairs=[(label.value, label.value)])[0]
            # What neither run finds has no Dice.
            assert found.dice == pytest.approx(row.fast_dice, abs=1e-6, nan_ok=True)
            if found.n_reference:
                assert row.volume_ml == pytest.approx(found.n_reference * full.geometry.voxel_ml, abs=1e-3)
                compared.append(row.dice)
        assert compared
        assert min(compared) > 0.5

    def test_each_network_of_an_ensemble_has_its_own(self, study, tmp_path):
        folder = models.write(tmp_path / "two", members=2)
        quantise_model(folder, [study], options=ANY)
        assert {"int8-1.bin", "int8-1.xml", "int8-2.bin", "int8-2.xml", RECORD} < names(folder)
        ready = load_model(folder, fast=True)
        assert (ready.choice.precision, len(ready.members)) == ("int8", 2)
        with pytest.raises(OutputExistsError):
            quantise_model(folder, [study], options=ANY)

    def test_labels_that_are_not_kept_are_not_written(self, study, tmp_path):
        folder = models.write(tmp_path / "tiny-mr")
        before = names(folder)
        with pytest.raises(ModelError, match=r"(?s)Dice with its own run in float32.*--least-dice"):
            quantise_model(folder, [study], options=QuantiseOptions(windows=2, least_dice=1.0))
        assert names(folder) == before

    def test_images_without_anything_in_them(self, tmp_path):
        grid = phantoms.geometry(shape=(30, 34, 15))
        save(Volume(np.full(grid.shape, -1000, np.int16), grid), tmp_path / "air.nii.gz")
        window = {"method": "window", "low": -1000.0, "high": 1000.0, "mean": 0.0, "sd": 400.0}
        folder = models.write(
            tmp_path / "tiny-ct", inputs=[{"name": "ct", "modality": "CT", "normalise": window}], name="tiny-ct"
        )
        before = names(folder)
        with pytest.raises(InputError, match="one value alone"):
            quantise_model(folder, [tmp_path / "air.nii.gz"], options=ANY)
        assert names(folder) == before

    def test_an_image_of_another_modality(self, plain, tmp_path):
        write_series(phantoms.volume(phantoms.geometry(frame_uid="1.2.3")), tmp_path / "ct", modality="CT")
        with pytest.raises(InputError, match="CT"):
            quantise_model(plain, [tmp_path / "ct"], out=tmp_path / "out", options=ANY)
        assert not (tmp_path / "out" / RECORD).exists()

    def test_files_that_do_not_make_whole_studies(self, study, tmp_path):
        inputs = [{"name": name, "modality": "MR", "normalise": {"method": "zscore"}} for name in ("t1", "t2")]
        folder = models.write(tmp_path / "two", inputs=inputs)
        with pytest.raises(InputError, match="1 image for tiny-mr"):
            quantise_model(folder, [study, study, study], options=ANY)

    def test_a_network_that_openvino_cannot_take(self, plain, study, tmp_path, monkeypatch):
        def refuse(*_: object) -> None:
            raise RuntimeError("no conversion rule for aten::odd")

        monkeypatch.setattr("voxmetry.nn.quantise.convert", refuse)
        with pytest.raises(ModelError, match=r"(?s)cannot bring to 8 bits: no conversion rule.*--fast .*takes fewer"):
            quantise_model(plain, [study], out=tmp_path / "out", options=ANY)

    def test_at_the_shell(self, plain, study, tmp_path, capsys):
        words = ["models", "quantise", str(plain), str(study), "-o", str(tmp_path / "out"), "--windows", "6"]
        assert run([*words, "--least-dice", "0.5", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [row["label"] for row in told["int8"]["structures"]] == ["front", "back"]
        assert run([*words, "--least-dice", "0.5", "--overwrite"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "Dice, 8 bits" in told
        assert "on the images it was calibrated on (6 windows)" in told


@needs_nncf
class TestRunning:
    def test_a_fast_run_takes_them_and_says_so(self, short, study, tmp_path, capsys):
        assert run(["segment", str(study), "-m", str(short), "-o", str(tmp_path / "out"), "--fast"]) in (0, 3)
        told = " ".join(capsys.readouterr().out.split())
        assert (
            "on openvino in int8, fast (a quarter of the windows, and those at what these find, in 8 bits: tiny-mr "
            "(Dice with the full run down to "
        ) in told
        assert "Not in 8 bits" not in told
        made = json.loads((tmp_path / "out" / "result.json").read_text())["provenance"]
        assert (made["device"], made["precision"], made["fast"]["eight_bits"]) == ("openvino", "int8", ["tiny-mr"])
        kept = json.loads((short / RECORD).read_text())["structures"]
        lowest = min(min(row["dice"], row["fast_dice"]) for row in kept if (row["volume_ml"] or 0) > 0)
        assert made["fast"]["eight_bits_dice"] == {"tiny-mr": lowest}
        assert "in 8 bits: tiny-mr" in (tmp_path / "out" / "report.html").read_text()

    def test_a_full_run_does_not(self, short):
        assert load_model(short, device="cpu").choice.precision == "float32"

    def test_the_processor_by_name_takes_them_too_and_a_precision_by_name_is_kept(self, short):
        assert load_model(short, device="cpu", fast=True).choice.precision == "int8"
        kept = load_model(short, device="cpu", precision="float32", fast=True)
        assert (kept.choice.precision, kept.fast.eight_bits) == ("float32", ())
        assert kept.fast.no_eight_bits == "float32 was asked for"

    def test_the_network_in_torch_is_still_there(self, short):
        ready = load_model(short, fast=True)
        assert ready.as_monai().inferer.overlap == 0.25

    def test_other_weights_make_them_stale(self, short, study, tmp_path):
        models.write(short, seed=1)
        with pytest.raises(ModelError, match=r"(?s)8 bits of other weights.*models quantise \S*tiny-mr"):
            load_model(short, fast=True)
        assert load_model(short, device="cpu").fast is None

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda folder: (folder / "int8-1.bin").unlink(), r"without int8-1\.bin"),
            (lambda folder: (folder / "int8-1.xml").write_text("<net/>"), r"int8-1\.xml, which is not what"),
            (lambda folder: (folder / RECORD).write_text("{}"), "damaged"),
            (lambda folder: models.write(folder, window={"patch": [32, 24, 8]}), "another network or patch"),
        ],
    )
    def test_what_is_damaged_is_refused(self, short, damage, said):
        damage(short)
        with pytest.raises(ModelError, match=said):
            load_model(short, fast=True)

    def test_a_cohort_that_is_run_fast_knows_of_them(self, plain, short, study, tmp_path):
        from voxmetry.workflows.cohort.plan import plan_cohort
        from voxmetry.workflows.cohort.records import RunSettings

        def recipe(model: Path, *, fast: bool) -> str:
            settings = RunSettings(study=StudySettings(fast=fast))
            return plan_cohort(study.parent, tmp_path / "out", [str(model)], settings=settings).studies[0].recipe

        assert recipe(plain, fast=False) == recipe(short, fast=False)
        assert recipe(plain, fast=True) != recipe(short, fast=True)


def test_without_them_a_fast_run_says_how_to_get_them(plain, study, tmp_path, capsys):
    assert run(["segment", str(study), "-m", str(plain), "-o", str(tmp_path / "out"), "--fast"]) in (0, 3)
    told = " ".join(capsys.readouterr().out.split())
    assert "Not in 8 bits: none are stored with tiny-mr: voxmetry models quantise MODEL STUDY makes them, once." in told
    settings = StudySettings(device="cpu", report="none")
    assert segment_study(study, tmp_path / "full", plain, settings=settings).provenance.fast is None


def test_a_gpu_keeps_its_own_precision(plain):
    spec = load_model(plain, device="cpu").spec
    _, said = find_eight_bits(spec, plain, RuntimeChoice("cuda", "bf16", "as asked for"), "auto")
    assert said == "8 bits are for processors, and this is cuda"


def test_without_nncf_it_says_what_to_install(plain, study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"(?s)NNCF.*voxmetry\[int8\]"):
        quantise_model(plain, [study], out=tmp_path / "out", options=ANY)
    assert not (tmp_path / "out").exists()


def test_a_bundled_model_is_copied_and_not_changed(study):
    with pytest.raises(ConfigError, match=r"(?s)comes with the package.*-o FOLDER"):
        quantise_model("hippocampus-mr", [study])


def test_networks_that_run_in_torch_alone_are_refused(tmp_path, study):
    labels = {"labels": [{"value": 1, "name": "mark", "colour": "#E69F00"}]}
    spec = models.spec(clicks={"reach_mm": 10.0}, labels=labels, training_domain={})
    assert "clicks" in why_never_eight_bits(spec)
    boxes = spec.model_copy(update={"network": MaskRcnnNetwork.model_construct(), "clicks": None})
    assert "maskrcnn" in why_never_eight_bits(boxes)
    folder = models.write(tmp_path / "clicked", clicks={"reach_mm": 10.0}, labels=labels, training_domain={})
    with pytest.raises(ModelError, match="a network that takes clicks"):
        quantise_model(folder, [study])
