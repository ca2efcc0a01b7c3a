"""Public models that `voxmetry models pull` knows: where they lie, what they segment, under which licence.

The facts are in `catalogue.yaml`; nothing is fetched by reading it.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, model_validator

from voxmetry.config import Axcodes, Spacing, load_yaml, parse_record
from voxmetry.core.base import Record
from voxmetry.core.text import did_you_mean
from voxmetry.errors import ModelError
from voxmetry.models.composite import Crop

OPEN_LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0")
"""Licences that allow any use; under others a person agrees before a model is fetched."""
OTHER_LICENCES = ("CC-BY-NC-4.0", "CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0", "not stated")
HOSTS_WITHOUT_TLS = ("127.0.0.1", "localhost", "[::1]")


class Part(Record):
    """One archive of weights."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    kind: Literal["nnunet", "bundle"] = "nnunet"
    url: str
    folder: str
    """The model folder inside of the archive."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sha1: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """As published; a file of another checksum is refused."""
    folds: tuple[str, ...] | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of neighbouring windows, where the model's authors do not use their framework's half."""
    axes: Axcodes | Literal["stored"] = "RAS"
    """Axes of the training images; "stored" where they are not known, and a study is flagged."""
    mirroring: bool = False
    """Whether scores are averaged over mirror images where the checkpoint says so, as the model's authors do."""
    labels: tuple[str, ...] = ()
    """Names of the label values 1, 2, 3 of this part; none: those of the whole model. Higher values are dropped."""

    @property
    def file(self) -> str:
        """Name of the archive."""
        return PurePosixPath(urlsplit(self.url).path).name


class CatalogueEntry(Record):
    """A public model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    summary: str
    licence: str
    modality: Literal["CT", "MR", "PT"]
    body_part: str
    source: str
    table: str | None = None
    """Name of a table of this catalogue that holds the labels."""
    labels: tuple[str, ...] = ()
    """Names of the label values 1, 2, 3; none for a model that says them itself."""
    resample_mm: Spacing | None = None
    crop: Crop | None = None
    coarse: str | None = None
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        kinds = {part.kind for part in self.parts}
        if "bundle" in kinds and (len(self.parts) > 1 or self.labels or self.crop or self.resample_mm):
            raise ValueError("a bundle is one part and says labels and resampling itself")
        if self.licence not in (*OPEN_LICENCES, *OTHER_LICENCES):
            raise ValueError(
                f"licence {self.licence!r} is not known: one of {', '.join((*OPEN_LICENCES, *OTHER_LICENCES))}"
            )
        return self

    @property
    def is_open(self) -> bool:
        """Whether the licence allows any use."""
        return self.licence in OPEN_LICENCES

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of other models that this one runs."""
        return (self.crop.model,) if self.crop else ()


class Catalogue(Record):
    """The content of `catalogue.yaml`."""

    schema_version: Literal[1]
    sources: dict[str, str]
    addresses: dict[str, str] = Field(default_factory=dict)
    """What `{name}` at the beginning of an address stands for."""
    tables: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    models: tuple[CatalogueEntry, ...]

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        names = [entry.name for entry in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} named more than once")
        resolved = tuple(self._resolve(entry) for entry in self.models)
        for entry in resolved:
            unknown = {*entry.needs, *([entry.coarse] if entry.coarse else [])} - set(names)
            if unknown:
                raise ValueError(f"{entry.name} needs {', '.join(sorted(unknown))}, which is not in the catalogue")
        object.__setattr__(self, "models", resolved)
        return self

    def _resolve(self, entry: CatalogueEntry) -> CatalogueEntry:
        """Put in the table and the addresses that an entry names, and see that its parts give what it promises."""
        labels = entry.labels
        if entry.table is not None:
            if entry.table not in self.tables or labels:
                raise ValueError(f"{entry.name}: table {entry.table!r} is not there, or stands beside labels")
            labels = self.tables[entry.table]
        if entry.source.split(",")[0] not in self.sources:
            raise ValueError(f"{entry.name}: source {entry.source!r} is none of {', '.join(self.sources)}")
        parts = tuple(part.model_copy(update={"url": self._address(part.url)}) for part in entry.parts)
        if parts[0].kind == "nnunet":
            given = [name for part in parts for name in part.labels or labels]
            if not labels or sorted(given) != sorted(labels):
                raise ValueError(f"{entry.name}: the parts do not give each of its labels once")
        return entry.model_copy(update={"labels": labels, "table": None, "parts": parts})

    def _address(self, url: str) -> str:
        found = re.match(r"\{([a-z0-9-]+)\}", url)
        if found and found[1] in self.addresses:
            url = self.addresses[found[1]] + url[found.end() :]
        split = urlsplit(url)
        secure = split.scheme == "https" or (split.scheme == "http" and split.netloc.split(":")[0] in HOSTS_WITHOUT_TLS)
        if not secure or not split.netloc or not split.path.endswith(".zip"):
            raise ValueError(f"{url!r} is no https address of a .zip file")
        return url

    def __getitem__(self, name: str) -> CatalogueEntry:
        for entry in self.models:
            if entry.name == name:
                return entry
        raise ModelError(
            found=f"no model {name!r} in the catalogue",
            expected=f"one of its {len(self.models)} models: voxmetry models list",
            fix=f"{did_you_mean(name, (entry.name for entry in self.models))}use the name of one; a model folder or "
            "archive of your own: voxmetry models import PATH",
        )

    def sources_of(self, entry: CatalogueEntry) -> str:
        """Return where the facts of an entry come from, in words."""
        key, _, rest = entry.source.partition(",")
        return f"{self.sources[key]},{rest}" if rest else self.sources[key]

    def __contains__(self, name: str) -> bool:
        return any(entry.name == name for entry in self.models)


def read_catalogue(path: Path | str) -> Catalogue:
    """Read a catalogue of one's own, such as that of a hospital's mirror.

    Raises
    ------
    ConfigError
        If a key is unknown, missing or unusable.
    """
    return load_yaml(path, Catalogue)


@functools.cache
def known_models() -> Catalogue:
    """Return the catalogue of this package."""
    text = resources.files("voxmetry.models").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return parse_record(yaml.safe_load(text), Catalogue, where="catalogue.yaml")
