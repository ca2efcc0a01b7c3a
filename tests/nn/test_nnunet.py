"""Models of nnU-Net v2: the labels of its own predictor, and refusals in words."""

import json
import os
import pickle
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import nnunet_folders
from voxmetry import read_volume, segment
from voxmetry.cli import run
from voxmetry.config import Resampling
from voxmetry.errors import ModelError, OutputExistsError
from voxmetry.nn.interop import ImportOptions, import_model
from voxmetry.nn.interop.checkpoint import read_checkpoint
from voxmetry.nn.interop.known_axes import TOTALSEGMENTATOR
from voxmetry.nn.nnunet_preprocess import resize

EXPECTED = Path(__file__).parent / "nnunet-2.8.1.npz"
"""Label maps of nnU-Net's own predictor: see tests/nnunet_oracle.py."""

IN_FLOAT32 = Path(__file__).parent / "nnunet-2.8.1-float32.npz"
"""The same of nnU-Net's predictor with its sums in float32."""

RIM = 3
"""Voxels from two faces of the image at once. nnU-Net adds scores in half precision, with weights that fall to 1e-7
there: it rounds these scores to a few steps, and this package does not."""


STORED = ImportOptions(orientation="stored")


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("image_*.nii.gz"))


def predicted(folder: Path, name: str):
    told = "WithReorient" in nnunet_folders.CASES[name].get("reader", "")
    import_model(nnunet_folders.write(folder, name), folder / "model", ImportOptions() if told else STORED)
    return segment([read_volume(path) for path in images(folder)], folder / "model", device="cpu").array


def rim(folder: Path) -> np.ndarray:
    """Where nnU-Net's weights are too small for half precision: along the edges at which two faces meet."""
    there = np.any([read_volume(path).array != 0 for path in images(folder)], axis=0)
    places = np.argwhere(there)
    low, high = places.min(0), places.max(0)
    from_face = np.stack(
        [np.minimum(at - low[axis], high[axis] - at) for axis, at in enumerate(np.indices(there.shape))]
    )
    return np.sort(from_face, axis=0)[1] < RIM


class TestParity:
    @pytest.mark.parametrize("name", nnunet_folders.CASES)
    def test_labels_are_those_of_nnunets_own_predictor(self, name, tmp_path):
        found, expected = predicted(tmp_path, name), np.load(EXPECTED)[name]
        assert np.bincount(expected.ravel()).min() > 100, "the case would prove nothing"
        same, edge = found == expected, rim(tmp_path)
        cascade = "lowres" in nnunet_folders.CASES[name]
        # What nnU-Net's half precision turns over in a first stage's rim moves the whole of the second.
        assert same[~edge].mean() > (0.995 if cascade else 0.9995)
        assert same.mean() > 0.995
        # With its sums in float32 nnU-Net has these labels over all voxels, the rim included.
        assert (found == np.load(IN_FLOAT32)[name]).mean() > (0.9996 if cascade else 0.9998)

    @pytest.mark.slow
    def test_the_kept_label_maps_are_what_nnunet_returns_today(self, tmp_path):
        python = os.environ.get("VOXMETRY_NNUNET_PYTHON")
        if not python:
            pytest.skip("VOXMETRY_NNUNET_PYTHON names no Python with nnunetv2: see tests/nnunet_oracle.py")
        program = Path(__file__).parents[1] / "nnunet_oracle.py"
        for kept, options in ((EXPECTED, ["regions"]), (IN_FLOAT32, ["--float32", "regions"])):
            subprocess.run([python, program, tmp_path / "out.npz", *options], check=True, timeout=1800)
            for name, labels in np.load(tmp_path / "out.npz").items():
                assert (labels == np.load(kept)[name]).mean() > 0.9999

    @pytest.mark.parametrize(("shape", "apart"), [((31, 20, 9), None), ((9, 40, 33), 0), ((15, 11, 30), 2)])
    def test_resizing_is_that_of_skimage_and_scipy(self, shape, apart):
        from scipy.ndimage import map_coordinates
        from skimage.transform import resize as skimage_resize

        image = np.random.default_rng(0).normal(size=(22, 15, 18)).astype(np.float32)
        found = resize(image, shape, Resampling(rule="nnunet", order=3), apart=apart)
        if apart is None:
            expected = skimage_resize(image.astype(float), shape, 3, mode="edge", anti_aliasing=False)
        else:
            flat = [size for axis, size in enumerate(shape) if axis != apart]
            slices = [
                skimage_resize(one, flat, 3, mode="edge", anti_aliasing=False)
                for one in np.moveaxis(image.astype(float), apart, 0)
            ]
            at = (np.arange(shape[apart]) + 0.5) * len(slices) / shape[apart] - 0.5
            near = map_coordinates(np.arange(len(slices)), [at], order=0, mode="nearest")
            expected = np.moveaxis(np.stack(slices)[near], 0, apart)
        assert found.shape == shape
        assert np.abs(found - expected).max() < 1e-4


class TestUse:
    def test_the_verb_imports_and_segment_runs_the_result(self, tmp_path, capsys):
        folder = nnunet_folders.write(tmp_path, "isotropic")
        verb = ["models", "import", str(folder), "-o", str(tmp_path / "model"), "--orientation", "stored"]
        assert run([*verb, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["model"]["orientation"] == "KJI"
        assert any("as they are stored" in note for note in told["notes"])
        code = run(["segment", str(images(tmp_path)[0]), "-m", str(tmp_path / "model"), "-o", str(tmp_path / "out")])
        assert code == 3
        flags = json.loads((tmp_path / "out" / "result.json").read_text())["flags"]
        assert [flag["severity"] for flag in flags if flag["code"] == "axes_assumed"] == ["review"]
        assert (tmp_path / "out" / "report.html").is_file()
        assert "checkpoint_final.pth" in (tmp_path / "model" / "MODEL_CARD.md").read_text()

    def test_a_cascade_is_one_model_whose_second_stage_takes_no_study_alone(self, tmp_path, capsys):
        folder, out = nnunet_folders.write(tmp_path, "cascade"), tmp_path / "model"
        assert run(["models", "import", str(folder), "-o", str(out), "--orientation", "stored", "--name", "both"]) == 0
        assert run(["models", "show", str(out)]) == 0
        assert "second-stage" in capsys.readouterr().out
        study = str(images(tmp_path)[0])
        assert run(["segment", study, "-m", str(out), "-o", str(tmp_path / "out"), "--report", "none"]) == 3
        result = json.loads((tmp_path / "out" / "result.json").read_text())
        assert {item["label"] for item in result["measurements"]} == {"liver", "spleen"}
        assert any(flag["code"] == "axes_assumed" for flag in result["flags"])
        assert run(["segment", study, "-m", str(out / "second-stage"), "-o", str(tmp_path / "alone")]) == 1
        assert "the second network of a cascade, without labels of the first" in capsys.readouterr().err

    def test_an_unknown_modality_is_wrong_usage(self, tmp_path, capsys):
        folder = nnunet_folders.write(tmp_path, "isotropic")
        assert run(["models", "import", str(folder), "-o", str(tmp_path / "model"), "--modality", "XR"]) == 2
        assert "modality 'XR'" in capsys.readouterr().err

    def test_refuses_to_replace_a_model_unless_asked(self, tmp_path):
        folder = nnunet_folders.write(tmp_path, "isotropic")
        import_model(folder, tmp_path / "model", STORED)
        with pytest.raises(OutputExistsError, match="holds a model already"):
            import_model(folder, tmp_path / "model", STORED)
        import_model(folder, tmp_path / "model", replace(STORED, overwrite=True, mirroring=False))

    def test_one_fold_of_two_and_mirroring_on_request(self, tmp_path):
        folder = nnunet_folders.write(tmp_path, "channels")
        assert import_model(folder, tmp_path / "both", STORED).spec.members == 2
        assert import_model(folder, tmp_path / "one", replace(STORED, folds=("1",))).spec.members == 1
        residual = nnunet_folders.write(tmp_path / "residual", "residual")
        assert import_model(residual, tmp_path / "with", STORED).spec.window.mirror_axes == (0, 1, 2)
        plain = import_model(residual, tmp_path / "without", replace(STORED, mirroring=False))
        assert plain.spec.window.mirror_axes == ()

    def test_the_axes_of_the_training_images_can_be_named(self, tmp_path):
        folder = nnunet_folders.write(tmp_path, "old-plans")
        assert import_model(folder, tmp_path / "a").spec.orientation == "ASR"
        assert import_model(folder, tmp_path / "b", ImportOptions(orientation="LPS")).spec.orientation == "PSL"
        change(folder / "plans.json", image_reader_writer="SimpleITKIO")
        assert import_model(folder, tmp_path / "c", ImportOptions(orientation="lps")).spec.orientation == "PSL"

    def test_voxel_sizes_of_the_fingerprint_become_the_training_domain(self, tmp_path):
        folder = nnunet_folders.write(tmp_path, "old-plans")
        (folder / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[1, 2, 3], [2, 5, 3]]}))
        spans = import_model(folder, tmp_path / "model").spec.training_domain.spacing_mm
        assert [(span.low, span.high) for span in spans] == [(2, 5), (1, 2), (3, 3)]


class TestAxes:
    """nnU-Net takes axes as they are stored; TotalSegmentator turns every image to RAS before."""

    @pytest.mark.parametrize("number", TOTALSEGMENTATOR)
    def test_each_model_of_totalsegmentator_is_known_by_number_and_name(self, number, folder):
        change(folder / "plans.json", dataset_name=f"Dataset{number:03}_{TOTALSEGMENTATOR[number]}_1088subj")
        arrival = import_model(folder, folder.parent / "model")
        assert arrival.spec.orientation == "SAR"
        assert "turns images to RAS" in arrival.notes[0]

    def test_by_the_name_of_the_folder_where_the_plans_have_another(self, folder):
        named = folder.parent / "Dataset299_body_1559subj" / folder.name
        named.parent.mkdir()
        folder.rename(named)
        assert import_model(named.parent, folder.parent / "model").spec.orientation == "SAR"

    @pytest.mark.parametrize("name", ["Dataset299_liver", "Dataset298_body_1559subj", "Dataset777_Seeded", ""])
    def test_another_dataset_of_the_same_number_or_name_is_refused_without_an_orientation(self, name, folder):
        change(folder / "plans.json", dataset_name=name)
        refused(folder, "as they are stored")
        assert import_model(folder, folder.parent / "model", STORED).spec.orientation == "KJI"

    def test_an_image_stored_in_lps_gives_the_labels_of_the_same_image_in_ras(self, folder):
        change(folder / "plans.json", dataset_name="Dataset850_TotalSegMRI_part1_organs_1088subj")
        import_model(folder, folder.parent / "model")
        path = images(folder.parent)[0]
        stored = nibabel.load(path)
        assert nibabel.aff2axcodes(stored.affine) == ("L", "P", "S")
        nibabel.save(nibabel.as_closest_canonical(stored), folder.parent / "ras.nii.gz")
        found = segment([read_volume(path)], folder.parent / "model", device="cpu").array
        canonical = segment([read_volume(folder.parent / "ras.nii.gz")], folder.parent / "model", device="cpu").array
        assert np.array_equal(found[::-1, ::-1], canonical)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_configuration(folder: Path, **values) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"] |= values
    (folder / "plans.json").write_text(json.dumps(plans))


def change_network(folder: Path, **values) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= values
    (folder / "plans.json").write_text(json.dumps(plans))


@pytest.fixture
def folder(tmp_path):
    return nnunet_folders.write(tmp_path, "isotropic")


def refused(folder: Path, words: str, **options) -> None:
    out = folder.parent / "refused"
    if words != "as they are stored":
        options = {"orientation": "stored"} | options
    with pytest.raises(ModelError, match=words):
        import_model(folder, out, ImportOptions(**options))
    assert not out.exists(), "nothing is left of a model that was refused"


class TestRefusals:
    def test_a_cascade_without_its_first_stage(self, folder):
        change_configuration(folder, previous_stage="3d_lowres")
        refused(folder, "without nnUNetTrainer__nnUNetPlans__3d_lowres beside it")

    def test_a_cascade_whose_stages_lead_in_a_circle_or_elsewhere(self, folder):
        change_configuration(folder, previous_stage="3d_fullres")
        refused(folder, "names 3d_fullres as a stage before it")
        change_configuration(folder, previous_stage="../../elsewhere")
        refused(folder, "not as its format has it")

    def test_patches_and_voxels_of_other_dimensions(self, folder):
        change_configuration(folder, patch_size=[64, 64])
        refused(folder, r"patches \[64, 64\] of voxels \[1\.5, 1\.5, 1\.5\]")
        change_configuration(folder, patch_size=[64], spacing=[1.0])
        refused(folder, "two sizes each, or three")

    def test_a_missing_fold_and_no_fold(self, folder):
        refused(folder, r"fold_3/checkpoint_final\.pth", folds=("0", "3"))
        (folder / "fold_0" / "checkpoint_final.pth").unlink()
        refused(folder, "in no fold")

    def test_weights_of_another_network(self, folder):
        change_network(folder, features_per_stage=[6, 10, 16])
        refused(folder, r"transpconvs\.0\.weight with shape \(12,")
        change_network(folder, n_conv_per_stage=[2, 2, 3], features_per_stage=[6, 10, 12])
        refused(folder, r"with shape None")

    def test_plans_of_an_unknown_kind(self, folder):
        plans = json.loads((folder / "plans.json").read_text())
        del plans["configurations"]["3d_fullres"]["architecture"]
        (folder / "plans.json").write_text(json.dumps(plans))
        refused(folder, "neither architecture nor UNet_class_name")
        (folder / "plans.json").write_text('{"planned": 1}')
        refused(folder, "without configurations, transpose_forward")
        (folder / "plans.json").write_text("{")
        refused(folder, r"plans\.json cannot be read")

    def test_version_1(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "plans.pkl").write_bytes(b"")
        refused(tmp_path / "model", "nnU-Net version 1")

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"normalization_schemes": ["RGBTo01Normalization"]}, "RGBTo01Normalization"),
            ({"resampling_fn_data": "no_resampling_data_or_seg_to_shape"}, "no_resampling"),
            ({"resampling_fn_data_kwargs": {"order": 3, "order_z": 1}}, "1 across slices"),
            ({"resampling_fn_probabilities_kwargs": {"order": 2}}, "of order 2"),
            ({"patch_size": "x"}, "two sizes each, or three"),
            ({"spacing": 3}, "not as its format has it"),
            ({"resampling_fn_data_kwargs": {"order": 3, "force_separate_z": True}}, "force_separate_z"),
            ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
            ({"normalization_schemes": []}, "0 normalisation schemes"),
        ],
    )
    def test_what_is_not_reproduced_is_named(self, folder, values, words):
        change_configuration(folder, **values)
        refused(folder, words)

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"norm_op": "torch.nn.BatchNorm3d"}, "BatchNorm3d"),
            ({"nonlin": "torch.nn.GELU"}, "GELU"),
            ({"bottleneck_channels": [4, 4, 4]}, "bottleneck_channels"),
        ],
    )
    def test_a_layer_that_is_not_reproduced_is_named(self, folder, values, words):
        change_network(folder, **values)
        refused(folder, words)

    def test_another_network_reader_or_label_manager(self, folder):
        change(folder / "plans.json", image_reader_writer="Tiff3DIO")
        refused(folder, "Tiff3DIO")
        change(folder / "plans.json", image_reader_writer="SimpleITKIO", label_manager="Mine")
        refused(folder, "label_manager Mine")
        change_configuration(folder, architecture={"network_class_name": "my.Primus", "arch_kwargs": {}})
        change(folder / "plans.json", label_manager="LabelManager")
        refused(folder, "network Primus")

    def test_labels_with_a_gap_and_regions_without_an_order(self, folder):
        change(folder / "dataset.json", labels={"background": 0, "a": 1, "b": 3})
        refused(folder, "without a gap")
        change(folder / "dataset.json", labels={"background": 0, "a": [1, 2], "b": 2})
        refused(folder, "regions_class_order None")

    def test_a_channel_that_does_not_tell_its_modality(self, folder):
        change(folder / "dataset.json", channel_names={"0": "image"})
        refused(folder, "does not tell its modality")
        out = folder.parent / "told"
        assert import_model(folder, out, replace(STORED, modalities=("MR",))).spec.inputs[0].modality == "MR"

    def test_a_folder_of_neither_kind(self, tmp_path):
        with pytest.raises(ModelError, match="holds nothing"):
            import_model(tmp_path, tmp_path / "out")
        with pytest.raises(ModelError, match="is no folder"):
            import_model(tmp_path / "none", tmp_path / "out")


class Evil:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class TestCheckpoints:
    def test_a_pickle_with_code_is_refused_and_not_run(self, folder, tmp_path):
        path, mark = folder / "fold_0" / "checkpoint_final.pth", tmp_path / "ran"
        content = read_checkpoint(path)
        torch.save(content | {"logging": Evil(mark)}, path)
        torch.load(path, weights_only=False)
        assert mark.exists(), "the pickle should be a real one"
        mark.unlink()
        refused(folder, "more than numbers.*system")
        assert not mark.exists()

    def test_a_plain_pickle_with_code_is_refused_and_not_run(self, folder, tmp_path):
        mark = tmp_path / "ran"
        (folder / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps(Evil(mark)))
        refused(folder, "checkpoint_final.pth")
        assert not mark.exists()

    def test_a_file_that_unpacks_to_more_than_it_is(self, folder, tmp_path):
        path = folder / "fold_0" / "checkpoint_final.pth"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/0", bytes(50_000_000))
        assert path.stat().st_size < 100_000
        refused(folder, "unpacks to 50")

    def test_tensors_that_repeat_their_memory(self, folder):
        path = folder / "fold_0" / "checkpoint_final.pth"
        content = read_checkpoint(path)
        name = next(iter(content["network_weights"]))
        content["network_weights"][name] = torch.zeros(1).expand(10**6)
        torch.save(content, path)
        refused(folder, "whose memory holds fewer values")

    def test_numpy_scalars_are_numbers_and_nothing_else(self, tmp_path):
        path = tmp_path / "some.pth"
        torch.save({"a": np.float64(0.5), "b": [np.int32(-3), np.bool_(True)]}, path)
        assert read_checkpoint(path) == {"a": 0.5, "b": [-3, True]}
        torch.save({"a": np.str_("text")}, path)
        with pytest.raises(ModelError, match="more than numbers"):
            read_checkpoint(path)
        torch.save({"a": np.zeros(3)}, path)
        with pytest.raises(ModelError, match="more than numbers"):
            read_checkpoint(path)

    def test_a_damaged_file_a_missing_one_and_a_bare_list(self, tmp_path):
        path = tmp_path / "some.pth"
        with pytest.raises(ModelError, match="cannot be read"):
            read_checkpoint(path)
        torch.save({"a": torch.zeros(3)}, path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ModelError, match="cannot be read"):
            read_checkpoint(path)
        torch.save([1, 2], path)
        with pytest.raises(ModelError, match="holds a list"):
            read_checkpoint(path)
