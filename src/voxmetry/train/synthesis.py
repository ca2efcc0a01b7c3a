"""Images made from label maps, a batch at a time, on the CPU or a GPU; see `config.synthesis`.

All that is drawn comes from one generator, so a batch follows from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from voxmetry.config import TrainSettings
from voxmetry.config.synthesis import Synthesis
from voxmetry.errors import ConfigError
from voxmetry.train.augmentation import left_right_axis
from voxmetry.train.batches import Batch
from voxmetry.train.label_maps import LabelMaps, read_lesions
from voxmetry.train.synthesis_parts import Draw, blur, random_linear, sample_field, standardise

NEAR_TARGET = 0.85
"""Share of the patches whose middle lies in the box of the target labels; the others lie anywhere in the map."""
PRIOR_SD = 0.06
"""Spread of a tissue's mean round that of a prior."""
LABEL_SD = 0.03
"""Spread of a label's mean round that of its tissues."""
LATTICE = (0.8191725, 0.6710436, 0.5497005)
"""Steps of an even sequence of places in a cube: powers of 1 / g, where g^4 = g + 1."""


class Synthesiser:
    """Makes batches of images and labels.

    Parameters
    ----------
    maps
        The label maps, along the axes of the model.
    settings
        The run; its `synthesis` says how.
    lesion_folder
        Where the lesion masks lie, if the configuration asks for any.
    device
        Where images are made.
    """

    def __init__(
        self,
        maps: LabelMaps,
        settings: TrainSettings,
        *,
        lesion_folder: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if settings.synthesis is None:
            raise ConfigError(
                found="a training configuration without synthesis", expected="the block 'synthesis'", fix="add it"
            )
        self.how: Synthesis = settings.synthesis
        self.device, self.patch = torch.device(device), settings.model.window.patch
        self.maps, self.names = maps, settings.model.labels.names
        self.flat, self.offsets = maps.flat.to(self.device), maps.offsets.to(self.device)
        self.shapes, self.spacings = maps.shapes.to(self.device), maps.spacings_mm.to(self.device)
        self.boxes = maps.boxes.to(self.device)
        self.fields = [field.to(self.device) for field in maps.fields] if maps.fields is not None else None
        axes = [
            (torch.arange(size, device=self.device) - (size - 1) / 2) * step
            for size, step in zip(self.patch, settings.model.spacing_mm, strict=True)
        ]
        self.step_mm = torch.tensor(settings.model.spacing_mm, device=self.device)
        self.base_mm = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        self.side = left_right_axis(settings.model) if self.how.mirrored else 0
        self.target = self._target_rule()
        self.mirror = self._mirror_rule()
        self.tissues = tuple(self.how.tissues)
        self.composition = self._composition()
        self.lesions: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        if self.how.lesions is not None and lesion_folder is not None:
            masks, ends = read_lesions(lesion_folder, self.how.lesions)
            self.lesions = [mask.to(self.device) for mask in masks], [end.to(self.device) for end in ends]
        self.hosts = self._host_rule()

    def __call__(self, generator: torch.Generator, n: int, *, progress: float = 1.0) -> Batch:
        """Make a batch.

        Parameters
        ----------
        generator
            Decides everything, on the same device.
        n
            Images.
        progress
            Share of the run that is behind it; easy contrasts come first.

        Returns
        -------
        Batch
            Images (n, 1, *patch) with mean 0 and standard deviation 1, labels (n, 1, *patch).
        """
        draw = Draw(generator, self.device)
        chosen = torch.randint(len(self.maps.names), (n,), generator=generator, device=self.device)
        flipped = draw.chance(0.5 if self.how.mirrored else 0.0, n)
        voxels, linear = self._places_in_map(draw, chosen, flipped, n)
        lesion = self._choose_lesions(draw, n)
        stripped = draw.chance(self.how.stripped, n)
        lacks = self._lacking(draw, stripped, n)
        means, spreads = self._intensities(draw, n, progress)
        means, spreads = means.masked_fill(lacks, 0), spreads.masked_fill(lacks, 0)
        image = torch.zeros((n, *self.patch), device=self.device)
        for offset in self._offsets_in_voxel(draw, linear, chosen):
            found = self._look_up(voxels + offset, chosen, flipped, lesion)
            image += self._render(draw, found, means, spreads)
        image /= self.how.jitters
        label = self._look_up(voxels, chosen, flipped, lesion).long()
        label = torch.gather(self.target.expand(n, -1).masked_fill(lacks, 0), 1, label.flatten(1)).view(label.shape)
        return self._finish(draw, image[:, None], label[:, None])

    def _places_in_map(
        self, draw: Draw, chosen: torch.Tensor, flipped: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where each voxel of the patch lies in its label map (n, 3, *patch), in voxels, and the linear part."""
        deform = self.how.deformation
        linear = random_linear(draw, deform.rotate_degrees, deform.scale, deform.shear, n)
        linear[:, :, self.side] = torch.where(flipped[:, None], -linear[:, :, self.side], linear[:, :, self.side])
        moved = torch.einsum("nab,bijk->naijk", linear, self.base_mm)
        if deform.elastic_mm:
            size = [
                1 + max(1, round(s * float(m) / deform.elastic_step_mm))
                for s, m in zip(self.patch, self.step_mm, strict=True)
            ]
            nodes = draw.normal(n, 3, *size) * draw.uniform(0.2, 1.0, n).view(n, 1, 1, 1, 1) * deform.elastic_mm
            moved = moved + functional.interpolate(nodes, size=self.patch, mode="trilinear", align_corners=True)
        spacing = self.spacings[chosen]
        voxels = moved / spacing.view(n, 3, 1, 1, 1) + self._centres(draw, chosen, n).view(n, 3, 1, 1, 1)
        if self.fields is not None:
            most = draw.uniform(-deform.inflate_mm / 2, deform.inflate_mm, n)
            for row in range(n):
                pull = sample_field(self.fields[int(chosen[row])], voxels[row], self.shapes[chosen[row]])
                voxels[row] += pull * (most[row] / spacing[row]).view(3, 1, 1, 1)
        return voxels, linear

    def _centres(self, draw: Draw, chosen: torch.Tensor, n: int) -> torch.Tensor:
        """Return the middle of each patch in its map, (n, 3) voxels."""
        box = self.boxes[chosen]
        quarter = (box[:, 1] - box[:, 0]) / 4
        near = draw.chance(NEAR_TARGET, n)[:, None]
        shape = self.shapes[chosen].float()
        low = torch.where(near, box[:, 0] + quarter, 0.1 * shape)
        high = torch.where(near, box[:, 1] - quarter, 0.9 * shape)
        return low + (high - low) * draw.uniform(0, 1, n, 3)

    def _offsets_in_voxel(
        self, draw: Draw, linear: torch.Tensor, chosen: torch.Tensor
    ) -> Iterator[torch.Tensor | float]:
        """Yield places within each voxel of the patch, from its middle, in voxels of the map.

        They are spread evenly, so that few of them see a voxel's parts in their shares: a lattice that each voxel
        shifts at random (Cranley and Patterson 1976, doi 10.1137/0713071).
        """
        if self.how.jitters == 1:
            yield 0.0
            return
        shift = draw.uniform(0, 1, len(chosen), 3, *self.patch)
        lattice = torch.tensor(LATTICE, device=self.device).view(1, 3, 1, 1, 1)
        to_map = linear * self.step_mm / self.spacings[chosen][:, :, None]
        for number in range(self.how.jitters):
            inside = (shift + number * lattice).frac_().sub_(0.5)
            yield torch.einsum("nab,nbijk->naijk", to_map, inside)

    def _look_up(
        self,
        voxels: torch.Tensor,
        chosen: torch.Tensor,
        flipped: torch.Tensor,
        lesion: Sequence[int | None],
    ) -> torch.Tensor:
        """Return the nearest compact value for each place; 0 outside of the map."""
        nearest = voxels.round().long()
        shape = self.shapes[chosen].view(-1, 3, 1, 1, 1)
        inside = ((nearest >= 0) & (nearest < shape)).all(1)
        i, j, k = nearest.clamp_min(0).minimum(shape - 1).unbind(1)
        size_j, size_k = shape[:, 1], shape[:, 2]
        place = self.offsets[chosen].view(-1, 1, 1, 1) + (i * size_j + j) * size_k + k
        found = torch.where(inside, self.flat[place], 0)
        for row, which in enumerate(lesion):
            if which is not None:
                found[row] = self._paste(found[row], voxels[row], int(chosen[row]), which)
        return torch.where(flipped.view(-1, 1, 1, 1), self.mirror[found.long()], found)

    def _paste(self, found: torch.Tensor, voxels: torch.Tensor, chosen: int, which: int) -> torch.Tensor:
        """Replace hosts by lesions where a mask, matched by the box of the cerebrum, has one."""
        if self.maps.cerebra is None:
            return found
        mask, there = self.lesions[0][which], self.lesions[1][which]
        here = self.maps.cerebra[chosen].to(self.device)
        scale = (there[1] - there[0]) / (here[1] - here[0]).clamp_min(1)
        at = (voxels - here[0].view(3, 1, 1, 1)) * scale.view(3, 1, 1, 1) + there[0].view(3, 1, 1, 1)
        at = at.round().long()
        shape = torch.tensor(mask.shape, device=self.device).view(3, 1, 1, 1)
        inside = ((at >= 0) & (at < shape)).all(0)
        i, j, k = at.clamp_min(0).minimum(shape - 1).unbind(0)
        return torch.where(inside & mask[i, j, k], self.hosts[found.long()], found)

    def _choose_lesions(self, draw: Draw, n: int) -> list[int | None]:
        if self.how.lesions is None or not self.lesions[0]:
            return [None] * n
        wanted = draw.chance(self.how.lesions.probability, n).tolist()
        which = (draw.uniform(0, 1, n) * len(self.lesions[0])).long().clamp_max(len(self.lesions[0]) - 1).tolist()
        return [place if want else None for place, want in zip(which, wanted, strict=True)]

    def _lacking(self, draw: Draw, stripped: torch.Tensor, n: int) -> torch.Tensor:
        """Return (n, values) bool: what a skull-stripped image lacks."""
        lacks = torch.zeros((n, len(self.maps.values)), dtype=torch.bool, device=self.device)
        without = [self.maps.values.index(value) for value in (0, *self.how.outside)]
        lacks[:, without] = stripped[:, None]
        also = stripped & draw.chance(0.5, n)
        if self.how.stripped_too:
            too = [self.maps.values.index(value) for value in self.how.stripped_too]
            lacks[:, too] = also[:, None]
        return lacks

    def _intensities(self, draw: Draw, n: int, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and spread of each value, (n, values), the means within about 0 to 1."""
        shares = self.how.contrasts
        rises = min(1.0, progress / self.how.easy_share) if self.how.easy_share else 1.0
        has_tissues = bool(self.tissues)
        weights = torch.tensor(
            [
                shares.random * rises if has_tissues else 1.0,
                shares.tied if has_tissues else 0.0,
                shares.priors if has_tissues and self.how.priors else 0.0,
            ]
        )
        if float(weights.sum()) == 0:
            weights[0] = 1.0
        weights /= weights.sum()
        kind = torch.bucketize(draw.uniform(0, 1, n), weights.cumsum(0).to(self.device)[:-1].contiguous())
        means = draw.uniform(0, 1, n, len(self.maps.values))
        means = means[:, self._first_of_pair()]
        if has_tissues:
            tissue = draw.uniform(0, 1, n, len(self.tissues))
            tissue = torch.where((kind == 2)[:, None], self._prior_means(draw, n), tissue)
            tied = tissue @ self.composition.T + LABEL_SD * draw.normal(n, len(self.maps.values))
            made_of = self.composition.sum(1) > 0
            means = torch.where((kind > 0)[:, None] & made_of, tied, means)
        spreads = draw.uniform(0.01, 0.06, n, 1) * draw.uniform(0.5, 1.5, n, len(self.maps.values))
        # Air is dark as a rule, and its noise is what the acquisition adds.
        dark = draw.chance(0.95, n)
        means[:, 0] = torch.where(dark, draw.uniform(0, 0.08, n), means[:, 0])
        return means.clamp(0, 1.2), spreads

    def _prior_means(self, draw: Draw, n: int) -> torch.Tensor:
        names = list(self.how.priors)
        if not names:
            return torch.zeros((n, len(self.tissues)), device=self.device)
        table = torch.full((len(names), len(self.tissues)), math.nan, device=self.device)
        for row, name in enumerate(names):
            for tissue, mean in self.how.priors[name].items():
                table[row, self.tissues.index(tissue)] = mean
        which = (draw.uniform(0, 1, n) * len(names)).long().clamp_max(len(names) - 1)
        near = table[which] + PRIOR_SD * draw.normal(n, len(self.tissues))
        return torch.where(torch.isnan(near), draw.uniform(0, 1, n, len(self.tissues)), near)

    def _render(self, draw: Draw, found: torch.Tensor, means: torch.Tensor, spreads: torch.Tensor) -> torch.Tensor:
        flat = found.flatten(1).long()
        noise = draw.normal(*flat.shape)
        image: torch.Tensor = means.gather(1, flat) + spreads.gather(1, flat) * noise
        return image.view(found.shape)

    def _finish(self, draw: Draw, image: torch.Tensor, label: torch.Tensor) -> Batch:
        """Do what a scanner does, then normalise."""
        n, scan = len(image), self.how.acquisition
        empty = (image == 0).float()
        if scan.bias_field:
            gain = draw.normal(n, 1, 4, 4, 4) * (draw.uniform(0, scan.bias_field, n).view(n, 1, 1, 1, 1))
            image = image * functional.interpolate(gain, size=self.patch, mode="trilinear", align_corners=True).exp()
        if scan.gamma:
            image = image.clamp_min(0) ** (scan.gamma * draw.normal(n)).exp().view(n, 1, 1, 1, 1)
        if scan.blur_voxels:
            image = blur(image, draw.uniform(0, scan.blur_voxels, n, 3))
        image = self._thick(draw, image)
        if scan.noise:
            sd = draw.uniform(0, 1, n).square().view(n, 1, 1, 1, 1) * scan.noise
            # The magnitude of a complex value with noise: it has a floor in the air (Gudbjartsson 1995).
            image = (
                (image + sd * draw.normal(*image.shape)).square() + (sd * draw.normal(*image.shape)).square()
            ).sqrt()
        image = image * (1 - empty)
        kept = self._field_of_view(draw, n)
        image, label = image * kept, label * kept.to(label.dtype)
        return Batch(standardise(image), label)

    def _thick(self, draw: Draw, image: torch.Tensor) -> torch.Tensor:
        """Average over thick slices along one axis, then interpolate between their middles."""
        scan, n = self.how.acquisition, len(image)
        wanted = draw.chance(scan.thick_slices, n).tolist()
        axes = (draw.uniform(0, 3, n)).long().clamp_max(2).tolist()
        low, high = scan.slice_mm
        thickness = (low + (high - low) * draw.uniform(0, 1, n)).tolist()
        rows = []
        for row, (want, axis, mm) in enumerate(zip(wanted, axes, thickness, strict=True)):
            one, step = image[row : row + 1], float(self.step_mm[axis])
            if want and mm > 1.2 * step:
                size = list(self.patch)
                size[axis] = max(2, round(size[axis] * step / mm))
                slices = functional.interpolate(one, size=size, mode="area")
                one = functional.interpolate(slices, size=self.patch, mode="trilinear")
            rows.append(one)
        return torch.cat(rows)

    def _field_of_view(self, draw: Draw, n: int) -> torch.Tensor:
        """Return (n, 1, *patch) 0 or 1: where the image reaches."""
        kept = torch.ones((n, 1, *self.patch), device=self.device)
        cut = draw.chance(self.how.acquisition.cropped, n).tolist()
        shares = draw.uniform(0, 0.35, n, 3, 2)
        sides = draw.chance(0.4, n, 3, 2)
        for row in range(n):
            for axis in range(3) if cut[row] else ():
                size = self.patch[axis]
                first, last = ((shares[row, axis] * sides[row, axis]) * size).long().tolist()
                kept[row].narrow(axis + 1, 0, first).zero_()
                kept[row].narrow(axis + 1, size - last, last).zero_()
        return kept

    def _target_rule(self) -> torch.Tensor:
        rule = [
            1 + self.names.index(self.how.targets[value]) if value in self.how.targets else 0
            for value in self.maps.values
        ]
        return torch.tensor(rule, device=self.device)

    def _mirror_rule(self) -> torch.Tensor:
        rule = torch.arange(len(self.maps.values), dtype=torch.uint8, device=self.device)
        for one, other in self.how.mirrored:
            a, b = self.maps.values.index(one), self.maps.values.index(other)
            rule[a], rule[b] = b, a
        return rule

    def _host_rule(self) -> torch.Tensor:
        rule = torch.arange(len(self.maps.values), dtype=torch.uint8, device=self.device)
        for host, lesion in (self.how.lesions.hosts if self.how.lesions is not None else {}).items():
            rule[self.maps.values.index(host)] = self.maps.values.index(lesion)
        return rule

    def _first_of_pair(self) -> torch.Tensor:
        order = torch.arange(len(self.maps.values), device=self.device)
        for one, other in self.how.mirrored:
            order[self.maps.values.index(other)] = self.maps.values.index(one)
        return order

    def _composition(self) -> torch.Tensor:
        """Return the share of each tissue in each value, (values, tissues)."""
        table = torch.zeros((len(self.maps.values), max(1, len(self.tissues))), device=self.device)
        for place, tissue in enumerate(self.tissues):
            for value in self.how.tissues[tissue]:
                table[self.maps.values.index(value), place] = 1.0
        for value, shares in self.how.mixtures.items():
            for tissue, share in shares.items():
                table[self.maps.values.index(value), self.tissues.index(tissue)] = share
        return table
