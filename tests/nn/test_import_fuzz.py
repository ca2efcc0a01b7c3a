"""Configurations of other frameworks with one value replaced: imported, or refused in words, and never a traceback."""

import copy
import json
import random

import pytest

import nnunet_folders
from bundle_folders import write_bundle
from voxmetry.errors import VoxmetryError
from voxmetry.nn.interop import ImportOptions, import_model

VALUES = (
    None,
    "x",
    "",
    -1,
    0,
    1.5,
    10**9,
    1e308,
    True,
    [],
    {},
    [[1]],
    ["x"],
    {"a": 1},
    [0, 0, 0],
    "@a",
    "$1/0",
    "\u202e",
)


def places(value, path=()):
    """Every place in a nested value, the inner ones too."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(content, path, value):
    made = copy.deepcopy(content)
    if not path:
        return value
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


def tries(folder, names, count, seed):
    """Import with one value replaced, `count` times; return what was neither imported nor refused."""
    rng, found, imported = random.Random(seed), [], 0
    contents = {name: json.loads((folder / name).read_text()) for name in names}
    options = ImportOptions(orientation="RAS", modalities=("MR",), overwrite=True)
    for number in range(count):
        name = rng.choice(names)
        path, value = rng.choice(list(places(contents[name]))), rng.choice(VALUES)
        (folder / name).write_text(json.dumps(replaced(contents[name], path, value)))
        try:
            import_model(folder, folder.parent / f"out-{number}", options)
            imported += 1
        except VoxmetryError:
            pass
        except Exception as error:  # noqa: BLE001  (what it is, is what is asked)
            found.append(f"{name} {'#'.join(map(str, path))} = {value!r}: {type(error).__name__}: {error}")
        (folder / name).write_text(json.dumps(contents[name]))
    return found, imported


@pytest.mark.parametrize("seed", range(2))
def test_nnunet_folders(seed, tmp_path):
    folder = nnunet_folders.write(tmp_path, "isotropic")
    found, imported = tries(folder, ["plans.json", "dataset.json"], 60, seed)
    assert found == []
    assert imported > 5


@pytest.mark.parametrize("seed", range(2))
def test_bundles(seed, tmp_path):
    folder = write_bundle(tmp_path / "bundle", "UNet")
    found, imported = tries(folder, ["configs/inference.json", "configs/metadata.json"], 60, seed)
    assert found == []
    assert imported > 5
