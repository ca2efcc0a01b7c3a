"""`voxmetry serve`: the service, and the tokens of those who may call it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxmetry.cli.options import OnDevice
from voxmetry.cli.streams import say, say_json
from voxmetry.cli.strict import StrictGroup
from voxmetry.errors import ConfigError

if TYPE_CHECKING:
    from voxmetry.config.service import ServiceSettings

serve_app = typer.Typer(
    help="A service for 3D Slicer, OHIF, DICOM and programs of your own, with a page of its jobs.",
    invoke_without_command=True,
    cls=StrictGroup,
)


@serve_app.callback()
def serve(
    ctx: typer.Context,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="Settings of the service as YAML; options win over it.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("-m", "--model", help="A model that may be asked for; repeat for more.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of jobs, uploads and results.")] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A folder whose images clients may name; repeat for more."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 8000 if not given, 0 for any.", min=0, max=65535)] = None,
    tokens: Annotated[Path | None, typer.Option(help="File of tokens; who has none of them is refused.")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody in who reaches an address beyond this machine.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; one for each CUDA device if not given.", min=1)
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler; local:N starts N workers.")
    ] = None,
    device: OnDevice = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Say what is wrong with the settings and which peers answer; start nothing.")
    ] = False,
) -> None:
    """Serve until Ctrl-C. Jobs that run then run again after the next start: nothing is lost or done twice."""
    if ctx.invoked_subcommand is not None:
        return
    from voxmetry.service.run import serve as run_service

    options = {
        "models": tuple(model) if model else None,
        "data": str(data) if data else None,
        "roots": _roots(root) if root else None,
        "host": host,
        "port": port,
        "tokens": str(tokens) if tokens else None,
        "workers": workers,
        "scheduler": scheduler,
    }
    settings = _settings(settings_file, {name: value for name, value in options.items() if value is not None}, device)
    if check:
        _check(settings, no_auth=no_auth)
        return
    run_service(settings, no_auth=no_auth, ready=_ready)


def _check(settings: ServiceSettings, *, no_auth: bool) -> None:
    """Print what was looked at; exit code 2 where something is wrong, 3 where a person should look."""
    from voxmetry.service.check import check_settings
    from voxmetry.service.run import require_safe

    require_safe(settings, no_auth=no_auth)
    findings = check_settings(settings)
    for finding in findings:
        say(f"{finding.verdict:<6} {finding.where}: {finding.words}" + (f" ({finding.fix})" if finding.fix else ""))
    verdicts = {finding.verdict for finding in findings}
    raise typer.Exit(2 if "wrong" in verdicts else 3 if "look" in verdicts else 0)


def _ready(address: str) -> None:
    say(f"voxmetry serve: {address} (Ctrl-C ends it)", err=True)


def _settings(file: Path | None, options: dict[str, Any], device: str) -> ServiceSettings:
    """Return the settings of a file with what is given here above them."""
    from voxmetry.config import load_yaml, parse_record
    from voxmetry.config.service import ServiceSettings

    settings = load_yaml(file, ServiceSettings) if file else ServiceSettings()
    if device != "auto":
        options["settings"] = settings.settings.model_copy(update={"device": device}).model_dump()
    return parse_record(settings.model_dump() | options, ServiceSettings, where="options") if options else settings


def _roots(given: list[str]) -> dict[str, str]:
    """Read NAME=FOLDER; a folder alone is called by its own name."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        path = Path(folder if sign else text).absolute()
        name = name if sign else path.name
        if not path.is_dir() or name in found:
            raise ConfigError(
                found=f"--root {text}: no such folder, or its name is taken",
                expected="NAME=FOLDER, each name once",
                fix="check the path, and give each root a name of its own",
            )
        found[name] = str(path)
    return found


@serve_app.command()
def token(
    name: Annotated[str, typer.Argument(help="Whose it is: a person or a program.", metavar="NAME")],
    tokens: Annotated[Path, typer.Option(help="File of the hashes of tokens; made where it is missing.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Make a token, add its hash to a file, and print it; it is shown this once. Take out its entry to end it."""
    from voxmetry.service.tokens import add_token

    made = add_token(tokens, name)
    if as_json:
        say_json({"name": name, "token": made})
    else:
        say(made)
