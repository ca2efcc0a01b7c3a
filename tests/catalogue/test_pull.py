"""`voxmetry models pull` against a server on loopback that serves archives of the true names and layouts."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import shutil
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest

import totalsegmentator_cases
import totalsegmentator_folders
from voxmetry.cli import run
from voxmetry.errors import (
    ConfigError,
    DownloadError,
    FormatError,
    LockedError,
    ModelError,
    OutputError,
    OutputExistsError,
)
from voxmetry.models import find_model, read_any_spec
from voxmetry.models.catalogue import Catalogue, known_models, read_catalogue
from voxmetry.models.listing import list_entries
from voxmetry.workflows import pull_model as pulling
from voxmetry.workflows.model_store.install import store_locked
from voxmetry.workflows.pull_model import PullOptions, pull_model

NAME = "totalsegmentator-ct-3mm"
PART = {"id": "a", "url": "https://x.org/a.zip", "folder": "a"}
SMALL = ("liver-segments-ct", "totalsegmentator-ct-6mm", NAME)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A folder of archives, as their authors publish them."""
    root = tmp_path_factory.mktemp("archives")
    for name in SMALL:
        entry = known_models()[name]
        source = tmp_path_factory.mktemp("source")
        case = totalsegmentator_cases.CASES[name]
        for part, facts in zip(entry.parts, case["parts"], strict=True):
            totalsegmentator_folders.write_part(
                source, part.folder, facts["labels"], case["resample_mm"][::-1], seed=facts["seed"], lifted=["liver"]
                if "liver" in facts["labels"] else (),
            )  # fmt: skip
            totalsegmentator_folders.zipped(source / part.folder.split("/")[0], root / "unused.zip").unlink()
            totalsegmentator_folders.zipped(source, root / part.file)
    return root


@pytest.fixture
def mirror(archives):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(archives)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXMETRY_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("VOXMETRY_MODELS_MIRROR", raising=False)
    return tmp_path / "models"


def left(store):
    """What lies in the folder of models beside the lock and the checksums."""
    there = {path.name for path in store.iterdir()} if store.exists() else set()
    return there - {".lock", "checksums.json", ".downloads"}


def catalogue_of(tmp_path, **change):
    """The package's catalogue with one entry, changed."""
    entry = known_models()[NAME].model_dump(mode="json", exclude_none=True) | {"coarse": None} | change
    entry["source"] = "here"
    content = {"schema_version": 1, "sources": {"here": "a test"}, "models": [entry]}
    path = tmp_path / "catalogue.yaml"
    path.write_text(json.dumps(content))
    return path


def test_from_an_empty_folder_to_a_report_of_coded_structures(mirror, store, tmp_path, capsys):
    assert run(["models", "pull", NAME, "--mirror", mirror]) == 0
    assert left(store) == {NAME}
    assert not list((store / ".downloads").iterdir())
    image = tmp_path / "ct.nii.gz"
    nibabel.save(totalsegmentator_folders.image((44, 40, 26), (1.9, 1.9, 3.1)), image)
    out = tmp_path / "out"
    code = run(["segment", str(image), "-m", NAME, "-o", str(out), "--device", "cpu", "--report", "full"])
    assert code in (0, 3)
    result = json.loads((out / "result.json").read_text())
    assert len(result["labels"]["labels"]) == 117
    assert all(label["code"]["scheme"] == "SCT" for label in result["labels"]["labels"])
    assert result["provenance"]["model"] == NAME
    found = [row["label"] for row in result["measurements"] if row["n_voxels"]]
    assert "liver" in found
    # What is not in the field of view is one note, not a hundred flags.
    assert [flag["code"] for flag in result["flags"]].count("not_found") == 1
    assert not [flag for flag in result["flags"] if flag["code"] == "empty"]
    assert (out / "report.html").is_file()
    capsys.readouterr()


def test_without_a_network_from_a_folder_of_archives_an_archive_or_unpacked(archives, store, tmp_path):
    pull_model(NAME, PullOptions(source=archives))
    first = (store / NAME / "members" / "297" / "weights.safetensors").read_bytes()
    part = known_models()[NAME].parts[0]
    pull_model(NAME, PullOptions(source=archives / part.file, overwrite=True))
    assert (store / NAME / "members" / "297" / "weights.safetensors").read_bytes() == first
    import zipfile

    with zipfile.ZipFile(archives / part.file) as archive:
        archive.extractall(tmp_path / "weights")
    pull_model(NAME, PullOptions(source=tmp_path / "weights", overwrite=True))
    assert (store / NAME / "members" / "297" / "weights.safetensors").read_bytes() == first
    assert (archives / part.file).is_file(), "an archive of the user's stays"


def test_a_model_that_crops_brings_the_one_that_it_crops_by(mirror, store):
    spec = pull_model("liver-segments-ct", PullOptions(mirror=mirror))
    assert left(store) == {"liver-segments-ct", "totalsegmentator-ct-6mm"}
    assert spec.crop.model == "totalsegmentator-ct-6mm"
    assert (spec.crop.structures, spec.crop.margin_mm) == (("liver",), 10.0)


def test_windows_overlap_as_the_models_authors_have_it():
    entry = known_models()["totalsegmentator-ct"]
    assert {part.overlap for part in entry.parts} == {0.2}
    assert [len(part.labels) for part in entry.parts] == [24, 26, 18, 23, 26]
    assert known_models()[NAME].parts[0].overlap is None


def test_what_is_not_installed_is_told_with_the_way_to_get_it():
    with pytest.raises(ModelError, match=f"voxmetry models pull {NAME}"):
        find_model(NAME)


def test_the_list_shows_what_is_here_and_what_can_be_had(archives, store):
    pull_model(NAME, PullOptions(source=archives))
    (store / "broken").mkdir()
    (store / "broken" / "model.yaml").write_text("name: [")
    entries = {entry.name: entry for entry in list_entries(known_models())}
    assert entries["hippocampus-mr"].where == "bundled"
    assert (entries[NAME].where, len(entries[NAME].structures)) == ("imported", 117)
    assert entries[NAME].size_mb > 0
    assert (entries["brats-mri"].where, entries["brats-mri"].size_mb) == ("available", None)
    assert "valid YAML" in entries["broken"].problem


class TestNothingIsHalfInstalled:
    def test_a_part_that_is_missing(self, store, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ModelError, match="no folder Dataset297"):
            pull_model(NAME, PullOptions(source=tmp_path / "empty"))
        assert not left(store)

    def test_a_part_that_the_server_lacks(self, mirror, store):
        with pytest.raises(DownloadError, match="404"):
            pull_model("body-ct", PullOptions(mirror=mirror))
        assert not left(store)

    def test_a_damaged_archive(self, archives, store, tmp_path):
        part = known_models()[NAME].parts[0]
        data = (archives / part.file).read_bytes()
        (tmp_path / part.file).write_bytes(data[: len(data) // 2])
        with pytest.raises(FormatError, match=r"no whole \.zip"):
            pull_model(NAME, PullOptions(source=tmp_path / part.file))
        assert not left(store)

    def test_a_damaged_archive_of_a_server_is_fetched_anew(self, mirror, archives, store):
        path = archives / known_models()[NAME].parts[0].file
        data = path.read_bytes()
        try:
            path.write_bytes(data[: len(data) // 2])
            with pytest.raises(FormatError):
                pull_model(NAME, PullOptions(mirror=mirror))
        finally:
            path.write_bytes(data)
        assert not left(store)
        # What was damaged is no measure for what comes after.
        pull_model(NAME, PullOptions(mirror=mirror))
        assert left(store) == {NAME}

    def test_a_checksum_that_changed(self, archives, store, tmp_path):
        pull_model(NAME, PullOptions(source=archives))
        part = known_models()[NAME].parts[0]
        other = tmp_path / "other"
        other.mkdir()
        (other / part.file).write_bytes((archives / part.file).read_bytes() + b"\0")
        before = (store / NAME / "model.yaml").read_bytes()
        with pytest.raises(DownloadError, match="when it was fetched first"):
            pull_model(NAME, PullOptions(source=other, overwrite=True))
        assert (store / NAME / "model.yaml").read_bytes() == before
        assert left(store) == {NAME}
        pull_model(NAME, PullOptions(source=other, overwrite=True, accept_new_checksum=True))
        with pytest.raises(DownloadError):
            pull_model(NAME, PullOptions(source=archives, overwrite=True))

    def test_a_published_checksum_that_does_not_agree(self, archives, store, tmp_path):
        entry = known_models()[NAME]
        part = entry.parts[0].model_dump(mode="json", exclude_none=True) | {"sha1": "0" * 40}
        catalogue = read_catalogue(catalogue_of(tmp_path, parts=[part]))
        with pytest.raises(DownloadError, match="as its authors published it"):
            pull_model(NAME, PullOptions(source=archives, accept_new_checksum=True), catalogue=catalogue)
        assert not left(store)

    def test_a_disk_that_fills_up_while_importing(self, archives, store, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("voxmetry.io.atomic._flush", full)
        with pytest.raises(OutputError, match="disk is full"):
            pull_model(NAME, PullOptions(source=archives))
        monkeypatch.undo()
        assert not left(store)

    def test_a_model_of_another_kind_than_was_promised(self, store, tmp_path):
        part = known_models()[NAME].parts[0]
        totalsegmentator_folders.write_part(tmp_path / "other", part.folder, ["liver"], (3.0, 3.0, 3.0), seed=1)
        with pytest.raises(ModelError, match="gives 1 structures"):
            pull_model(NAME, PullOptions(source=tmp_path / "other"))
        assert not left(store)

    def test_an_interrupt(self, archives, store, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(pulling, "dump_yaml", stop)
        with pytest.raises(KeyboardInterrupt):
            pull_model(NAME, PullOptions(source=archives))
        assert not left(store)

    def test_what_a_killed_run_left_is_removed(self, archives, store):
        (store / ".part-dead").mkdir(parents=True)
        pull_model(NAME, PullOptions(source=archives))
        assert left(store) == {NAME}

    def test_a_second_program_at_the_same_time(self, archives, store):
        with store_locked(), pytest.raises(LockedError):
            pull_model(NAME, PullOptions(source=archives))

    def test_a_model_that_is_there_stays_unless_it_is_to_be_replaced(self, archives):
        pull_model(NAME, PullOptions(source=archives))
        with pytest.raises(OutputExistsError, match="--overwrite"):
            pull_model(NAME, PullOptions(source=archives))
        pull_model(NAME, PullOptions(source=archives, overwrite=True))


class TestLicences:
    def test_one_that_is_not_open_is_asked_for(self, archives, store, tmp_path):
        catalogue = read_catalogue(catalogue_of(tmp_path, licence="CC-BY-NC-4.0"))
        with pytest.raises(ConfigError, match="--accept-licence"):
            pull_model(NAME, PullOptions(source=archives), catalogue=catalogue)
        assert not left(store)
        asked = []
        pull_model(NAME, PullOptions(source=archives, accept_licence=lambda e: asked.append(e.licence) or True), catalogue=catalogue)  # fmt: skip  # noqa: E501
        assert asked == ["CC-BY-NC-4.0"]
        assert read_any_spec(NAME).licence == "CC-BY-NC-4.0"

    def test_on_the_command_line_it_takes_an_option(self, archives, tmp_path, capsys):
        path = catalogue_of(tmp_path, licence="CC-BY-NC-4.0")
        command = ["models", "pull", NAME, "--from", str(archives), "--catalogue", str(path)]
        assert run(command) == 2
        assert "CC-BY-NC-4.0" in capsys.readouterr().err
        assert run([*command, "--accept-licence"]) == 0

    def test_an_unknown_one_is_refused_with_the_whole_catalogue(self, tmp_path):
        with pytest.raises(ConfigError, match="licence 'Beerware' is not known"):
            read_catalogue(catalogue_of(tmp_path, licence="Beerware"))


class TestCatalogue:
    def test_each_entry_names_a_source_a_licence_and_an_address_with_tls(self):
        for entry in known_models().models:
            assert known_models().sources_of(entry)
            assert all(part.url.startswith("https://") for part in entry.parts)
            assert entry.labels or entry.parts[0].kind == "bundle"

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"colour": "red"}, "colour"),
            (
                {"parts": [{"id": "a", "url": "https://x.org/a.zip", "folder": "a", "labels": ["liver"]}]},
                "do not give each",
            ),
            ({"crop": {"model": "nowhere", "structures": ["liver"]}}, "nowhere"),
            ({"name": "../up"}, "name"),
        ],
    )
    def test_an_entry_that_does_not_hold_together_is_refused(self, tmp_path, change, says):
        with pytest.raises(ConfigError, match=says):
            read_catalogue(catalogue_of(tmp_path, **change))

    @pytest.mark.parametrize("url", ["http://elsewhere.org/a.zip", "file:///etc/a.zip", "https://x.org/a.tar"])
    def test_an_address_without_tls_is_refused(self, tmp_path, url):
        part = known_models()[NAME].parts[0].model_dump(mode="json", exclude_none=True) | {"url": url}
        part["labels"] = list(known_models()[NAME].labels)
        with pytest.raises(ConfigError, match="no https address"):
            read_catalogue(catalogue_of(tmp_path, parts=[part]))

    def test_nothing_is_fetched_without_the_verb(self, monkeypatch, capsys):
        monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: pytest.fail("fetched"))
        assert run(["models", "list"]) == 0
        assert run(["models", "show", NAME]) == 0
        assert "Dataset297_TotalSegmentator_total_3mm_1559subj.zip" in capsys.readouterr().out
        assert run(["segment", "x.nii", "-m", NAME, "-o", "out"]) == 2
        assert "models pull" in capsys.readouterr().err

    def test_the_type_is_strict(self):
        assert isinstance(known_models(), Catalogue)


class TestImport:
    def test_into_the_users_folder_and_found_by_name(self, store, tmp_path, capsys):
        part = known_models()[NAME].parts[0]
        totalsegmentator_folders.write_part(
            tmp_path / "mine", part.folder, ["liver", "spleen"], (3.0, 3.0, 3.0), seed=1
        )
        archive = totalsegmentator_folders.zipped(tmp_path / "mine", tmp_path / "mine.zip")
        command = ["models", "import", str(archive), "--name", "my-organs", "--orientation", "RAS"]
        assert run(command) == 0
        assert "-m my-organs" in capsys.readouterr().out
        assert read_any_spec("my-organs").labels["spleen"].code is not None
        assert left(store) == {"my-organs"}
        assert run(command) == 2
        assert run([*command, "--overwrite"]) == 0
        assert run(["models", "show", "my-organs"]) == 0
        elsewhere = tmp_path / "elsewhere"
        assert run([*command[:3], "-o", str(elsewhere), "--orientation", "RAS"]) == 0
        assert read_any_spec(elsewhere).labels.names == ("liver", "spleen")

    @pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "", "UPPER", "hippocampus-mr"])
    def test_a_name_is_a_name(self, store, tmp_path, name):
        part = known_models()[NAME].parts[0]
        totalsegmentator_folders.write_part(tmp_path / "mine", part.folder, ["liver"], (3.0, 3.0, 3.0), seed=1)
        folder = (tmp_path / "mine" / part.folder).parent
        code = run(["models", "import", str(folder), "--name", name, "--orientation", "RAS"])
        assert code == 2
        assert not list(tmp_path.rglob("evil"))
        assert not Path("/tmp/evil").exists()


class TestSeveral:
    def test_two_models_become_one_map_where_their_tables_do_not_collide(self, tmp_path, capsys):
        import models

        models.write(tmp_path / "a", name="a-mr")
        labels = {
            "labels": [{"value": 3, "name": "c", "colour": "#E69F00"}, {"value": 4, "name": "d", "colour": "#56B4E9"}]
        }
        models.write(tmp_path / "b", name="b-mr", seed=1, labels=labels, training_domain={})
        image = tmp_path / "mr.nii.gz"
        noise = np.random.default_rng(0).integers(0, 200, (30, 28, 14)).astype(np.int16)
        made = nibabel.Nifti1Image(noise, np.diag([1.0, 1.2, 2.5, 1]))
        made.header.set_xyzt_units("mm")
        nibabel.save(made, image)
        command = ["segment", str(image), "-m", str(tmp_path / "a"), "-m", str(tmp_path / "b"), "--device", "cpu"]
        assert run([*command, "-o", str(tmp_path / "out"), "--report", "none"]) in (0, 3)
        result = json.loads((tmp_path / "out" / "result.json").read_text())
        assert [label["name"] for label in result["labels"]["labels"]] == ["front", "back", "c", "d"]
        assert result["provenance"]["model"] == "a-mr+b-mr"
        found = np.unique(np.asarray(nibabel.load(tmp_path / "out" / "seg.nii.gz").dataobj))
        assert {3, 4} & set(found.tolist())
        capsys.readouterr()
        # Tables that collide are refused, with the way out; and it is one.
        assert run([*command[:4], "-m", str(tmp_path / "a"), "-o", str(tmp_path / "no")]) == 2
        assert "models merge" in capsys.readouterr().err
        assert run([*command, "-o", str(tmp_path / "part"), "--report", "none", "--structures", "d", "front"]) in (0, 3)
        result = json.loads((tmp_path / "part" / "result.json").read_text())
        assert [label["name"] for label in result["labels"]["labels"]] == ["front", "d"]

    def test_tables_that_collide_are_numbered_anew_by_merge(self, tmp_path, capsys):
        import models

        models.write(tmp_path / "models" / "a", name="a")
        labels = {"labels": [{"value": 2, "name": "c", "colour": "#E69F00"}]}
        models.write(tmp_path / "models" / "b", name="b", labels=labels, training_domain={})
        assert run(["models", "merge", "a", "b", "--name", "ab"]) == 0
        spec = read_any_spec("ab")
        assert dict(zip(spec.labels.names, spec.labels.values, strict=True)) == {"front": 1, "back": 2, "c": 3}
        assert [member.values for member in spec.members] == [{2: 1, 7: 2}, {2: 3}]

    @pytest.mark.parametrize(
        "arguments",
        [["-o", "a", "-o", "b"], ["-o", "a", "--device", "cpu", "--device", "cuda"], ["-o", "a", "--out", "a"]],
    )
    def test_an_option_of_one_value_that_is_given_twice_is_refused(self, arguments, capsys):
        assert run(["segment", "x.nii", "-m", "hippocampus-mr", *arguments]) == 2
        assert "given 2 times" in capsys.readouterr().err

    def test_of_every_verb(self, capsys):
        assert run(["cohort", "plan", "x", "-o", "a", "-o", "b"]) == 2
        assert "given 2 times" in capsys.readouterr().err


class TestBundles:
    def test_a_bundle_of_the_catalogue_is_installed_as_one_network(self, store, tmp_path):
        path = Path(__file__).parents[1] / "nn" / "test_bundle.py"
        spec = importlib.util.spec_from_file_location("bundles", path)
        bundles = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bundles)
        bundles.write_bundle(tmp_path / "from" / "spleen_ct_segmentation", "UNet", n_outputs=2)
        found = pull_model("spleen-ct", PullOptions(source=tmp_path / "from"))
        assert (found.name, found.licence, found.network.kind) == ("spleen-ct", "Apache-2.0", "monai")
        assert left(store) == {"spleen-ct"}
        assert not [path.name for path in (store / "spleen-ct").iterdir() if path.is_dir()]

    def test_its_published_checksum_is_compared_at_once(self, store, tmp_path):
        (tmp_path / "spleen_ct_segmentation_v0.5.9.zip").write_bytes(b"PK")
        with pytest.raises(DownloadError, match="8e99230050906d0d3cec484010598aa138201892"):
            pull_model("spleen-ct", PullOptions(source=tmp_path))
        assert not left(store)


def single(tmp_path, name, inside, *, folds=("0",)):
    """Seeded weights of a catalogue's model of one part, in the layout of its archive."""
    entry = known_models()[name]
    source = tmp_path / name
    model = totalsegmentator_folders.write_part(
        source, inside, entry.labels, (3.0, 3.0, 3.0), seed=3, channel="CT" if entry.modality == "CT" else "MR"
    )
    for fold in folds:
        if fold != "0":
            shutil.copytree(model / "fold_0", model / f"fold_{fold}")
    if "0" not in folds:
        shutil.rmtree(model / "fold_0")
    return source if entry.parts[0].folder != "." else model


@pytest.mark.parametrize(
    ("name", "inside", "folds", "axes", "members"),
    [
        ("mrsegmentator", "x/nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres", ("0", "1", "2", "3", "4"), "SPL", 5),
        ("moose-ct-organs", "Dataset123_Organs/nnUNetTrainer__nnUNetPlans__3d_fullres", ("0",), "SAR", 1),
        ("hd-bet", "x/nnUNetTrainer__nnUNetPlans__3d_fullres", ("all",), "KJI", 1),
    ],
)
def test_models_of_others_than_totalsegmentator_have_their_own_axes_and_folds(
    name, inside, folds, axes, members, tmp_path
):
    source = single(tmp_path, name, inside, folds=folds)
    spec = pull_model(name, PullOptions(source=source, accept_licence=lambda _: True))
    (part,) = known_models()[name].parts
    network = read_any_spec(find_model(name) / "members" / part.id)
    assert (network.orientation, network.members) == (axes, members)
    assert spec.labels.names == known_models()[name].labels
    coded = [(label.code.value, label.laterality) for label in spec.labels if label.code]
    assert len(set(coded)) == len(coded), "no left and right share a code without a side"
    assert sum(label.code is not None for label in spec.labels) >= len(spec.labels) - 2
