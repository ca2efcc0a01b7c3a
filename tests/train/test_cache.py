import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import models
from cases import train_settings as settings
from cases import write_cases
from voxmetry import Volume, read_volume, save
from voxmetry.config import Normalise
from voxmetry.errors import OutputError
from voxmetry.train import cache, labelled_cases, train
from voxmetry.train.cache import cached_case, content_key, default_cache, source_digest
from voxmetry.train.dataset import open_data
from voxmetry.train.labelled_cases import load_case


@pytest.fixture
def data(tmp_path):
    return open_data(write_cases(tmp_path / "data", 2))


@pytest.fixture
def prepared(monkeypatch):
    """The names of the cases that were prepared, not read from an entry."""
    names = []
    monkeypatch.setattr(cache, "load_case", lambda case, *rest: names.append(case.name) or load_case(case, *rest))
    return names


def get(data, tmp_path, spec=None):
    return cached_case(data.cases[1], data, spec or models.spec(), tmp_path / "cache")


def test_a_case_is_prepared_once_and_comes_back_as_it_was(data, tmp_path, prepared):
    wanted = load_case(data.cases[1], data, models.spec())
    for found in (get(data, tmp_path), get(data, tmp_path)):
        assert np.array_equal(found.image, wanted.image)
        assert np.array_equal(found.label, wanted.label)
        assert np.array_equal(found.places, wanted.places)
        assert found.geometry.is_same(wanted.geometry)
        assert found.volume_ml == wanted.volume_ml
        assert isinstance(found.image, np.memmap)
    assert prepared == ["case_1"]


def test_images_are_kept_in_float16_where_it_holds_their_values(data, tmp_path, monkeypatch):
    assert get(data, tmp_path).image.dtype == np.float16
    exact = labelled_cases.preprocess(load_volumes(data), models.spec()).tensor[0].numpy()
    error = np.abs(get(data, tmp_path).image.astype(np.float32) - exact)
    assert 0 < error.max() <= np.abs(exact).max() / 2048
    # Values that are not held: a window without an end.
    wide = models.spec().inputs[0].model_copy(update={"normalise": Normalise(method="shift", mean=0, sd=1e-3)})
    assert get(data, tmp_path, models.spec().model_copy(update={"inputs": (wide,)})).image.dtype == np.float32


def test_an_entry_in_float32_of_an_older_version_is_as_good(data, tmp_path, prepared, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(labelled_cases, "compact", lambda image: image)
        before = get(data, tmp_path)
    assert before.image.dtype == np.float32
    assert np.array_equal(get(data, tmp_path).image, before.image)
    assert prepared == ["case_1"]


def load_volumes(data):
    return [read_volume(path) for path in data.cases[1].images]


def test_a_file_that_changed_is_prepared_again_and_one_that_was_renamed_is_not(data, tmp_path, prepared):
    before = get(data, tmp_path)
    path = data.cases[1].images[0]
    moved = path.rename(path.with_name("other.nii.gz"))
    renamed = replace(data, cases=(data.cases[0], replace(data.cases[1], name="other", images=(moved,))))
    assert get(renamed, tmp_path).name == "other"
    assert prepared == ["case_1"]
    image = read_volume(moved)
    save(Volume(image.array[::-1].copy(), image.geometry), moved)
    assert not np.array_equal(get(renamed, tmp_path).image, before.image)
    assert prepared == ["case_1", "other"]
    shutil.copy(data.cases[0].label, data.cases[1].label)
    changed = content_key(source_digest(renamed.cases[1]), models.spec())
    assert changed not in {path.name for path in (tmp_path / "cache").iterdir()}


def test_what_the_model_asks_for_is_part_of_the_key_and_the_rest_is_not(data):
    source, spec = source_digest(data.cases[0]), models.spec()
    window = spec.inputs[0].model_copy(update={"normalise": Normalise(method="window", low=0, high=1)})
    others = {
        content_key(source, spec.model_copy(update=change))
        for change in ({"spacing_mm": (1.0, 1.0, 2.5)}, {"orientation": "LPS"}, {"inputs": (window,)})
    }
    assert len(others | {content_key(source, spec)}) == 4
    assert content_key(source, spec.model_copy(update={"summary": "another"})) == content_key(source, spec)


@pytest.mark.parametrize("damage", ["flip a bit", "cut short", "unfinished", "not JSON"])
def test_a_damaged_entry_is_made_again(damage, data, tmp_path, prepared):
    wanted = np.array(get(data, tmp_path).image)
    (entry,) = (tmp_path / "cache").iterdir()
    if damage == "unfinished":
        (entry / "entry.json").unlink()
    elif damage == "not JSON":
        (entry / "entry.json").write_text("{", encoding="utf-8")
    else:
        content = bytearray((entry / "image.npy").read_bytes())
        content[500] ^= 4
        (entry / "image.npy").write_bytes(content if damage == "flip a bit" else content[:-100])
    assert np.array_equal(get(data, tmp_path).image, wanted)
    assert np.array_equal(get(data, tmp_path).image, wanted)
    assert prepared == ["case_1", "case_1"]


def test_a_full_disk_is_told_and_leaves_no_half_entry(data, tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        get(data, tmp_path)
    monkeypatch.undo()
    assert not list((tmp_path / "cache").rglob("*.*"))
    assert get(data, tmp_path).name == "case_1"


def test_folds_that_start_together_may_make_the_same_entry(data, tmp_path):
    wanted = load_case(data.cases[1], data, models.spec()).image
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: get(data, tmp_path), range(12)))
    assert all(np.array_equal(case.image, wanted) for case in found)
    assert {path.name for path in (tmp_path / "cache").rglob("*.*")} == {*cache.ARRAYS, cache.ENTRY}


def test_an_entry_names_no_case(data, tmp_path):
    get(data, tmp_path)
    (path,) = (tmp_path / "cache").rglob("entry.json")
    assert "case" not in path.read_text(encoding="utf-8")
    assert set(json.loads(path.read_text(encoding="utf-8"))) == {
        "sha256",
        "affine",
        "shape",
        "volume_ml",
        "absent",
        "absent_shape",
    }


def test_folds_share_what_lies_beside_them(tmp_path):
    assert default_cache(settings(fold=1), tmp_path / "fold-1") == tmp_path / "cache"
    assert default_cache(settings(fold=1), tmp_path / "mine") == tmp_path / "mine" / "cache"
    assert default_cache(settings(), tmp_path / "run") == tmp_path / "run" / "cache"


def test_a_source_that_is_damaged_in_epoch_2_changes_nothing(tmp_path):
    """Cases are read before the first step; after that a run needs its cache alone."""
    folder = write_cases(tmp_path / "data")
    wanted = train(settings(), tmp_path / "calm", data=folder)

    def damage(_run, row):
        if row["epoch"] == 1:
            path = folder / "images" / "case_3.nii.gz"
            path.write_bytes(path.read_bytes()[:200])

    found = train(settings(), tmp_path / "hit", data=folder, watchers=[damage])
    file = "weights.safetensors"
    assert (found / file).read_bytes() == (wanted / file).read_bytes()
