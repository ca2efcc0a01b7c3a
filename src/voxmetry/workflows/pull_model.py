"""`voxmetry models pull` and `voxmetry models import`: from an archive to a model in the user's folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxmetry.config import dump_yaml
from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, DownloadError, FormatError, InputError, ModelError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.models import AnySpec, find_model, read_any_spec, read_spec
from voxmetry.models.catalogue import Catalogue, CatalogueEntry, Part, known_models
from voxmetry.models.composite import CommonGrid, CompositeInput, CompositeSpec, Member
from voxmetry.models.store import installed_folder
from voxmetry.models.structures import Structure, with_codes
from voxmetry.nn.interop import ImportOptions, import_model
from voxmetry.nn.interop.imported import ImportedModel
from voxmetry.nn.merged_spec import merged_spec
from voxmetry.workflows.model_store.checksums import remember, require_same
from voxmetry.workflows.model_store.download import fetch
from voxmetry.workflows.model_store.install import installing, store_locked
from voxmetry.workflows.model_store.unpack import unpack

DOWNLOADS = ".downloads"


@dataclass(frozen=True)
class PullOptions:
    """How a model is fetched.

    Parameters
    ----------
    source
        A file or folder to take the archives from, instead of the network: the archive itself, a folder with the
        archives under their names, or a folder with the model folders that they hold.
    mirror
        An address that stands for all of the catalogue's: archives are fetched from it under their names.
    overwrite
        Whether to replace an installed model.
    accept_licence
        Called with an entry whose licence does not allow any use; False stops.
    accept_new_checksum
        Whether to take another file than the one that was fetched first.
    codes
        Codes of structures that win over the package's.
    """

    source: Path | None = None
    mirror: str | None = None
    overwrite: bool = False
    accept_licence: Callable[[CatalogueEntry], bool] = lambda _: False
    accept_new_checksum: bool = False
    codes: tuple[Structure, ...] = ()


def pull_model(
    name: str,
    options: PullOptions = PullOptions(),
    *,
    catalogue: Catalogue | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> AnySpec:
    """Fetch a model of the catalogue, and those that it runs, and install them in the user's folder.

    Parameters
    ----------
    name
        Its name in the catalogue.
    options
        Where from, and what is agreed to.
    catalogue
        None for the package's own.
    tell
        Called with a line of text for each step.

    Returns
    -------
    ModelSpec or CompositeSpec
        Of the installed model.

    Raises
    ------
    ModelError
        If the catalogue lacks the name, or an archive does not hold what it promises.
    ConfigError
        If the licence was not agreed to.
    DownloadError
        If an archive cannot be fetched, or is not the one that was published or fetched first.
    FormatError
        If an archive is damaged or holds what must not be unpacked.
    OutputError
        If the disk is full, or the model is there already. Nothing is half-installed then.
    """
    known = catalogue or known_models()
    wanted = [known[name]]
    while missing := _missing(wanted, known):
        wanted = [*missing, *wanted]
    for entry in wanted:
        if not entry.is_open and not options.accept_licence(entry):
            raise ConfigError(
                found=f"{entry.name} under the licence {entry.licence}, which does not allow any use",
                expected="your agreement to it",
                fix="read the licence; if your use is allowed, add --accept-licence",
            )
    with store_locked() as root:
        for entry in wanted:
            tell(f"{entry.name}: {entry.summary}. Licence {entry.licence}. Source: {known.sources_of(entry)}")
            with installing(root, entry.name, overwrite=options.overwrite and entry is wanted[-1]) as stage:
                _build(entry, stage, root, options, tell)
    return read_any_spec(find_model(name))


def merge_models(models: Sequence[str], name: str, *, overwrite: bool = False) -> CompositeSpec:
    """Install a composite of models whose structures are numbered anew, one model after the other.

    Raises
    ------
    ConfigError
        If two structures have one name, or the models take other inputs.
    OutputExistsError
        If there is a model of this name and `overwrite` is off.
    """
    spec = merged_spec(models, name)
    with store_locked() as root, installing(root, name, overwrite=overwrite) as stage:
        write_text(stage / "model.yaml", dump_yaml(spec))
    return spec


def import_to_folder(path: Path, out: Path, options: ImportOptions) -> ImportedModel:
    """Import a model folder or an archive of one as a model folder anywhere; see `nn.interop.import_model`.

    Raises
    ------
    VoxmetryError
        As `nn.interop.import_model` and `model_store.unpack.unpack`.
    """
    if not path.is_file():
        return import_model(path, out, options)
    with tempfile.TemporaryDirectory(prefix="voxmetry-") as temporary:
        unpack(path, Path(temporary))
        return import_model(_only_folder(Path(temporary)), out, options)


def import_to_store(path: Path, options: ImportOptions) -> ImportedModel:
    """Import a model folder or an archive of one into the user's folder.

    Parameters
    ----------
    path
        An nnU-Net v2 model folder, a MONAI bundle, a folder of this package, or a .zip file of one of these.
    options
        As for `nn.interop.import_model`; `overwrite` replaces an installed model.

    Returns
    -------
    ImportedModel
        What was understood, with notes.

    Raises
    ------
    VoxmetryError
        As `nn.interop.import_model` and `model_store.unpack.unpack`; nothing is half-installed then.
    """
    with store_locked() as root, tempfile.TemporaryDirectory(prefix=".part-", dir=root) as temporary:
        folder = path
        if path.is_file():
            unpack(path, Path(temporary))
            folder = _only_folder(Path(temporary))
        if not folder.is_dir():
            raise InputError(
                found=f"{path.name} is neither a folder nor a .zip file",
                expected="a model folder or an archive of one",
                fix="check the path",
            )
        stage = Path(temporary) / ".imported"
        imported = import_model(folder, stage, replace(options, overwrite=False))
        with installing(root, imported.spec.name, overwrite=options.overwrite) as target:
            for file in stage.iterdir():
                file.rename(target / file.name)
        return imported


def _missing(wanted: list[CatalogueEntry], known: Catalogue) -> list[CatalogueEntry]:
    """Return entries that those wanted run, and that are neither wanted nor installed."""
    names = {entry.name for entry in wanted}
    needs = {need for entry in wanted for need in entry.needs} - names
    return [known[need] for need in sorted(needs) if installed_folder(need) is None]


def _build(entry: CatalogueEntry, stage: Path, root: Path, options: PullOptions, tell: Callable[[str], None]) -> None:
    """Fetch, unpack and import the parts of an entry into its folder; archives are removed at the end."""
    sums, members, archives = {}, [], []
    for part in entry.parts:
        with tempfile.TemporaryDirectory(prefix="unpacked-", dir=stage) as temporary:
            folder, archive = _obtain(part, Path(temporary), root, options, tell)
            if archive is not None:
                if options.source is None:
                    archives.append(archive)
                sums[part.file] = _unpacked(archive, part, Path(temporary), root, options)
                tell(f"{part.file}: SHA-256 {sums[part.file]}")
                folder = Path(temporary)
            place = _model_folder(folder, part)
            if part.kind == "bundle":
                bundle = ImportOptions(name=entry.name, licence=entry.licence, codes=options.codes, overwrite=True)
                import_model(place, stage, bundle)
                continue
            members.append(_member(entry, part, place, stage))
            tell(f"{entry.name}: {part.id} imported")
    if members:
        spec = _composite(entry, tuple(members), options.codes)
        write_text(stage / "MODEL_CARD.md", _card(entry, spec, sums))
        write_text(stage / "model.yaml", dump_yaml(spec))
    for archive in archives:
        archive.unlink(missing_ok=True)


def _unpacked(archive: Path, part: Part, folder: Path, root: Path, options: PullOptions) -> str:
    """Check an archive and unpack it; one that was fetched and is not what it should be is removed."""
    try:
        found = require_same(archive, part, root, accept_new=options.accept_new_checksum)
        unpack(archive, folder)
    except (DownloadError, FormatError):
        if options.source is None:
            # The next call is to fetch it anew.
            archive.unlink(missing_ok=True)
        raise
    remember(archive, part, root, found)
    return found


def _obtain(
    part: Part, temporary: Path, root: Path, options: PullOptions, tell: Callable[[str], None]
) -> tuple[Path, Path | None]:
    """Return where a part lies: a folder of it, or its archive, which is fetched where no source is given."""
    if options.source is None:
        archive = make_folder(root / DOWNLOADS) / part.file
        if not archive.is_file():
            url = part.url if options.mirror is None else f"{options.mirror.rstrip('/')}/{part.file}"
            fetch(url, archive, tell=tell)
        return temporary, archive
    source = options.source
    if source.is_file():
        return temporary, source
    if (source / part.file).is_file():
        return temporary, source / part.file
    if source.is_dir():
        return source, None
    raise InputError(
        found=f"no file or folder {source.name}",
        expected=f"{part.file}, a folder with it, or a folder with {part.folder}",
        fix="check the path after --from",
    )


def _model_folder(folder: Path, part: Part) -> Path:
    """Find a part's model folder in what was unpacked or named; archives differ in the folders above it."""
    if (folder / part.folder).is_dir():
        return folder / part.folder
    last = Path(part.folder).name
    found = [path for path in sorted(folder.rglob(last)) if path.is_dir()]
    above = Path(part.folder).parent.name
    if above:
        found = [path for path in found if path.parent.name == above]
    if len(found) == 1:
        return found[0]
    there = ", ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))[:6]) or "nothing"
    raise ModelError(
        found=f"no folder {part.folder}, but {there}",
        expected=f"the content of {part.file}",
        fix="fetch the archive that the catalogue names: voxmetry models list; or import a folder of your own with "
        "voxmetry models import",
    )


def _member(entry: CatalogueEntry, part: Part, place: Path, stage: Path) -> Member:
    """Import one part as a folder inside of the composite's, and say what its values mean there."""
    target = stage / "members" / part.id
    import_model(
        place,
        target,
        ImportOptions(
            name=f"{entry.name}-{part.id}".lower(),
            modalities=(entry.modality,),
            orientation=part.axes,
            folds=part.folds,
            mirroring=part.mirroring,
            licence=entry.licence,
        ),
    )
    spec = read_spec(target)
    names = part.labels or entry.labels
    if len(spec.labels) < len(names) or spec.regions:
        raise ModelError(
            found=f"{part.id} gives {len(spec.labels)} structures",
            expected=f"{len(names)} of {entry.name}: {', '.join(names[:4])} ...",
            fix="fetch the archive of this part again: it is of another model or version",
        )
    if part.overlap is not None:
        window = spec.window.model_copy(update={"overlap": part.overlap})
        write_text(target / "model.yaml", dump_yaml(spec.model_copy(update={"window": window})))
    value_of = {name: value for value, name in enumerate(entry.labels, start=1)}
    values = {value: value_of[name] for value, name in enumerate(names, start=1)}
    return Member(model=f"members/{part.id}", values=values)


def _composite(entry: CatalogueEntry, members: tuple[Member, ...], codes: tuple[Structure, ...]) -> CompositeSpec:
    table = LabelTable.from_names(dict(enumerate(entry.labels, start=1)))
    return CompositeSpec(
        kind="composite",
        name=entry.name,
        version="1.0.0",
        summary=entry.summary,
        licence=entry.licence,
        body_part=entry.body_part,
        inputs=(CompositeInput(name=entry.modality.lower(), modality=entry.modality),),
        labels=with_codes(table, codes),
        grid=CommonGrid(spacing_mm=entry.resample_mm) if entry.resample_mm else None,
        members=members,
        crop=entry.crop,
        coarse=entry.coarse,
    )


def _card(entry: CatalogueEntry, spec: CompositeSpec, sums: dict[str, str]) -> str:
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        f"{spec.summary}. Research use only; not a medical device.",
        "",
        f"Licence of these weights: {spec.licence}. Source: {entry.source}. Its accuracy was not measured here; "
        "see the publication of its authors, and cite it.",
        "",
        "| part | archive | SHA-256 |",
        "| --- | --- | --- |",
        *(f"| {part.id} | {part.url} | {sums.get(part.file, 'from a folder')} |" for part in entry.parts),
        "",
    ]
    if spec.grid:
        size = " x ".join(f"{mm:g}" for mm in spec.grid.spacing_mm)
        lines.append(f"The study is resampled to {size} mm once for all parts, as TotalSegmentator does.")
    if spec.crop:
        lines.append(
            f"Runs inside the box of {', '.join(spec.crop.structures)} with {spec.crop.margin_mm:g} mm round it, "
            f"which {spec.crop.model} finds."
        )
    lines += ["", f"Structures: {', '.join(f'{label.value} {label.name}' for label in spec.labels)}.", ""]
    return "\n".join(lines)


def _only_folder(folder: Path) -> Path:
    """Step into folders that hold nothing but one folder, as archives have them."""
    while True:
        there = [path for path in folder.iterdir() if path.name not in ("__MACOSX", ".DS_Store")]
        if len(there) != 1 or not there[0].is_dir():
            return folder
        folder = there[0]
