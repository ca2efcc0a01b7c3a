"""Images made from label maps: what is drawn is what the label says, sides stay sides, and a run is repeatable."""

import numpy as np
import pytest
import torch

import models
from cases import train_settings, write_cases
from voxmetry import Geometry, Segmentation, read_segmentation, save
from voxmetry.cli import run
from voxmetry.config import TrainSettings, dump_yaml, parse_record
from voxmetry.config.synthesis import Synthesis
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, InputError, LabelError, OutputExistsError
from voxmetry.train import train
from voxmetry.train.feed import seeded
from voxmetry.train.label_maps import _inflation, find_label_maps, gather_maps, read_label_maps
from voxmetry.train.synthesis import Synthesiser
from voxmetry.train.synthesis_parts import Draw, blur, random_linear, standardise
from voxmetry.workflows.synthesise import synthesise

SKULL, LEFT, RIGHT, FLUID, LESION = 500, 2, 41, 4, 25
STILL = {"rotate_degrees": 0, "scale": 0, "shear": 0, "elastic_mm": 0}
CLEAN = {"thick_slices": 0, "bias_field": 0, "gamma": 0, "noise": 0, "blur_voxels": 0, "cropped": 0}


def head(axcodes="RAS", spacing=1.0):
    """A skull round two halves with fluid in the middle; left is where x is low. The left half has a notch."""
    array = np.zeros((40, 44, 36), np.uint16)
    array[4:36, 4:40, 4:32] = SKULL
    array[8:20, 8:36, 8:28], array[20:32, 8:36, 8:28] = LEFT, RIGHT
    array[8:12, 8:20, 8:14] = 0
    array[18:22, 18:26, 14:22] = FLUID
    grid = Geometry(np.diag([spacing] * 3 + [1.0]), array.shape)
    if axcodes == "PSL":
        array = np.ascontiguousarray(array.transpose(1, 2, 0)[::-1, :, ::-1])
        affine = np.array([[0, 0, -spacing, 39.0], [-spacing, 0, 0, 43.0], [0, spacing, 0, 0], [0, 0, 0, 1]])
        grid = Geometry(affine, array.shape)
        assert "".join(grid.axcodes) == "PSL"
    names = LabelTable.from_names({SKULL: "skull", LEFT: "l", RIGHT: "r", FLUID: "f", LESION: "lesion"})
    return Segmentation(array, grid, names)


def how(**change):
    content = {
        "targets": {LEFT: "left", RIGHT: "right", FLUID: "middle", LESION: "left"},
        "outside": [SKULL],
        "stripped": 0,
        "jitters": 1,
        "deformation": STILL,
        "acquisition": CLEAN,
    }
    return parse_record(content | change, Synthesis, where="test")


def settings(made=None, **change):
    model = models.spec(
        spacing_mm=[1.0, 1.0, 1.0],
        window={"patch": [32, 40, 32], "overlap": 0.5},
        labels=LabelTable.from_names({1: "left", 2: "right", 3: "middle"}).model_dump(mode="json"),
        training_domain={},
    )
    content = {"model": model.model_dump(mode="json"), "synthesis": (made or how()).model_dump(mode="json")}
    return train_settings(**(content | {"steps_per_epoch": 2, "batch_size": 1, "ema_decay": 0.0} | change))


def maker(made=None, maps=None, **change):
    chosen = settings(made, **change)
    return Synthesiser(gather_maps(maps or [("head", head())], chosen.synthesis, "RAS"), chosen)


def sample(made, seed=0, n=1, **change):
    built = made if isinstance(made, Synthesiser) else maker(made, **change)
    return built(seeded(built, [seed]), n)


def flat(built):
    """Give each label an intensity of its own, and no texture."""
    means = torch.linspace(0.1, 0.9, len(built.maps.values))
    built._intensities = lambda draw, n, progress: (means.expand(n, -1), torch.zeros(n, len(means)))
    return built


def middle_of(label, value):
    return np.argwhere(label[0, 0].numpy() == value).mean(axis=0)


class TestImages:
    def test_follow_from_their_seed(self):
        built = maker(how(deformation={}, acquisition={}, mirrored=[[LEFT, RIGHT]]))
        one, again, other = sample(built, 5, 2), sample(built, 5, 2), sample(built, 6, 2)
        assert torch.equal(one.image, again.image)
        assert torch.equal(one.label, again.label)
        assert not torch.equal(one.image, other.image)
        assert one.image.shape == one.label.shape == (2, 1, 32, 40, 32)
        assert one.label.dtype == torch.int64

    def test_have_one_intensity_a_label_in_its_place(self):
        built = flat(maker(how()))
        for seed in range(4):
            batch = sample(built, seed)
            kinds = [batch.image[batch.label == value].unique() for value in (1, 2, 3)]
            assert [len(kind) for kind in kinds] == [1, 1, 1]
            assert len({round(float(kind), 3) for kind in kinds}) == 3

    def test_are_normalised_as_the_model_normalises(self):
        image = sample(how(acquisition={}, deformation={}), 3).image
        assert float(image[image != image.min()].std()) == pytest.approx(1, abs=0.3)
        assert bool(torch.isfinite(image).all())

    def test_show_partial_volume_where_several_samples_are_averaged(self):
        sharp, soft = (sample(flat(maker(how(jitters=n))), 1) for n in (1, 8))
        assert torch.equal(sharp.label, soft.label)
        assert len(sharp.image.unique()) <= 5
        assert len(soft.image.unique()) > 20
        middle = torch.nn.functional.max_pool3d((soft.label != 3).float(), 3, 1, 1) == 0  # inside, none near the border
        assert soft.image[middle].std() < 1e-6

    def test_lack_what_is_outside_where_they_are_stripped(self):
        whole, bare = sample(how(), 2), sample(how(stripped=1.0), 2)
        outside = bare.label == 0
        assert len(bare.image[outside].unique()) == 1
        assert len(whole.image[outside].unique()) > 100
        assert int((bare.label > 0).sum()) == int((whole.label > 0).sum())

    def test_lack_fluid_in_image_and_label_where_that_is_stripped_too(self):
        built = maker(how(stripped=1.0, stripped_too=[FLUID]))
        counts = [int((sample(built, seed).label == 3).sum()) for seed in range(12)]
        assert 0 < sum(count == 0 for count in counts) < 12

    def test_end_inside_the_patch_with_an_empty_label_there(self):
        built = maker(how(acquisition=CLEAN | {"cropped": 1.0}))
        batches = [sample(built, seed) for seed in range(8)]
        zero = [(batch.image == standardise(torch.zeros(1, 1, 1, 1, 1))[0, 0, 0, 0, 0]) for batch in batches]
        assert all(batch.label.sum() > 0 for batch in batches)
        assert len({int((batch.label > 0).sum()) for batch in batches}) > 3
        assert len(zero) == 8

    def test_have_thick_slices_along_one_axis(self):
        thick = CLEAN | {"thick_slices": 1.0, "slice_mm": [6.0, 6.0]}
        found = set()
        for seed in range(9):
            image = sample(how(acquisition=thick, jitters=1), seed).image[0, 0]
            rough = [float(image.diff(dim=axis).abs().mean()) for axis in range(3)]
            found.add(int(np.argmin(rough)))
        assert found == {0, 1, 2}

    def test_easy_contrasts_come_first(self):
        tissues = {
            "tissues": {"brain": [LEFT, RIGHT], "water": [FLUID]},
            "easy_share": 0.5,
            "contrasts": {"random": 1.0, "tied": 0.0, "priors": 1e-9},
            "priors": {"t1": {"brain": 0.9, "water": 0.1}},
        }
        built = maker(how(**tissues))
        means = {p: built._intensities(Draw(seeded(built, [1]), built.device), 200, p)[0] for p in (0.0, 1.0)}
        place = built.maps.values.index(LEFT)
        assert float(means[0.0][:, place].std()) < 0.15 < float(means[1.0][:, place].std())


class TestSides:
    @pytest.mark.parametrize("axcodes", ["RAS", "PSL"])
    def test_left_is_left_whatever_is_mirrored_turned_or_stored(self, axcodes):
        made = how(mirrored=[[LEFT, RIGHT]], deformation=STILL | {"rotate_degrees": 25, "elastic_mm": 2, "shear": 0.1})
        built = maker(made, maps=[("head", head(axcodes))])
        notches = []
        for seed in range(16):
            label = sample(built, seed).label
            assert middle_of(label, 1)[0] + 4 < middle_of(label, 2)[0]
            notches.append(int((label == 1).sum() - (label == 2).sum()) < 0)
        assert 2 < sum(notches) < 14  # the notch is in the left half, or mirrored in the right one

    def test_without_pairs_nothing_is_mirrored(self):
        built = maker(how())
        for seed in range(8):
            label = sample(built, seed).label
            assert middle_of(label, 1)[0] < middle_of(label, 2)[0]
            assert int((label == 1).sum()) <= int((label == 2).sum()) + 40

    def test_both_sides_of_a_pair_have_the_same_mean(self):
        built = maker(how(mirrored=[[LEFT, RIGHT]]))
        means, _ = built._intensities(Draw(seeded(built, [0]), built.device), 5, 1.0)
        a, b = (built.maps.values.index(value) for value in (LEFT, RIGHT))
        assert torch.equal(means[:, a], means[:, b])


class TestDeformation:
    def test_lies_in_millimetres_whatever_the_maps_voxels_are(self):
        volumes = []
        for spacing in (1.0, 2.0):
            built = maker(how(), maps=[("head", head(spacing=spacing))])
            counts = [float((sample(built, seed).label == 3).sum()) for seed in range(6)]
            volumes.append(max(counts))
        assert volumes[1] == pytest.approx(8 * volumes[0], rel=0.2)

    def testrandom_linear_parts_are_rotations_scales_and_shears(self):
        draw = Draw(torch.Generator().manual_seed(0), torch.device("cpu"))
        turned = random_linear(draw, 30, 0, 0, 20)
        assert torch.allclose(turned @ turned.transpose(1, 2), torch.eye(3).expand(20, 3, 3), atol=1e-5)
        assert torch.allclose(torch.linalg.det(random_linear(draw, 30, 0, 0.2, 20)), torch.ones(20), atol=1e-5)
        scaled = torch.linalg.det(random_linear(draw, 30, 0.2, 0, 200))
        assert 0.8**3 < float(scaled.min()) < 0.9 < 1.1 < float(scaled.max()) < 1.2**3

    def test_inflating_moves_a_border_outward_by_what_is_asked_for(self):
        array = np.zeros((48, 48, 48), np.uint8)
        array[16:32, 16:32, 16:32] = 1
        made = how(deformation=STILL | {"inflate": [FLUID], "inflate_mm": 4})
        field = _inflation(array, Geometry(np.eye(4), array.shape), [1])
        assert float(field.norm(dim=0).max()) == pytest.approx(1, abs=1e-4)
        assert float(field[0, 2, 6, 6]) > 0.3 > -0.3 > float(field[0, 9, 6, 6])  # towards the middle, from both sides
        built = maker(made)
        sizes = {int((sample(built, seed).label == 3).sum()) for seed in range(10)}
        assert max(sizes) > 1.3 * min(sizes)

    def test_ablur_keeps_the_mean_and_is_each_images_own(self):
        image = torch.zeros(2, 1, 9, 9, 9)
        image[:, :, 4, 4, 4] = 1
        found = blur(image, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0]]))
        assert found.sum((1, 2, 3, 4)).tolist() == pytest.approx([1, 1])
        assert float(found[0, 0, 4, 4, 4]) == pytest.approx(1)
        assert float(found[1, 0, 5, 4, 4]) > float(found[1, 0, 4, 5, 4]) > float(found[1, 0, 4, 4, 5]) == 0


class TestLesions:
    def test_replace_their_hosts_alone_where_the_mask_lies_in_the_box(self, tmp_path):
        mask = np.zeros((20, 20, 20), np.uint8)
        mask[4:8, 4:16, 4:16] = 1  # in the left fifth, of the box that the cerebrum fills
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        save(Segmentation(mask, Geometry(affine, mask.shape), LabelTable.from_names({1: "x"})), tmp_path / "m.nii.gz")
        lesions = {
            "masks": "unused",
            "probability": 1.0,
            "hosts": {LEFT: LESION},
            "cerebrum": [LEFT, RIGHT],
            "cerebrum_mm": [[0, 38], [0, 38], [0, 38]],
        }
        made = how(lesions=lesions, targets={LEFT: "left", RIGHT: "right", LESION: "middle", FLUID: "left"})
        chosen = settings(made)
        built = Synthesiser(gather_maps([("head", head())], made, "RAS"), chosen, lesion_folder=tmp_path)
        label = sample(built, 0).label
        assert int((label == 3).sum()) > 100
        assert middle_of(label, 3)[0] < middle_of(label, 1)[0] + 2
        plain = sample(maker(how(targets=made.targets)), 0).label
        assert int((label == 3).sum()) == int((plain == 1).sum()) - int((label == 1).sum())


class TestRefused:
    def test_a_value_that_nothing_names_is_told_with_its_file(self):
        array = head().array.copy()
        array[0, 0, 0] = 77
        table = LabelTable.from_names(
            dict.fromkeys([SKULL, LEFT, RIGHT, FLUID, 77], "") | {v: str(v) for v in (SKULL, LEFT, RIGHT, FLUID, 77)}
        )
        with pytest.raises(LabelError, match=r"the values \[77\] in the label map head_07"):
            gather_maps([("head_07", Segmentation(array, head().geometry, table))], how(), "RAS")
        gather_maps([("head_07", Segmentation(array, head().geometry, table))], how(ignored=[77]), "RAS")

    def test_no_label_map_is_told(self, tmp_path):
        with pytest.raises(InputError, match="no label map at nowhere"):
            find_label_maps(tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"mixtures": {2: {"fat": 1.0}}}, "tissues fat, which `tissues` lacks"),
            ({"mirrored": [[2, 41], [41, 4]]}, r"mirrored names \[41\] more than once"),
            ({"tissues": {"a": [2], "b": [2]}}, r"tissues and mixtures name \[2\] more than once"),
            ({"contrasts": {"random": 0, "tied": 0, "priors": 0}}, "above 0"),
        ],
    )
    def test_a_configuration_that_contradicts_itself(self, change, words):
        with pytest.raises(ConfigError, match=words):
            how(**change)

    @pytest.mark.parametrize(
        ("made", "change", "words"),
        [
            (
                {"targets": {LEFT: "left", RIGHT: "rihgt", FLUID: "middle"}},
                {},
                "rihgt are no labels of the model; nothing becomes right",
            ),
            ({"label_maps": "maps"}, {"steps_per_epoch": None}, "needs steps_per_epoch"),
        ],
    )
    def test_targets_that_do_not_fit_the_model(self, made, change, words):
        with pytest.raises(ConfigError, match=words):
            settings(how(**made), **change)


class TestRun:
    @pytest.fixture
    def maps(self, tmp_path):
        (tmp_path / "maps").mkdir()
        for n in range(2):
            save(head(), tmp_path / "maps" / f"head_{n}.nii.gz")
        return tmp_path / "maps"

    def test_trains_on_made_images_alone_and_the_same_twice(self, maps, tmp_path):
        data = write_cases(tmp_path / "data", 3)
        (tmp_path / "data" / "dataset.json").write_text('{"labels": {"left": 2, "right": 7}}', encoding="utf-8")
        chosen = settings(how(label_maps=str(maps)), epochs=1, initial_bias="frequency")
        models_ = [train(chosen, tmp_path / name, data=data) for name in ("a", "b")]
        assert len({(made / "weights.safetensors").read_bytes() for made in models_}) == 1
        card = (models_[0] / "MODEL_CARD.md").read_text()
        assert "images made from 2 label maps" in card
        assert '"training": []' in (models_[0] / "split.json").read_text()
        assert "middle:\n      low: 0.1" in (models_[0] / "model.yaml").read_text()

    def test_takes_the_label_maps_of_the_training_cases_where_none_are_named(self, tmp_path):
        data = write_cases(tmp_path / "data", 4)
        model = models.spec().model_dump(mode="json")
        made = {"targets": {2: "front", 7: "back"}, "deformation": {}, "acquisition": {}}
        chosen = train_settings(model=model, synthesis=made, epochs=1, steps_per_epoch=1)
        folder = train(chosen, tmp_path / "run", data=data)
        assert '"case_' in (folder / "split.json").read_text().split("validation")[0]

    def test_samples_can_be_looked_at(self, maps, tmp_path, capsys):
        data = write_cases(tmp_path / "data", 2)
        config = tmp_path / "train.yaml"
        config.write_text(dump_yaml(settings(how(label_maps=str(maps)))), encoding="utf-8")
        out = tmp_path / "samples"
        command = ["data", "synthesise", str(config), "--data", str(data), "-o", str(out), "-n", "2"]
        assert run(command) == 0
        label = read_segmentation(out / "label_02.nii.gz")
        assert label.array.shape == (32, 40, 32)
        assert set(np.unique(label.array)) == {0, 1, 2, 3}
        assert (out / "samples.png").stat().st_size > 1000
        assert run(command) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert run([*command, "--overwrite"]) == 0

    def test_samples_of_a_configuration_without_the_block_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="without the block synthesis"):
            synthesise(train_settings(), tmp_path, data=write_cases(tmp_path / "data", 2))
        assert issubclass(OutputExistsError, Exception)

    def test_a_map_in_a_file_is_read_as_it_is_given(self, maps):
        chosen = settings(how(label_maps=str(maps)))
        read = read_label_maps(find_label_maps(maps), chosen.synthesis, "RAS")
        given = gather_maps([("head", head())], chosen.synthesis, "RAS")
        assert torch.equal(read.flat[: len(given.flat)], given.flat)
        assert read.volumes_ml(FLUID) == pytest.approx([4 * 8 * 8 / 1000] * 2)
        assert isinstance(chosen, TrainSettings)
