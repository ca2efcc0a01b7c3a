"""NIfTI: which affine, which type, and what is refused. nibabel writes the input and reads the output."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation, Volume, read_segmentation, read_volume, save
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import FormatError, GeometryError, InputError, OutputError
from voxmetry.io.nifti import read_nifti, read_nifti_grid

AFFINE = phantoms.geometry().affine.astype(np.float32).astype(np.float64)
ARRAY = phantoms.volume().array


def write(path, *, array=ARRAY, sform=(AFFINE, 1), qform=(AFFINE, 1), kind=nib.Nifti1Image, edit=None):
    """Write a file with exactly these affines and codes."""
    image = kind(array, None)
    image.header.set_qform(*qform)
    image.header.set_sform(*sform)
    image.header.set_xyzt_units("mm")
    if edit:
        edit(image.header)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_reads_what_nibabel_reads(tmp_path, name, kind):
    path = write(tmp_path / name, kind=kind)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.geometry.affine, nib.load(path).affine)
    assert volume.array.dtype == np.int16


def test_modality_ct_means_hounsfield_units(tmp_path):
    path = write(tmp_path / "a.nii")
    assert read_volume(path, modality="CT").unit == "HU"
    assert read_volume(path, modality="MR").unit == "1"


class TestAffine:
    def test_sform_is_taken_where_codes_name_two_spaces(self, tmp_path):
        moved = AFFINE.copy()
        moved[:3, 3] += 40
        path = write(tmp_path / "a.nii", sform=(AFFINE, 2), qform=(moved, 1))
        np.testing.assert_array_equal(read_volume(path).geometry.affine, AFFINE)

    def test_qform_is_taken_where_sform_has_no_code(self, tmp_path):
        path = write(tmp_path / "a.nii", sform=(np.diag([9.0, 9, 9, 1]), 0))
        geometry = read_volume(path).geometry
        np.testing.assert_array_equal(geometry.affine, nib.load(path).header.get_qform())
        np.testing.assert_allclose(geometry.affine, AFFINE, atol=1e-5)

    def test_no_code_is_refused(self, tmp_path):
        path = write(tmp_path / "a.nii", sform=(AFFINE, 0), qform=(AFFINE, 0))
        with pytest.raises(GeometryError, match=r"a\.nii has no usable affine: sform code 0, qform code 0"):
            read_volume(path)

    def test_a_quaternion_that_is_no_rotation_is_refused(self, tmp_path):
        def break_it(header):
            header["quatern_b"] = header["quatern_c"] = 0.9

        path = write(tmp_path / "a.nii", sform=(AFFINE, 0), edit=break_it)
        with pytest.raises(GeometryError, match="a quaternion that is no rotation"):
            read_volume(path)

    def test_mirror_images_are_refused(self, tmp_path):
        mirrored = AFFINE @ np.diag([-1.0, 1, 1, 1])
        path = write(tmp_path / "a.nii", qform=(mirrored, 2))
        with pytest.raises(GeometryError, match="one is the mirror image of the other"):
            read_volume(path)

    def test_two_voxel_sizes_are_refused(self, tmp_path):
        scaled = AFFINE @ np.diag([1.1, 1, 1, 1])
        path = write(tmp_path / "a.nii", sform=(scaled, 4))
        with pytest.raises(GeometryError, match=r"voxels of 0\.99 x 1\.3 x 2\.6 mm by the sform"):
            read_volume(path)

    @pytest.mark.parametrize(("shift", "refused"), [(0.3, False), (0.8, True)])
    def test_two_places_in_one_space_are_refused_from_half_a_voxel(self, tmp_path, shift, refused):
        moved = AFFINE.copy()
        moved[0, 3] += shift
        path = write(tmp_path / "a.nii", qform=(moved, 1))
        if refused:
            with pytest.raises(GeometryError, match=r"corners 0\.8 mm apart though both codes name the same space"):
                read_volume(path)
        else:
            np.testing.assert_array_equal(read_volume(path).geometry.affine, AFFINE)

    def test_a_sheared_sform_is_no_contradiction(self, tmp_path):
        sheared = AFFINE.copy()
        sheared[:3, 2] += 0.3 * AFFINE[:3, 1]
        lengths = np.linalg.norm(sheared[:3, :3], axis=0)
        path = write(tmp_path / "a.nii", sform=(sheared, 1), qform=(AFFINE @ np.diag([1, 1, lengths[2] / 2.6, 1]), 1))
        np.testing.assert_allclose(read_volume(path).geometry.affine, sheared, atol=1e-5)

    def test_a_singular_affine_is_refused_by_name(self, tmp_path):
        flat = AFFINE.copy()
        flat[:3, 2] = flat[:3, 1]
        path = write(tmp_path / "a.nii", sform=(flat, 1), qform=(AFFINE, 0))
        with pytest.raises(GeometryError, match=r"a\.nii: a singular affine"):
            read_volume(path)

    @pytest.mark.parametrize("unit", ["micron", "meter"])
    def test_other_units_than_millimetres_are_refused(self, tmp_path, unit):
        path = write(tmp_path / "a.nii", edit=lambda header: header.set_xyzt_units(unit))
        with pytest.raises(GeometryError, match=f"lengths are in {unit}"):
            read_volume(path)

    def test_an_unknown_unit_means_millimetres(self, tmp_path):
        path = write(tmp_path / "a.nii", edit=lambda header: header.set_xyzt_units("unknown"))
        assert read_volume(path).geometry.spacing_mm == pytest.approx(phantoms.SPACING_MM, abs=1e-6)


class TestVoxels:
    def scaled(self, tmp_path, dtype, slope, inter):
        image = nib.Nifti1Image(ARRAY.astype(dtype), AFFINE)
        image.header.set_slope_inter(slope, inter)
        path = tmp_path / "a.nii.gz"
        with gzip.open(path, "wb") as file:
            image.header.write_to(file)
            file.write(ARRAY.astype(image.header.get_data_dtype()).tobytes(order="F"))
        return path

    @pytest.mark.parametrize(
        ("dtype", "slope", "inter", "kind"),
        [("int16", 0.5, -3, "float32"), ("int32", 0.5, -3, "float64"), ("float32", 2, 0, "float32")],
    )
    def test_scaling_is_applied(self, tmp_path, dtype, slope, inter, kind):
        volume = read_volume(self.scaled(tmp_path, dtype, slope, inter))
        assert volume.array.dtype == kind
        np.testing.assert_array_equal(volume.array, ARRAY * slope + inter)

    def test_scaling_by_one_keeps_the_type(self, tmp_path):
        assert read_volume(self.scaled(tmp_path, "int16", 1, 0)).array.dtype == np.int16

    def test_big_endian(self, tmp_path):
        header = nib.Nifti1Header(endianness=">")
        nib.save(nib.Nifti1Image(ARRAY, AFFINE, header), tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        assert volume.array.dtype.isnative
        np.testing.assert_array_equal(volume.array, ARRAY)

    def test_nan_is_refused_by_name(self, tmp_path):
        array = ARRAY.astype(np.float32)
        array[0, 0, :2] = np.nan
        with pytest.raises(InputError, match=r"a\.nii: 2 of 2431 voxels are NaN or infinite"):
            read_volume(write(tmp_path / "a.nii", array=array))

    def test_a_fourth_axis_of_one_is_dropped(self, tmp_path):
        assert read_volume(write(tmp_path / "a.nii", array=ARRAY[..., None])).array.shape == phantoms.SHAPE

    def test_four_dimensions_are_refused_with_the_way_out(self, tmp_path):
        path = write(tmp_path / "a.nii", array=np.stack([ARRAY] * 5, axis=-1))
        with pytest.raises(InputError, match=r"holds 5 volumes \(shape 13 x 17 x 11 x 5\)") as caught:
            read_volume(path)
        assert "slicer" in caught.value.fix

    def test_one_slice_needs_a_third_axis(self, tmp_path):
        assert read_volume(write(tmp_path / "a.nii", array=ARRAY[:, :, :1])).array.shape == (13, 17, 1)
        with pytest.raises(InputError, match="has 2 axes"):
            read_volume(write(tmp_path / "b.nii", array=ARRAY[:, :, 0]))

    @pytest.mark.parametrize(
        ("dtype", "words"), [("complex64", "complex numbers"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "colour")]
    )
    def test_more_than_one_number_a_voxel_is_refused(self, tmp_path, dtype, words):
        with pytest.raises(InputError, match=words):
            read_volume(write(tmp_path / "a.nii", array=np.zeros(phantoms.SHAPE, dtype)))


class TestDamage:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
    def test_a_truncated_file_is_refused(self, tmp_path, name, share):
        content = write(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(FormatError, match=f"{name} cannot be read as NIfTI"):
            read_volume(tmp_path / name)

    def test_a_flipped_bit_in_compressed_voxels_is_found(self, tmp_path):
        path = write(tmp_path / "a.nii.gz")
        content = bytearray(path.read_bytes())
        content[-6] ^= 1  # in the checksum: what was unpacked before it looks sound
        path.write_bytes(content)
        with pytest.raises(FormatError, match="checksum"):
            read_volume(path)

    def test_a_size_that_the_file_cannot_hold_takes_no_memory(self, tmp_path):
        path = write(tmp_path / "a.nii.gz")
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[42:48] = b"\xff\x7f" * 3
        path.write_bytes(gzip.compress(bytes(content)))
        with pytest.raises(FormatError, match="too few for"):
            read_volume(path)

    def test_another_format_under_this_name(self, tmp_path):
        (tmp_path / "a.nii").write_bytes(b"\x89PNG" + bytes(1000))
        with pytest.raises(FormatError, match="header"):
            read_volume(tmp_path / "a.nii")

    def test_the_header_of_a_pair_is_refused(self, tmp_path):
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.hdr")
        (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
        with pytest.raises(FormatError):
            read_volume(tmp_path / "a.nii")


class TestWriting:
    @pytest.mark.parametrize("form", ["sform", "qform", "both"])
    def test_the_segmentation_has_the_source_affine_to_the_last_bit(self, tmp_path, form):
        codes = {"sform": (1, 0), "qform": (0, 1), "both": (1, 1)}[form]
        source = write(tmp_path / "a.nii", sform=(AFFINE, codes[0]), qform=(AFFINE, codes[1]))
        geometry = read_volume(source).geometry
        save(phantoms.segmentation(geometry), tmp_path / "seg.nii.gz")
        written = nib.load(tmp_path / "seg.nii.gz")
        np.testing.assert_array_equal(written.affine, nib.load(source).affine)
        np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.nii.gz").geometry.affine, geometry.affine)
        assert written.get_data_dtype() == np.uint8

    def test_the_qform_is_set_too_where_it_holds_the_affine(self, tmp_path):
        save(phantoms.volume(), tmp_path / "a.nii")
        header = nib.load(tmp_path / "a.nii").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 2)
        np.testing.assert_allclose(header.get_qform(), phantoms.geometry().affine, atol=1e-4)

    def test_the_qform_is_not_set_for_a_shear(self, tmp_path):
        sheared = AFFINE.copy()
        sheared[:3, 2] += 0.3 * AFFINE[:3, 1]
        save(phantoms.volume(Geometry(sheared, phantoms.SHAPE)), tmp_path / "a.nii")
        header = nib.load(tmp_path / "a.nii").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 0)
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii").geometry.affine, sheared, atol=1e-5)

    def test_an_image_from_dicom_is_in_scanner_space(self, tmp_path):
        source = SeriesInfo(series_uid="1.2", n_files=11, n_slices=11, verdict="regular")
        save(Volume(ARRAY, phantoms.geometry(), source=source), tmp_path / "a.nii")
        assert int(nib.load(tmp_path / "a.nii").header["sform_code"]) == 1

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_values_and_type_survive(self, tmp_path, dtype, order):
        array = np.asarray(ARRAY % 200, dtype=dtype, order=order)
        save(Volume(array, phantoms.geometry()), tmp_path / "a.nii.gz")
        again = read_volume(tmp_path / "a.nii.gz").array
        assert again.dtype == dtype
        np.testing.assert_array_equal(again, array)
        np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj), array)

    def test_half_precision_is_widened(self, tmp_path):
        save(Volume(ARRAY.astype(np.float16), phantoms.geometry()), tmp_path / "a.nii")
        assert read_volume(tmp_path / "a.nii").array.dtype == np.float32

    def test_the_same_image_gives_the_same_bytes(self, tmp_path):
        for name in ("a.nii.gz", "b.nii.gz"):
            save(phantoms.segmentation(), tmp_path / name)
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()

    def test_label_names_are_inside_for_other_readers_too(self, tmp_path):
        table = LabelTable.from_names({1: "foie", 300: "rate"})
        array = np.zeros(phantoms.SHAPE, np.uint16)
        array[2, 3, 4] = 300
        save(Segmentation(array, phantoms.geometry(), table), tmp_path / "seg.nii.gz")
        (extension,) = nib.load(tmp_path / "seg.nii.gz").header.extensions
        assert extension.get_code() == 6
        assert b'"name":"foie"' in extension.get_content()
        again = read_segmentation(tmp_path / "seg.nii.gz")
        assert again.labels == table
        np.testing.assert_array_equal(again.array, array)

    def test_an_axis_beyond_the_format_is_refused(self, tmp_path):
        with pytest.raises(OutputError, match="at most 32767"):
            save(Volume(np.zeros((40000, 1, 1), np.uint8), Geometry(np.eye(4), (40000, 1, 1))), tmp_path / "a.nii")
        assert not list(tmp_path.iterdir())


def test_the_grid_of_a_file_that_was_cut_off_is_known(tmp_path):
    # A cohort lists such a file as a study that fails; it is not left out without a word.
    path = tmp_path / "cut.nii.gz"
    save(phantoms.volume(phantoms.geometry(shape=(40, 41, 42))), path)
    path.write_bytes(path.read_bytes()[:900])
    geometry, _ = read_nifti_grid(path)
    assert geometry.shape == (40, 41, 42)
    with pytest.raises(FormatError):
        read_nifti(path)
