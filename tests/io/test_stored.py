"""NRRD and MetaImage in every form that the formats know, compared with pynrrd and SimpleITK; and what is refused."""

from __future__ import annotations

import bz2
import gzip
import os
import zlib

import nrrd as pynrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from io_headers import SIZES, VOXELS, meta, nrrd, raw
from voxmetry import read_volume
from voxmetry.core.geometry import swap_lps_ras
from voxmetry.errors import FormatError, GeometryError, InputError

PLACE = [[-2, 0, 0, -10], [0, -2.5, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1]]
"""The affine in RAS+ mm of the headers as they are written."""
PACKED = {"gzip": gzip.compress, "bzip2": bz2.compress}


def itk_says(path):
    """The voxels (I, J, K) and the affine in RAS that SimpleITK reads."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), swap_lps_ras(affine)


def check(path, array=VOXELS):
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == array.dtype.newbyteorder("=")
    return volume


class TestNrrd:
    @pytest.mark.parametrize("encoding", ["raw", "gzip", "gz", "bzip2", "ascii", "hex"])
    @pytest.mark.parametrize("detached", [False, True])
    def test_encodings_as_pynrrd_reads_them(self, tmp_path, encoding, detached):
        words = " ".join(map(str, VOXELS.ravel(order="F"))).encode()
        pack = {**PACKED, "gz": gzip.compress, "ascii": lambda _: words, "hex": lambda x: x.hex().encode()}
        voxels = pack.get(encoding, bytes)(raw())
        if detached:
            (tmp_path / "sub").mkdir()
            (tmp_path / "sub" / "a.data").write_bytes(voxels)
            path = nrrd(tmp_path / "a.nhdr", encoding=encoding, data_file="sub/a.data")
        else:
            path = nrrd(tmp_path / "a.nrrd", voxels, encoding=encoding)
        volume = check(path)
        np.testing.assert_allclose(
            volume.geometry.affine, np.diag([-2, -2.5, 3, 1]) + [[0] * 3 + [x] for x in (-10, 5, 7, 0)]
        )
        if encoding != "hex":  # which pynrrd does not know
            np.testing.assert_array_equal(pynrrd.read(str(path))[0], VOXELS)

    @pytest.mark.parametrize("endian", ["little", "big"])
    @pytest.mark.parametrize(("name", "kind"), [("double", "f8"), ("ulonglong", "u8"), ("uint", "u4"), ("int8", "i1")])
    def test_types_as_pynrrd_reads_them(self, tmp_path, endian, name, kind):
        array = np.abs(VOXELS % 100).astype(("<" if endian == "little" else ">") + kind)
        path = nrrd(tmp_path / "a.nrrd", raw(array), type=name, endian=endian)
        check(path, array)
        np.testing.assert_array_equal(pynrrd.read(str(path))[0], array)

    def test_lines_and_bytes_are_skipped(self, tmp_path):
        (tmp_path / "a.raw").write_bytes(b"a line\nanother\nxyz" + raw())
        check(nrrd(tmp_path / "a.nhdr", data_file="a.raw", line_skip="2", byte_skip="3"))
        check(nrrd(tmp_path / "b.nhdr", datafile="a.raw", byte_skip="-1"))

    def test_slices_in_files_of_their_own(self, tmp_path):
        for k in range(SIZES[2]):
            (tmp_path / f"s{k + 1:03d}.raw").write_bytes(raw(VOXELS[:, :, k]))
        names = "".join(f"s{k + 1:03d}.raw\n" for k in range(SIZES[2]))
        listed = nrrd(tmp_path / "l.nhdr", data_file="LIST 2", tail=names)
        numbered = nrrd(tmp_path / "n.nhdr", data_file="s%03d.raw 1 7 1")
        for path in (listed, numbered):
            check(path)
            np.testing.assert_array_equal(itk_says(path)[0], VOXELS)

    def test_an_oblique_grid_lies_where_itk_says(self, tmp_path):
        vectors = "(1.2,0.3,-0.1) (-0.4,1.9,0.2) (0.1,-0.3,2.5)"
        path = nrrd(tmp_path / "a.nrrd", raw(), space_directions=vectors)
        np.testing.assert_allclose(check(path).geometry.affine, itk_says(path)[1], atol=1e-6)

    def test_a_fourth_axis_of_one_layer_is_dropped(self, tmp_path):
        vectors = "none (2,0,0) (0,2.5,0) (0,0,3)"
        kinds = "list domain domain domain"
        check(nrrd(tmp_path / "a.nrrd", raw(), dimension="4", sizes="1 11 9 7", space_directions=vectors, kinds=kinds))


class TestNrrdRefusals:
    @pytest.mark.parametrize(
        ("fields", "error", "words"),
        [
            ({"space_directions": "none (0,1,0) (0,0,1)"}, GeometryError, "2 axes with a direction of 3"),
            ({"space_directions": "(1,0,0) (0,1,0)"}, GeometryError, "for 3 sizes"),
            ({"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}, GeometryError, "three finite numbers"),
            ({"space_directions": "(1,0,0) (0,1) (0,0,1)"}, GeometryError, "three finite numbers"),
            ({"space_directions": "(1,0,0) (0,1,0) (0,0,1) x"}, GeometryError, "a vector that is none"),
            ({"space_units": '"m" "m" "m"'}, GeometryError, "lengths in m m m"),
            ({"kinds": "vector domain domain"}, GeometryError, "kinds vector"),
            ({"kinds": "domain domain"}, GeometryError, "kinds"),
            ({"space": "scanner-xyz"}, GeometryError, "no usable space"),
            ({"sizes": "11 9 8"}, FormatError, "end too early"),
            ({"sizes": "11 9 3"}, FormatError, "more voxels than its header says"),
            ({"sizes": "11 9 -7"}, FormatError, "no sizes"),
            ({"sizes": "11 9"}, FormatError, "no sizes"),
            ({"sizes": "11 9 7000000000"}, FormatError, "end too early"),
            ({"type": "block"}, FormatError, "not known"),
            ({"encoding": "jpeg"}, FormatError, "not known"),
            ({"endian": None}, FormatError, "endian"),
            ({"byte_skip": "x"}, FormatError, "byte skip"),
            ({"encoding": "gzip"}, FormatError, "do not begin as gzip"),
        ],
    )
    def test_a_header_that_contradicts_itself(self, tmp_path, fields, error, words):
        with pytest.raises(error, match=words):
            read_volume(nrrd(tmp_path / "a.nrrd", raw() + b"\n", **fields))

    def test_voxels_counted_from_the_end_of_a_file_that_was_cut_off(self, tmp_path):
        """Else the end of the header is taken for voxels."""
        path = nrrd(tmp_path / "a.nrrd", raw(), byte_skip="-1")
        check(path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(FormatError, match="end too early"):
            read_volume(path)

    def test_a_field_that_is_said_twice(self, tmp_path):
        with pytest.raises(FormatError, match="'space origin' twice"):
            read_volume(nrrd(tmp_path / "a.nrrd", raw(), tail="space origin: (0,0,0)\n"))

    @pytest.mark.parametrize(("sizes", "axes"), [("11 9 7 2", "4 axes"), ("99 7", "2 axes")])
    def test_other_numbers_of_axes(self, tmp_path, sizes, axes):
        n = len(sizes.split())
        vectors = " ".join(["(2,0,0)", "(0,2.5,0)", "(0,0,3)", "none"][:n])
        path = nrrd(tmp_path / "a.nrrd", raw() * 2, sizes=sizes, dimension=str(n), space_directions=vectors, kinds=None)
        with pytest.raises(InputError, match=axes):
            read_volume(path)


class TestMetaImage:
    @pytest.mark.parametrize("packed", ["True", "False"])
    @pytest.mark.parametrize("msb", ["True", "False"])
    @pytest.mark.parametrize("data", ["LOCAL", "sub/a.raw"])
    def test_forms_as_itk_reads_them(self, tmp_path, packed, msb, data):
        voxels = raw(VOXELS.astype(">i2")) if msb == "True" else raw()
        voxels = zlib.compress(voxels) if packed == "True" else voxels
        (tmp_path / "sub").mkdir()
        if data != "LOCAL":
            (tmp_path / data).write_bytes(voxels)
        matrix = "0.6 0.8 0 -0.8 0.6 0 0 0 1"
        fields = {"BinaryDataByteOrderMSB": msb, "CompressedData": packed, "TransformMatrix": matrix}
        if packed == "True":
            fields["CompressedDataSize"] = str(len(voxels))
        path = meta(tmp_path / "a.mhd", voxels if data == "LOCAL" else b"", data=data, **fields)
        array, affine = itk_says(path)
        np.testing.assert_array_equal(array, VOXELS)
        np.testing.assert_allclose(check(path).geometry.affine, affine, atol=1e-9)

    @pytest.mark.parametrize("said", [None, "3"])
    def test_packed_voxels_without_their_size_are_all_there(self, tmp_path, said):
        path = meta(tmp_path / "a.mha", zlib.compress(raw()), CompressedData="True", CompressedDataSize=said)
        check(path)

    @pytest.mark.parametrize(
        ("name", "kind"), [("MET_UCHAR", "u1"), ("MET_LONG", "i4"), ("MET_ULONG_LONG", "u8"), ("MET_DOUBLE", "f8")]
    )
    def test_types_as_itk_reads_them(self, tmp_path, name, kind):
        array = np.abs(VOXELS % 100).astype(kind)
        path = meta(tmp_path / "a.mha", raw(array), ElementType=name)
        np.testing.assert_array_equal(itk_says(path)[0], check(path, array).array)

    def test_text_and_header_size(self, tmp_path):
        check(meta(tmp_path / "t.mha", " ".join(map(str, VOXELS.ravel(order="F"))).encode(), BinaryData="False"))
        (tmp_path / "a.raw").write_bytes(b"x" * 20 + raw())
        check(meta(tmp_path / "a.mhd", data="a.raw", HeaderSize="20"))
        check(meta(tmp_path / "b.mhd", data="a.raw", HeaderSize="-1"))

    def test_slices_in_files_of_their_own(self, tmp_path):
        for k in range(SIZES[2]):
            (tmp_path / f"s{k + 1:03d}.raw").write_bytes(raw(VOXELS[:, :, k]))
        names = "".join(f"s{k + 1:03d}.raw\n" for k in range(SIZES[2]))
        for path in (
            meta(tmp_path / "l.mhd", data="LIST", tail=names),
            meta(tmp_path / "p.mhd", data="s%03d.raw 1 7 1"),
        ):
            check(path)
            np.testing.assert_array_equal(itk_says(path)[0], VOXELS)


class TestMetaImageRefusals:
    @pytest.mark.parametrize(
        ("fields", "error", "words"),
        [
            ({"ElementSpacing": "2 2.5 0"}, GeometryError, "spacing"),
            ({"ElementSpacing": "2 2.5 x"}, GeometryError, "no usable ElementSpacing"),
            ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, GeometryError, "length 1"),
            ({"Offset": "1 2"}, GeometryError, "no usable Offset"),
            ({"DistanceUnits": "cm"}, GeometryError, "lengths in cm"),
            ({"DimSize": "11 9 8"}, FormatError, "end too early"),
            ({"DimSize": "11 9 3"}, FormatError, "more voxels than"),
            ({"DimSize": "11 9 7 1"}, FormatError, "DimSize"),
            ({"ElementType": "MET_STRING"}, FormatError, "ElementType"),
            ({"ElementNumberOfChannels": "2"}, InputError, "2 numbers a voxel"),
            ({"ElementToIntensityFunctionSlope": "2"}, FormatError, "scaled"),
            ({"ObjectType": "Tube"}, FormatError, "not an image"),
            ({"CompressedData": "True"}, FormatError, "broken, or not packed"),
            ({"Origin": "0 0 0"}, FormatError, "'Offset' twice"),
            ({"HeaderSize": "-5"}, FormatError, "HeaderSize"),
        ],
    )
    def test_a_header_that_contradicts_itself(self, tmp_path, fields, error, words):
        with pytest.raises(error, match=words):
            read_volume(meta(tmp_path / "a.mha", raw(), **fields))

    def test_a_stream_that_holds_too_little(self, tmp_path):
        path = meta(tmp_path / "a.mha", zlib.compress(raw()[:400]), CompressedData="True")
        with pytest.raises(FormatError, match="end too early"):
            read_volume(path)

    @pytest.mark.parametrize("n", [4, 8])
    def test_a_list_of_too_few_or_too_many_files(self, tmp_path, n):
        for k in range(n):
            (tmp_path / f"{k}.raw").write_bytes(raw(VOXELS[:, :, 0]))
        path = meta(tmp_path / "a.mhd", data="LIST", tail="".join(f"{k}.raw\n" for k in range(n)))
        with pytest.raises(FormatError, match=f"names {n} data files where its sizes need 7"):
            read_volume(path)

    @pytest.mark.parametrize("pattern", ["%s%s%s%n 1 7 1", "%d%d 1 7 1", "%9999d 1 7 1", "%*d 1 7 1", "% d 1 7 1"])
    def test_a_pattern_that_is_no_numbering(self, tmp_path, pattern):
        with pytest.raises(FormatError, match="names its data files by"):
            read_volume(meta(tmp_path / "a.mhd", data=pattern))


NAMES = (
    "/etc/passwd",
    "../x.raw",
    "sub/../../x.raw",
    r"C:\x.raw",
    r"..\x.raw",
    "//host/x.raw",
    "a\x01.raw",
    "gone.raw",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["nrrd", "nrrd list", "nrrd pattern", "meta", "meta list", "meta pattern"])
def test_a_data_file_lies_beside_its_header(tmp_path, name, form):
    (tmp_path / "x.raw").write_bytes(raw())
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    tail = f"{name}\n" * 7 if "list" in form else ""
    data = {"list": "LIST", "pattern": f"{name}%d 1 7 1"}.get(form.partition(" ")[2], name)
    if form.startswith("nrrd"):
        path = nrrd(folder / "a.nhdr", data_file=data, tail=tail)
    else:
        path = meta(folder / "a.mhd", data=data, tail=tail)
    with pytest.raises(FormatError, match=r"names its data file|its data file .* cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("write", [nrrd, meta])
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path, write):
    os.mkfifo(tmp_path / "a.raw")
    path = write(tmp_path / "a.nhdr", data_file="a.raw") if write is nrrd else write(tmp_path / "a.mhd", data="a.raw")
    with pytest.raises(FormatError, match="no plain file"):
        read_volume(path)
    for suffix in (".nii", ".nrrd", ".mha"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        with pytest.raises(InputError):
            read_volume(tmp_path / f"pipe{suffix}")


class TestBombs:
    @pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii", "hex"])
    def test_a_header_alone_takes_no_memory(self, tmp_path, encoding, monkeypatch):
        taken = []
        monkeypatch.setattr(np, "empty", lambda *args, **kwargs: taken.append(args))
        voxels = gzip.compress(raw()) if encoding == "gzip" else b"0 1"
        with pytest.raises(FormatError, match="end too early"):
            read_volume(nrrd(tmp_path / "a.nrrd", voxels, sizes="1500 1000 1000", encoding=encoding))
        assert not taken

    @pytest.mark.parametrize("form", ["nrrd", "mha", "nii"])
    def test_a_limit_that_is_set_holds(self, tmp_path, monkeypatch, form):
        from voxmetry import Geometry, Volume, save

        path = tmp_path / f"a.{form}"
        save(Volume(np.zeros((40, 50, 60), np.int16), Geometry(np.eye(4), (40, 50, 60))), path)
        monkeypatch.setenv("VOXMETRY_IMAGE_GB", "0.00025")
        assert read_volume(path).array.shape == (40, 50, 60)
        monkeypatch.setenv("VOXMETRY_IMAGE_GB", "0.0002")
        with pytest.raises(InputError, match="the limit that VOXMETRY_IMAGE_GB sets"):
            read_volume(path)

    def test_a_stream_that_goes_on_after_its_voxels(self, tmp_path):
        voxels = gzip.compress(raw() + bytes(1 << 26))
        with pytest.raises(FormatError, match="more voxels than"):
            read_volume(nrrd(tmp_path / "a.nrrd", voxels, encoding="gzip"))


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_what_follows_a_stream_and_is_none_is_left_alone(tmp_path, encoding):
    voxels = PACKED[encoding](raw()[:500]) + PACKED[encoding](raw()[500:]) + os.urandom(100)
    check(nrrd(tmp_path / "a.nrrd", voxels, encoding=encoding))
