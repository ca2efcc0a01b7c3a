import math

import numpy as np
import pytest
import torch

import balls
import models
from cases import write_cases
from voxmetry import Geometry, Segmentation, Volume, save
from voxmetry.config import ModelSpec, TrainSettings, load_yaml, parse_record
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, InputError
from voxmetry.nn.network_cost import _Live
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.networks.dynunet import split_outputs
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import open_data
from voxmetry.train.fingerprint import ChannelFacts, Fingerprint, StructureFacts, scan
from voxmetry.train.losses import build_loss, on_grid_of
from voxmetry.train.plan import make_plan
from voxmetry.train.plan_memory import BASE_GB, Budget, Outputs, memory_gb


def fingerprint(**change) -> Fingerprint:
    content = {
        "name": "set",
        "n_cases": 40,
        "n_patients": 40,
        "spacing_mm": (1.0, 1.0, 1.0),
        "spacing_range_mm": ((1.0, 1.0),) * 3,
        "extent_mm": (200.0, 160.0, 120.0),
        "extent_range_mm": ((150.0, 250.0),) * 3,
        "fine_spacing_mm": (1.0, 1.0, 1.0),
        "channels": (channel(),),
        "structures": (StructureFacts(name="liver", n_cases=40, n_known=40, volume_ml=(1, 2, 3), share=0.02),),
    }
    return Fingerprint(**(content | change))


def channel(**change) -> ChannelFacts:
    content = {
        "name": "ct",
        "modality": "CT",
        "unit": "HU",
        "minimum": -1024.0,
        "maximum": 3000.0,
        "foreground_percentiles": (-60.0, 50.0, 180.0),
        "foreground_mean": 52.0,
        "foreground_sd": 31.0,
        "share_zero": 0.0,
    }
    return ChannelFacts(**(content | change))


def plan(found: Fingerprint | None = None, *, names=("liver",), **budget):
    table = LabelTable.from_names(dict(enumerate(names, start=1)))
    return make_plan(found or fingerprint(), DataSet("set", (), table, ()), data="set", budget=Budget(**budget))


class TestScan:
    def test_measures_the_phantoms(self, tmp_path):
        named, facts, found = scan(open_data(write_cases(tmp_path / "mr")))
        assert named.labels.names == ("front", "back")
        assert found.spacing_mm == pytest.approx((1.0, 1.2, 2.5), abs=1e-4)
        assert found.extent_range_mm[0] == pytest.approx((18.0, 22.0), abs=1e-3)
        assert [row.volume_ml[1] for row in found.structures] == pytest.approx([0.36, 0.288], abs=1e-4)
        assert found.channels[0].foreground_percentiles[1] == pytest.approx(190, abs=40)
        assert len({row.digest for row in facts}) == 5

    def test_an_image_without_contrast_is_named(self, tmp_path):
        from voxmetry import Volume, read_volume, save

        folder = write_cases(tmp_path)
        path = folder / "images" / "case_3.nii.gz"
        volume = read_volume(path)
        save(Volume(volume.array * 0 + 4, volume.geometry), path)
        with pytest.raises(InputError, match="case_3: an image that holds the single value 4"):
            scan(open_data(folder))

    @pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
    def test_only_empty_label_maps_are_refused(self, tmp_path, suffix):
        """With names inside the files (NIfTI) and without any."""
        from voxmetry import LabelTable, Segmentation, read_segmentation, save

        folder = write_cases(tmp_path, 2)
        for path in sorted((folder / "labels").iterdir()):
            label = read_segmentation(path)
            path.unlink()
            table = label.labels if suffix == ".nii.gz" else LabelTable(labels=())
            save(Segmentation(label.array * 0, label.geometry, table), path.parent / f"{path.name[:6]}{suffix}")
        with pytest.raises(InputError, match="all empty"):
            scan(open_data(folder))


class TestPlan:
    @pytest.mark.parametrize("memory", [1.0, 2.0, 4.0, 12.0])
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 4.0), (0.8, 3.0, 0.8)])
    def test_the_patch_is_legal_and_fits(self, memory, spacing):
        found = fingerprint(spacing_mm=spacing, fine_spacing_mm=spacing)
        settings = plan(found, memory_gb=memory, device="cuda").settings
        network, patch = settings.model.network, settings.model.window.patch
        assert all(size % divisor == 0 for size, divisor in zip(patch, network.divisor, strict=True))
        strides, channels = [list(s) for s in network.strides], list(network.channels)
        assert memory_gb(list(patch), strides, channels, settings.batch_size, Outputs(2)) <= memory

    def test_more_memory_gives_a_larger_patch(self):
        small, large = (
            math.prod(plan(memory_gb=memory, device="cuda").settings.model.window.patch) for memory in (1.0, 6.0)
        )
        assert large > 2 * small

    def test_more_classes_leave_less_room_for_the_patch(self):
        few, many = (
            plan(names=[f"s{n}" for n in range(classes)], memory_gb=2.0, device="cuda") for classes in (1, 104)
        )
        assert math.prod(many.settings.model.window.patch) < 0.6 * math.prod(few.settings.model.window.patch)
        assert many.settings.batch_size <= few.settings.batch_size

    def test_a_processor_gets_a_small_patch(self):
        assert math.prod(plan(memory_gb=16).settings.model.window.patch) <= 64**3

    def test_too_little_memory_is_told(self):
        with pytest.raises(ConfigError, match="raise --memory-gb"):
            plan(memory_gb=0.6)

    def test_thick_slices_are_not_halved_nor_mixed_at_first(self):
        found = fingerprint(spacing_mm=(0.5, 0.5, 4.0), fine_spacing_mm=(0.5, 0.5, 2.5))
        made = plan(found, memory_gb=4, device="cuda")
        assert made.settings.model.spacing_mm[2] == 2.5
        assert "10th percentile" in made.reasons["model.spacing_mm"]
        assert made.settings.model.network.kernels[0] == (3, 3, 1)
        assert made.settings.model.network.strides[1] == (2, 2, 1)

    def test_an_image_that_a_patch_hardly_sees_is_coarsened_with_a_reason(self):
        made = plan(fingerprint(extent_mm=(500.0, 500.0, 1000.0)), memory_gb=2)
        assert min(made.settings.model.spacing_mm) > 1.5
        assert "coarsened" in made.reasons["model.spacing_mm"]

    def test_normalisation_follows_the_modality(self):
        pet = channel(name="pet", modality="PT", unit="SUVbw", minimum=0.0)
        mr = channel(name="t1", modality=None, unit="1", minimum=0.0, share_zero=0.4)
        made = plan(fingerprint(channels=(channel(), pet, mr)))
        ct, pt, t1 = (item.normalise for item in made.settings.model.inputs)
        assert (ct.method, ct.low, ct.high, ct.mean, ct.sd) == ("window", -60.0, 180.0, 52.0, 31.0)
        assert (pt.method, pt.low) == ("window", 0.0)
        assert (t1.method, t1.nonzero) == ("zscore", True)
        assert "nothing says what it is" in made.reasons["model.inputs"]

    def test_the_modality_follows_from_values_or_is_given(self):
        unknown = fingerprint(channels=(channel(modality=None),))
        assert plan(unknown).settings.model.inputs[0].modality == "CT"
        assert plan(unknown, modalities=("MR",)).settings.model.inputs[0].modality == "MR"
        with pytest.raises(ConfigError, match="one modality for each channel"):
            plan(fingerprint(channels=(channel(), channel(name="b"))), modalities=("CT",))

    @pytest.mark.parametrize(("name", "axes"), [("kidney_left", ()), ("left kidney", ()), ("leftover", (0,))])
    def test_structures_with_a_side_are_not_mirrored(self, name, axes):
        assert plan(names=(name,)).settings.augment.flip_axes == axes

    def test_rare_structures_get_more_patches_and_a_loss_that_misses_less(self):
        rare = StructureFacts(name="node", n_cases=40, n_known=40, volume_ml=(0.1, 0.2, 0.3), share=5e-5)
        settings = plan(fingerprint(structures=(rare,))).settings
        assert (settings.foreground_fraction, settings.loss) == (0.5, "tversky")
        assert plan().settings.loss == "dice_ce"
        assert plan(fingerprint(extent_mm=(40.0, 48.0, 32.0))).settings.foreground_fraction == 0

    def test_the_yaml_is_the_settings_with_a_reason_above_each_choice(self, tmp_path):
        made = plan()
        path = tmp_path / "plan.yaml"
        path.write_text(made.to_yaml(), encoding="utf-8")
        assert load_yaml(path, TrainSettings) == made.settings
        lines = made.to_yaml().splitlines()
        for key in ("spacing_mm:", "window:", "network:", "epochs:", "foreground_fraction:", "loss:"):
            place = next(i for i, line in enumerate(lines) if line.strip().startswith(key))
            assert lines[place - 1].strip().startswith("# "), key
        assert max(map(len, lines)) <= 120


class TestInstances:
    def vertebrae(self, boxes, **change) -> Fingerprint:
        row = StructureFacts(
            name="vertebra",
            n_cases=40,
            n_known=40,
            volume_ml=(1, 2, 3),
            share=0.02,
            n_instances=(5, 5, 7),
            boxes_mm=boxes,
        )
        return fingerprint(structures=(row,), **change)

    def test_a_data_set_of_instances_is_planned_as_mask_rcnn(self, tmp_path):
        _, facts, found = scan(open_data(balls.write_cases(tmp_path)))
        assert found.structures[0].n_instances == (2, 2, 2)
        assert len(facts[0].boxes_mm["ball"]) == 2
        made = make_plan(found, open_data(tmp_path / "balls.yaml"), data="set")
        network = made.settings.model.network
        assert (network.kind, network.things) == ("maskrcnn", ("ball",))
        assert all(11 <= mm <= 14 for shape in network.anchors_mm for mm in shape)
        assert "2 instances" not in made.reasons["model.network.anchors_mm"]
        (tmp_path / "plan.yaml").write_text(made.to_yaml())
        assert load_yaml(tmp_path / "plan.yaml", TrainSettings) == made.settings

    def test_boxes_are_measured_along_the_patients_axes(self, tmp_path):
        array = np.zeros((6, 8, 10), np.uint16)
        array[1:3, 2:7, 4:5] = 2
        affine = np.array([[0.0, 2.0, 0, 0], [0, 0, 3.0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
        grid = Geometry(affine, array.shape)
        for part, thing in (
            ("images", Volume(np.random.default_rng(0).normal(0, 1, array.shape).astype(np.float32), grid)),
            ("labels", Segmentation(array, grid, LabelTable.from_names({2: "2"}))),
        ):
            (tmp_path / part).mkdir()
            save(thing, tmp_path / part / "case_0.nii.gz")
        balls_manifest = (
            'name: a\nchannels: [{name: t1, modality: MR, path: "images/{case}.nii.gz"}]\n'
            'label: "labels/{case}.nii.gz"\ninstances_of: ball\ncases: [case_0]\n'
        )
        (tmp_path / "a.yaml").write_text(balls_manifest)
        _, (facts,), _ = scan(open_data(tmp_path / "a.yaml"))
        assert facts.boxes_mm == {"ball": ((10.0, 3.0, 10.0),)}

    def test_things_of_many_sizes_are_proposed_on_several_levels(self):
        even = plan(self.vertebrae(((40.0, 40.0, 40.0),) * 30), names=("vertebra",)).settings.model.network
        spread = tuple((s, s, s) for s in (8.0, 10.0, 12.0, 20.0, 30.0, 45.0, 60.0) for _ in range(5))
        wide = plan(self.vertebrae(spread), names=("vertebra",)).settings.model.network
        assert len(even.proposal_levels) == 1
        assert len(wide.proposal_levels) == 3
        assert wide.proposal_levels[0] < even.proposal_levels[0]
        assert max(max(shape) for shape in wide.anchors_mm) <= 2 * 8.0 * 1.1
        assert even.pyramid_level == even.proposal_levels[0] - 1

    @pytest.mark.parametrize("kind", ["dynunet", "fcn"])
    def test_another_network_can_be_asked_for(self, kind):
        made = plan(self.vertebrae(((40.0, 40.0, 40.0),) * 30), names=("vertebra",), network=kind)
        assert made.settings.model.network.kind == kind

    def test_mask_rcnn_for_label_maps_without_instances_is_refused(self):
        with pytest.raises(ConfigError, match="instances_of"):
            plan(network="maskrcnn")


PATCH = 16


def live_gb(classes: int, *, partial: bool) -> tuple[float, list[list[int]], list[int]]:
    """The most that the tensors of one step of a network hold at once, its levels' strides and channels."""
    content = models.spec().model_dump(mode="json")
    labels = [{"value": n, "name": f"s{n}", "colour": "#E69F00"} for n in range(1, classes)]
    strides, channels = [[1] * 3, [2] * 3, [2] * 3, [2] * 3], [16, 32, 64, 128]
    network = {"channels": channels, "strides": strides, "kernels": [[3] * 3] * 4, "deep_supervision": 1}
    change = {"labels": {"labels": labels}, "training_domain": {}, "window": {"patch": [PATCH] * 3}, "network": network}
    spec = parse_record(content | change, ModelSpec, where="test")
    made, criterion = build_network(spec).train(), build_loss("dice_ce")
    image, label = torch.randn(1, 1, *[PATCH] * 3), torch.randint(0, classes, (1, 1, *[PATCH] * 3))
    absent = (torch.rand(1, classes, *[PATCH] * 3) < 0.3) if partial else None
    if absent is not None:
        absent[:, 0] = False
    with _Live() as live:
        weighted = split_outputs(made(image), levels=1)
        parts = [weight * criterion(output, *on_grid_of(output, label, absent)) for weight, output in weighted]
        loss = torch.stack(parts).sum()
        del weighted, parts
        loss.backward()
    return live.peak / 1e9, strides, channels


@pytest.mark.parametrize("partial", [False, True])
def test_the_estimate_covers_the_tensors_of_a_step_whatever_the_classes(partial):
    found = []
    for classes in (3, 105):
        counted, strides, channels = live_gb(classes, partial=partial)
        # At this size the gradients of the weights count, which the estimate's base is for.
        estimate = memory_gb([PATCH] * 3, strides, channels, 1, Outputs(classes, partial=partial)) - BASE_GB
        found.append((counted, estimate))
    grown, expected = (found[1][which] - found[0][which] for which in (0, 1))
    assert grown < expected < 2 * grown
