"""NIfTI headers that contradict themselves or the file, pairs of files, and streams with something behind them."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

import phantoms
from voxmetry import read_segmentation, read_volume
from voxmetry.errors import FormatError, GeometryError, InputError, LabelError

AFFINE = phantoms.geometry().affine.astype(np.float32).astype(np.float64)
ARRAY = phantoms.volume().array
XYZT, VOX_OFFSET, PIXDIM = 123, 108, 80


def write(path, *, at=None, value=b"", order="<", version=1):
    """A NIfTI file with some bytes of its header replaced."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind(ARRAY.astype(ARRAY.dtype.newbyteorder(order)), AFFINE)
    image.header.set_xyzt_units("mm")
    if order == ">":
        image = kind(image.dataobj, AFFINE, image.header.as_byteswapped(">"))
    nib.save(image, path)
    if at is not None:
        content = bytearray(path.read_bytes())
        content[at : at + len(value)] = value
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("units", [4, 5, 6, 7, 255, 1, 3])
def test_a_unit_that_is_not_mm_is_refused_in_words(tmp_path, units):
    with pytest.raises(GeometryError, match="says that its lengths are in"):
        read_volume(write(tmp_path / "a.nii", at=XYZT, value=bytes([units])))


@pytest.mark.parametrize("units", [2, 2 + 8, 2 + 128])
def test_units_of_time_do_not_matter(tmp_path, units):
    assert read_volume(write(tmp_path / "a.nii", at=XYZT, value=bytes([units]))).geometry.spacing_mm[0] > 0


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, -352.0, 1e30, 352.5, 3e9])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_that_begin_nowhere(tmp_path, offset, order, packed):
    path = write(tmp_path / "a.nii", at=VOX_OFFSET, value=struct.pack(order + "f", offset), order=order)
    if packed:
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "a.nii.gz"
    with pytest.raises(FormatError, match="its voxels begin at byte"):
        read_volume(path)


def test_an_offset_of_nifti_2_is_looked_at_too(tmp_path):
    with pytest.raises(FormatError, match="its voxels begin at byte"):
        read_volume(write(tmp_path / "a.nii", at=168, value=struct.pack("<q", 1 << 62), version=2))


class TestSizesOfVoxels:
    @pytest.mark.parametrize("qform_code", [0, 1])
    def test_an_sform_of_unit_vectors_beside_other_sizes_is_refused(self, tmp_path, qform_code):
        image = nib.Nifti1Image(ARRAY, np.eye(4))
        image.header.set_sform(np.eye(4), 1)
        image.header.set_qform(np.diag([0.4, 0.4, 6.0, 1]), qform_code)
        image.header["pixdim"][1:4] = (0.4, 0.4, 6.0)
        nib.save(image, tmp_path / "a.nii")
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[PIXDIM : PIXDIM + 12] = struct.pack("<3f", 0.4, 0.4, 6.0)  # nibabel wrote those of the affine
        (tmp_path / "a.nii").write_bytes(content)
        with pytest.raises(GeometryError, match=r"1 x 1 x 1 mm by the sform, .*0\.4 x 0\.4 x 6 mm by"):
            read_volume(tmp_path / "a.nii")

    @pytest.mark.parametrize("sizes", [(1, 1, 1), (0, 0, 0), (np.nan, 1, 1)])
    def test_sizes_that_nobody_set_say_nothing(self, tmp_path, sizes):
        image = nib.Nifti1Image(ARRAY, None)
        image.header.set_sform(AFFINE, 1)
        nib.save(image, tmp_path / "a.nii")
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[PIXDIM : PIXDIM + 12] = struct.pack("<3f", *sizes)
        (tmp_path / "a.nii").write_bytes(content)
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii").geometry.affine, AFFINE, atol=1e-5)


class TestPairs:
    @pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
    @pytest.mark.parametrize("named", ["a.hdr", "a.img"])
    @pytest.mark.parametrize("packed", ["", ".gz"])
    def test_either_file_stands_for_both(self, tmp_path, kind, named, packed):
        nib.save(kind(ARRAY, AFFINE), tmp_path / f"a.img{packed}")
        volume = read_volume(tmp_path / (named + packed))
        np.testing.assert_array_equal(volume.array, ARRAY)
        np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-5)

    def test_labels_too(self, tmp_path):
        nib.save(nib.Nifti1Pair(phantoms.segmentation().array, AFFINE), tmp_path / "a.img")
        assert read_segmentation(tmp_path / "a.hdr").labels.values == (1, 4)

    @pytest.mark.parametrize("gone", ["a.img", "a.hdr"])
    def test_half_a_pair(self, tmp_path, gone):
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.img")
        (tmp_path / gone).unlink()
        with pytest.raises(FormatError, match=f"{gone} is not beside it"):
            read_volume(tmp_path / ("a.hdr" if gone == "a.img" else "a.img"))

    def test_analyze_is_refused_for_its_sides(self, tmp_path):
        nib.save(nib.AnalyzeImage(ARRAY, np.diag([2.0, 2, 3, 1])), tmp_path / "a.img")
        with pytest.raises(FormatError, match="Analyze"):
            read_volume(tmp_path / "a.img")

    def test_a_pair_that_ends_too_early(self, tmp_path):
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.img")
        (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-9])
        with pytest.raises(FormatError, match="too few"):
            read_volume(tmp_path / "a.hdr")


class TestStreams:
    @pytest.mark.parametrize("behind", [b"\0" * 700, b"junk" * 30, b"\x1f", b"BZh9"])
    def test_what_follows_the_stream_is_left_alone(self, tmp_path, behind):
        path = write(tmp_path / "a.nii")
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()) + behind)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, ARRAY)

    def test_streams_one_after_the_other_are_one_file(self, tmp_path):
        content = write(tmp_path / "a.nii").read_bytes()
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, ARRAY)

    def test_the_second_stream_must_be_whole(self, tmp_path):
        content = write(tmp_path / "a.nii").read_bytes()
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:])[:-5])
        with pytest.raises(FormatError, match="too early"):
            read_volume(tmp_path / "a.nii.gz")

    def test_a_stream_that_goes_on_far_beyond_its_voxels(self, tmp_path):
        content = write(tmp_path / "a.nii").read_bytes()
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(1 << 25)))
        with pytest.raises(FormatError, match="holds more voxels than its header says"):
            read_volume(tmp_path / "a.nii.gz")


class TestLabelsAsRealNumbers:
    def test_rounding_is_taken_back(self, tmp_path):
        labels = phantoms.segmentation().array
        nib.save(nib.Nifti1Image(labels * np.float32(1.0000001), AFFINE), tmp_path / "a.nii")
        found = read_segmentation(tmp_path / "a.nii")
        assert found.array.dtype == np.uint8
        np.testing.assert_array_equal(found.array, labels)

    def test_a_fraction_is_none(self, tmp_path):
        labels = phantoms.segmentation().array.astype(np.float32)
        labels[3, 4, 4] = 0.99
        nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "a.nii")
        with pytest.raises(LabelError, match="fractions"):
            read_segmentation(tmp_path / "a.nii")


class TestFoundByDamage:
    """What `python -m tests.fuzz` found on the first version of these readers."""

    def test_a_pair_whose_voxels_begin_nowhere(self, tmp_path):
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.img")
        content = bytearray((tmp_path / "a.hdr").read_bytes())
        content[VOX_OFFSET : VOX_OFFSET + 4] = struct.pack("<f", np.nan)
        (tmp_path / "a.hdr").write_bytes(content)
        with pytest.raises(FormatError, match="its voxels begin at byte nan"):
            read_volume(tmp_path / "a.hdr")

    def test_an_sform_of_numbers_that_signal(self, tmp_path):
        # Widening such a NaN raises a warning, which the user would see.
        with pytest.raises(GeometryError, match="an sform that is not finite"):
            read_volume(write(tmp_path / "a.nii", at=280, value=struct.pack("<I", 0x7FA00000)))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_sform_that_is_not_finite(self, tmp_path, value):
        with pytest.raises(GeometryError, match="an sform that is not finite"):
            read_volume(write(tmp_path / "a.nii", at=280, value=struct.pack("<f", value)))

    def test_a_slope_that_overflows(self, tmp_path):
        with pytest.raises(InputError, match="NaN or infinite"):
            read_volume(write(tmp_path / "a.nii", at=112, value=struct.pack("<ff", 3e38, 1e30)))

    @pytest.mark.parametrize("slope", [np.inf, -np.inf])
    def test_a_slope_that_is_infinite(self, tmp_path, slope):
        with pytest.raises(FormatError, match="the slope is infinite"):
            read_volume(write(tmp_path / "a.nii", at=112, value=struct.pack("<ff", slope, 0)))

    @pytest.mark.parametrize("axes", [0, 8, 32767, -3])
    def test_a_number_of_axes_that_nifti_has_not(self, tmp_path, axes):
        with pytest.raises(FormatError):
            read_volume(write(tmp_path / "a.nii", at=40, value=struct.pack("<h", axes)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("spare", "taken"), [(64, True), (65, False), (ARRAY.nbytes, False)])
def test_more_voxels_than_the_header_says_are_refused_as_in_nrrd_and_metaimage(tmp_path, spare, taken, order, packed):
    """One of the sizes is wrong then, and each voxel may be in a wrong place; a few bytes of padding are none."""
    path = write(tmp_path / "a.nii", order=order)
    content = path.read_bytes() + bytes(spare)
    if packed:
        path = tmp_path / "a.nii.gz"
        content = gzip.compress(content)
    path.write_bytes(content)
    if taken:
        np.testing.assert_array_equal(read_volume(path).array, ARRAY)
        return
    with pytest.raises(FormatError, match="holds more voxels than its header says"):
        read_volume(path)
