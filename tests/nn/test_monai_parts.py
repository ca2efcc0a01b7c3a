"""A model in MONAI's own parts: the plain way, and the engine beside it."""

import dataclasses

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose

import models
import nnunet_folders
import phantoms
from parity import Blobs, blobs, check
from voxmetry import Predictor, load_model, read_volume, save, segment_study
from voxmetry.cli import run
from voxmetry.config import StudySettings
from voxmetry.errors import ConfigError, InferenceError, InputError, ModelError
from voxmetry.nn.interop import ImportOptions, import_model
from voxmetry.nn.mirroring import averaged, swapped_sides
from voxmetry.nn.monai_parts import monai_parts
from voxmetry.nn.monai_predictor import MonaiPredictor
from voxmetry.nn.monai_reader import LoadVolumed

TURNED = {"training_domain": {"obliqueness_degrees": {"low": 0, "high": 0}}}
CASES = {
    "centred": {},
    "by MONAI's transforms": {"resampling": {"rule": "monai"}},
    "labels on MONAI's grid": {"resampling": {"rule": "monai", "score_order": 0}},
    "softmax": {"resampling": {"rule": "monai"}, "activation": "softmax"},
    "native": {"resampling": {"rule": "native"}},
    "nnunet": {"resampling": {"rule": "nnunet", "order": 3}, "window": {"patch": [16, 24, 8], "placement": "nnunet"}},
    "turned": TURNED,
    "regions": {"regions": [7, 2]},
    "mirrored ensemble": {"members": 2, "window": {"patch": [16, 24, 8], "mirror_axes": [0, 2]}},
    "replicated": {"window": {"patch": [64, 24, 8], "padding": "replicate"}},
    "cleaned": {"clean": [{"step": "largest"}]},
}


def both(change, folder):
    """The engine and the plain way with one network."""
    made = models.spec(**change)
    base = load_model(models.write(folder), device="cpu")
    network = Blobs(1, made.n_classes).eval()
    model = models.replace(base, spec=made, members=(network,) * made.members, torch_member=lambda _: network)
    return Predictor(model), MonaiPredictor(model)


@pytest.mark.parametrize("case", CASES)
def test_the_engine_gives_the_labels_of_the_plain_way(case, tmp_path):
    # Voxel sizes of which no voxel lies half-way between two of the model's: there MONAI's rounding would decide.
    volume = blobs(phantoms.geometry(shape=(41, 37, 23), spacing_mm=(0.93, 1.31, 2.57)))
    engine, plain = both(CASES[case], tmp_path)
    found, expected = engine(volume), plain(volume)
    assert expected.geometry.is_same(volume.geometry)
    check(found.array, expected.array)


def test_images_in_different_frames_of_reference_are_refused(tmp_path):
    inputs = [{"name": name, "modality": "MR", "normalise": {"method": "zscore"}} for name in ("t1", "t2")]
    predictor = MonaiPredictor(models.write(tmp_path, inputs=inputs), device="cpu")
    volumes = [blobs(dataclasses.replace(phantoms.geometry(), frame_uid=uid)) for uid in ("1.2", "1.3")]
    with pytest.raises(InputError, match="frames of reference"):
        predictor.prepare(volumes)


def test_sides_change_places_in_mirror_images_as_in_the_engine():
    window = {"patch": [16, 24, 8], "mirror_axes": [0, 1], "swap_on_mirror": [["front", "back"]]}
    spec = models.spec(window=window)
    network, patches = torch.nn.Conv3d(1, 3, 3, padding=1), torch.randn(1, 1, 16, 24, 8)
    with torch.inference_mode():
        expected = averaged([network], (0, 1), swapped=swapped_sides(spec))(patches)
        assert torch.equal(monai_parts(spec, [network]).network(patches), expected)
        assert not torch.allclose(averaged([network], (0, 1))(patches), expected, atol=1e-3)


def test_the_parts_are_monais_and_start_with_loading(tmp_path):
    parts = load_model(models.write(tmp_path / "model", resampling={"rule": "monai"}), device="cpu").as_monai()
    assert isinstance(parts.pre, Compose)
    assert isinstance(parts.pre.transforms[0], LoadVolumed)
    assert isinstance(parts.inferer, SlidingWindowInferer)
    assert isinstance(parts.network, torch.nn.Module)
    names = [type(step).__name__ for step in (*parts.pre.transforms, *parts.post.transforms)]
    assert names[1:3] == ["Orientationd", "Spacingd"]
    assert "Invertd" in names and "AsDiscreted" in names  # noqa: PT018


def test_a_monai_user_puts_them_together_from_a_path(tmp_path):
    volume = blobs(phantoms.geometry(shape=(31, 37, 23)))
    save(volume, tmp_path / "image.nii.gz")
    for rule in ("monai", "centred"):
        _, plain = both({"resampling": {"rule": rule}}, tmp_path / rule)
        parts = plain.model.as_monai()
        data = parts.pre({"t1": str(tmp_path / "image.nii.gz")})
        with torch.inference_mode():
            scores = parts.inferer(data["image"][None].as_tensor(), parts.network)[0]
        data["pred"] = type(data["image"])(scores, meta=data["image"].meta)
        data["pred"].applied_operations = data["image"].applied_operations
        labels = np.asarray(parts.post(data)["pred"])[0]
        assert np.array_equal(labels, plain(read_volume(tmp_path / "image.nii.gz")).array)


def test_imported_nnunet_models_have_them_too(tmp_path):
    folder = nnunet_folders.write(tmp_path, "channels")
    import_model(folder, tmp_path / "model", ImportOptions(orientation="stored"))
    volumes = [read_volume(path) for path in sorted(tmp_path.glob("image_*.nii.gz"))]
    model = load_model(tmp_path / "model", device="cpu")
    check(Predictor(model)(volumes).array, MonaiPredictor(model)(volumes).array)


def test_the_verb_runs_it_and_reports_what_ran(tmp_path, capsys):
    folder = models.write(tmp_path / "model")
    save(blobs(phantoms.geometry(shape=(31, 37, 23))), tmp_path / "image.nii.gz")
    results = {}
    for engine in ("stream", "monai"):
        settings = StudySettings(device="cpu", engine=engine, report="none", modality="MR")
        results[engine] = segment_study(tmp_path / "image.nii.gz", tmp_path / engine, folder, settings=settings)
    made = results["monai"].provenance
    assert (made.device, made.precision, made.settings["engine"]) == ("cpu", "float32", "monai")
    volumes = [[row.volume_ml for row in results[engine].measurements] for engine in results]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.01)
    out = ["-o", str(tmp_path / "out"), "--engine", "monai", "--modality", "MR"]
    assert run(["segment", str(tmp_path / "image.nii.gz"), "-m", str(folder), *out, "--maps", "entropy"]) == 2
    assert "use --engine stream" in capsys.readouterr().err


def test_what_it_is_not_for_is_refused(tmp_path):
    folder = models.write(tmp_path)
    for options in ({"device": "openvino"}, {"precision": "bf16"}, {"execution": "compile"}):
        with pytest.raises(ConfigError, match="the engine monai"):
            MonaiPredictor(folder, **options)
    model = load_model(folder, device="cpu")
    with pytest.raises(ModelError, match="without a network in torch"):
        models.replace(model, torch_member=None).as_monai()

    def full(_):
        raise MemoryError

    network = torch.nn.Identity()
    network.forward = full
    with pytest.raises(InferenceError, match="holds all scores at once"):
        MonaiPredictor(models.replace(model, torch_member=lambda _: network))(phantoms.volume())
