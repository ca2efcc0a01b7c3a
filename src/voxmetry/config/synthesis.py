"""How training images are made from label maps: the block `synthesis` of a training configuration."""

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

from pydantic import Field, model_validator

from voxmetry.core.base import Record

Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]


class Contrasts(Record):
    """How often the intensities of an image are drawn in which way; the shares are relative to each other."""

    random: NotNegative = 0.4
    """Each label's mean and spread by themselves; labels that mirror each other have the same."""
    tied: NotNegative = 0.4
    """Each tissue's mean by itself; a label's follows from the tissues that it is made of."""
    priors: NotNegative = 0.2
    """The same, with tissue means near those of a contrast that `priors` names."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.random + self.tied + self.priors <= 0:
            raise ValueError("one of random, tied and priors must be above 0")
        return self


class Deformation(Record):
    """How a label map is moved, turned and bent. All are drawn for each image."""

    rotate_degrees: NotNegative = 15.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Along each axis, up to this share larger or smaller."""
    shear: NotNegative = 0.05
    elastic_mm: NotNegative = 3.0
    """Standard deviation of the displacement at the nodes of a grid, which is interpolated between them."""
    elastic_step_mm: Positive = 32.0
    """Distance of the nodes."""
    inflate: tuple[int, ...] = ()
    """Labels that are inflated or shrunk together, such as the ventricles."""
    inflate_mm: NotNegative = 6.0
    """How far their border moves outward at most; half of it inward."""


class Acquisition(Record):
    """What a scanner would do to the image. All are drawn for each image."""

    thick_slices: Probability = 0.5
    """Probability of slices that are thicker along one axis, whichever."""
    slice_mm: tuple[Positive, Positive] = (1.0, 8.0)
    """Thinnest and thickest."""
    bias_field: NotNegative = 0.4
    """Standard deviation of the logarithm of the gain at the nodes of a coarse grid, at most."""
    gamma: NotNegative = 0.4
    """Standard deviation of the logarithm of the exponent."""
    noise: NotNegative = 0.1
    """Standard deviation at most, relative to the range of the image."""
    blur_voxels: NotNegative = 0.8
    """Standard deviation of a Gaussian at most."""
    cropped: Probability = 0.15
    """Probability that the image ends inside the patch, so that a part of it is empty."""


class Lesions(Record):
    """Lesion masks that are pasted into label maps."""

    masks: str
    """Folder of masks, in a space in which `cerebrum_mm` says where the cerebrum lies."""
    probability: Probability = 0.3
    hosts: dict[int, int]
    """Label of a lesion by the label that it replaces; elsewhere nothing is pasted."""
    cerebrum_mm: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] = (
        (-70.0, 70.0),
        (-106.0, 72.0),
        (-45.0, 82.0),
    )
    """Extent along R, A, S in the masks' space; by default that of MNI 152."""
    cerebrum: tuple[int, ...]
    """The labels whose box is matched with it."""


class Synthesis(Record):
    """Images that are made from label maps while training runs, of any contrast.

    After Billot 2023, doi 10.1016/j.media.2023.102789.

    A label map is deformed, each label becomes a Gaussian of its own or of its tissue, several samples of each voxel
    are averaged (partial volume), then come bias field, gamma, thick slices and noise.
    """

    label_maps: str | None = None
    """A folder of label maps, or a pattern such as `maps/*.nii.gz`, relative to the configuration, to VOXMETRY_DATA or
    to the working folder. None: the label maps of the training cases."""
    targets: dict[int, str]
    """Structure of the model by the label map's value; values that are not listed are background."""
    mirrored: tuple[tuple[int, int], ...] = ()
    """Values that are each other's mirror image. Where there are any, half of the label maps are mirrored."""
    outside: tuple[int, ...] = ()
    """Values outside of the brain, which a skull-stripped image lacks."""
    ignored: tuple[int, ...] = ()
    """Further values that the label maps may hold and that are background in image and target."""
    stripped: Probability = 0.25
    """Probability of a skull-stripped image."""
    stripped_too: tuple[int, ...] = ()
    """Values, such as that of the fluid round the brain, that half of the skull-stripped images lack as well."""
    tissues: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Values that consist of one tissue, by its name."""
    mixtures: dict[int, dict[str, float]] = Field(default_factory=dict)
    """Shares of tissues by value."""
    priors: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Mean of each tissue, 0 to 1, by the name of a contrast."""
    contrasts: Contrasts = Contrasts()
    easy_share: Probability = 0.1
    """Share of the run in which the share of `random` contrasts rises from 0 to its own."""
    jitters: Annotated[int, Field(ge=1, le=8)] = 3
    """Samples of each voxel that are averaged."""
    deformation: Deformation = Deformation()
    acquisition: Acquisition = Acquisition()
    lesions: Lesions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = {tissue for shares in self.mixtures.values() for tissue in shares}
        named |= {tissue for means in self.priors.values() for tissue in means}
        odd = sorted(named - set(self.tissues))
        if odd:
            raise ValueError(f"mixtures or priors name the tissues {', '.join(odd)}, which `tissues` lacks")
        values = [value for pair in self.mirrored for value in pair]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"mirrored names {twice} more than once")
        of = [value for values in self.tissues.values() for value in values] + list(self.mixtures)
        twice = sorted({value for value in of if of.count(value) > 1})
        if twice:
            raise ValueError(f"tissues and mixtures name {twice} more than once")
        return self

    @property
    def values(self) -> tuple[int, ...]:
        """All values that a label map may hold, 0 first."""
        named = {0, *self.targets, *self.outside, *self.ignored, *self.mixtures}
        named |= {value for pair in self.mirrored for value in pair}
        named |= {value for values in self.tissues.values() for value in values}
        if self.lesions is not None:
            named |= set(self.lesions.hosts.values())
        return tuple(sorted(named))
