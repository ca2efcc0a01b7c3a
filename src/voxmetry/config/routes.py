"""Who may send studies to the service, what is done with them, and who receives the results.

These records are part of the settings of `voxmetry serve`. A name that nothing refers to, or that refers to nothing, is
an error: what was meant for one archive must not go nowhere, and nothing goes to a system that is not named.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import string
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from voxmetry.config.study import StudySettings
from voxmetry.core.base import Record

ResultKind: TypeAlias = Literal["seg", "rtstruct", "sr", "pdf", "key_images"]
"""What can be sent of a result; the keys of `DicomOutput`."""


_OF_HOSTS = frozenset(string.ascii_letters + string.digits + ".-_:%")


def _ae_title(title: str) -> str:
    if not 1 <= len(title) <= 16 or title != title.strip() or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, and no space at either end")
    if "\\" in title:
        raise ValueError("an AE title has no backslash")
    return title


def _network(address: str) -> str:
    # Raises ValueError in words that name the address; host bits in a network are a slip.
    ipaddress.ip_network(address)
    return address


def _url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest or rest.startswith("/"):
        raise ValueError("an address such as https://archive.example/dicom-web is needed")
    if "@" in rest.split("/")[0]:
        raise ValueError("no user and password in the address: give user and password_file")
    try:
        # The port is looked at when it is asked for.
        parts = urlsplit(url)
        _host(parts.hostname or "")
        parts.port  # noqa: B018
    except ValueError as error:
        raise ValueError(f"no address that can be called: {error}") from error
    return url.rstrip("/")


def _host(host: str) -> str:
    # What no system can look up would end a thread when it is called.
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError("a name of a machine has parts of 1 to 63 characters") from error
    if not 1 <= len(name) <= 253 or not set(name) <= _OF_HOSTS:
        raise ValueError("the name or address of a machine has 1 to 253 letters, digits, dots, hyphens and colons")
    return host


def _path(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("a path is needed")
    return path


AeTitle: TypeAlias = Annotated[str, AfterValidator(_ae_title)]
Network: TypeAlias = Annotated[str, AfterValidator(_network)]
"""An IP address, or a network such as 10.1.0.0/16."""
Url: TypeAlias = Annotated[str, AfterValidator(_url)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Host: TypeAlias = Annotated[str, AfterValidator(_host)]
PathText: TypeAlias = Annotated[str, AfterValidator(_path)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e8)]
"""Up to three years: what the clocks of a system take."""
Days: TypeAlias = Annotated[float, Field(gt=0, le=36_500)]
Megabytes: TypeAlias = Annotated[float, Field(gt=0)]
"""In units of 10^6 bytes."""


class Tls(Record):
    """Files of a TLS connection, PEM. Paths are relative to where the service is started."""

    certificate: str | None = None
    """This side's certificate, with what it was signed by."""
    key: str | None = None
    """The key of it."""
    authority: str | None = None
    """Whose signature the other side's certificate must carry; None takes the system's authorities."""

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are needed together")
        return self


class DicomPeer(Record):
    """A system that speaks DICOM: a scanner, a PACS, a workstation."""

    kind: Literal["dicom"]
    ae_title: AeTitle
    """What it calls itself, and what it is called by."""
    addresses: tuple[Network, ...] = ()
    """Where it may call from; none: it only receives."""
    host: Host | None = None
    """Where it receives; None: it only sends."""
    port: Port | None = None
    tls: Tls | None = None
    """For what is sent to it."""

    @model_validator(mode="after")
    def _reachable(self) -> DicomPeer:
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port are needed together")
        if self.host is None and not self.addresses:
            raise ValueError("neither addresses that it calls from, nor host and port that it receives at")
        return self

    def calls_from(self, address: str) -> bool:
        """Whether it may call from an IP address."""
        place = ipaddress.ip_address(address)
        if isinstance(place, ipaddress.IPv6Address) and place.ipv4_mapped is not None:
            place = place.ipv4_mapped
        return any(place in ipaddress.ip_network(network) for network in self.addresses)


class _Login(Record):
    """How a web service is told who asks; each secret is in a file of its own, and in no settings."""

    user: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    """A bearer token."""
    tls: Tls | None = None
    """Where the system's authorities do not know the service's certificate, or it asks for one of this side."""

    @model_validator(mode="after")
    def _one_login(self) -> _Login:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file are needed together")
        if self.token_file is not None and self.user is not None:
            raise ValueError("either user and password_file, or token_file")
        return self


class WebPeer(_Login):
    """A DICOMweb service: QIDO-RS, WADO-RS and STOW-RS below one address."""

    kind: Literal["dicomweb"]
    url: Url

    @property
    def dicomweb_url(self) -> str:
        """Where DICOMweb begins."""
        return self.url


class OrthancPeer(_Login):
    """An Orthanc server: its REST interface, and DICOMweb by its plugin."""

    kind: Literal["orthanc"]
    url: Url
    """Of the REST interface, such as http://127.0.0.1:8042."""
    dicomweb: str = "dicom-web"
    """Below `url`, as `Root` of the plugin's settings says."""

    @property
    def dicomweb_url(self) -> str:
        """Where DICOMweb begins."""
        return f"{self.url}/{self.dicomweb.strip('/')}"


Peer: TypeAlias = Annotated[DicomPeer | WebPeer | OrthancPeer, Field(discriminator="kind")]


class SeriesMatch(Record):
    """Which series a route takes; others are let go and counted."""

    modality: tuple[Literal["CT", "MR", "PT"], ...] = ()
    """None given: all three."""
    min_instances: Annotated[int, Field(ge=1)] = 1
    """With fewer it is a localizer, or a few slices that came too late."""
    description: tuple[str, ...] = ()
    """Patterns of Series Description, `*` and `?` stand for any, capital and small letters are one; none given: all."""

    def takes(self, modality: str, n_instances: int, description: str) -> bool:
        """Whether a series fits."""
        words = description.strip().lower()
        return (
            (not self.modality or modality in self.modality)
            and n_instances >= self.min_instances
            and (not self.description or any(fnmatch.fnmatchcase(words, p.lower()) for p in self.description))
        )


class Route(Record):
    """What is done with a study that comes by one way."""

    model: str
    """Name of a model, one of the service's."""
    ae_title: AeTitle | None = None
    """What senders call, to reach this route by C-STORE; None: it is reached by polling and by request only."""
    senders: tuple[str, ...] = ()
    """Names of the peers that may call it."""
    settings: StudySettings | None = None
    """How each study is read and run; None takes the service's."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """Of its jobs; the highest runs first."""
    group: Literal["series", "study"] = "series"
    """What one job is: each series by itself, or all series of a study, for models of several inputs."""
    quiet_seconds: Seconds = 15.0
    """It is complete when nothing more came for this long."""
    on_release: bool = False
    """Whether it is complete as soon as the sender releases the association; for senders that put all into one."""
    after_abort: Literal["discard", "run"] = "discard"
    """What becomes of what an aborted association left, if the rest does not come by another one: it is deleted, as
    nobody knows what is missing, or it is run. 'run' is for senders that abort where they should release."""
    abandoned_seconds: Seconds = 600.0
    """How long the rest is waited for after an association was aborted."""
    match: SeriesMatch = SeriesMatch()
    send: tuple[ResultKind, ...] = ("seg",)
    """What the peers are sent."""
    send_to: tuple[str, ...] = ()
    """Names of the peers that receive the results; nobody else does, the sender only if it is one of them."""
    reply_to_sender: bool = False
    """Whether whoever sent a study receives its results too, if it can be reached."""

    @model_validator(mode="after")
    def _says_what(self) -> Route:
        if (self.ae_title is None) != (not self.senders):
            raise ValueError("ae_title and senders are needed together: nobody may call a route that names no senders")
        if (self.send_to or self.reply_to_sender) and not self.send:
            raise ValueError("send names nothing, and send_to somebody to send it to")
        if self.settings and self.settings.dicom.deidentify and (self.send_to or self.reply_to_sender):
            raise ValueError("settings.dicom.deidentify: results without the patient fit no study of the archive")
        return self

    def study_settings(self, of_service: StudySettings) -> StudySettings:
        """Return how a study is run: the route's settings or the service's, with the objects that are to be sent."""
        settings = self.settings or of_service
        if not (self.send_to or self.reply_to_sender):
            return settings
        wanted = settings.dicom.model_copy(update=dict.fromkeys(self.send, True))
        return settings.model_copy(update={"dicom": wanted})


class DicomReceiver(Record):
    """The C-STORE service: where it listens, and what it takes at most."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    """0 takes any free port."""
    tls: Tls | None = None
    """With `authority`, callers must show a certificate that it signed."""
    other_objects: Literal["ignore", "refuse"] = "ignore"
    """What is neither a CT, MR nor PET image, such as a report or a structure set: it is taken and let go, as archives
    send whole studies and stop at the first object that is refused; or it is refused."""
    associations: Annotated[int, Field(ge=1, le=200)] = 10
    """At once; one address holds half of them at most, and at least one."""
    instance_mb: Megabytes = 4000
    """Of one object."""
    group_mb: Megabytes = 20_000
    """Of one series, or study where the route groups by study."""
    group_instances: Annotated[int, Field(ge=1)] = 20_000
    groups: Annotated[int, Field(ge=1)] = 500
    """Series or studies that are being received at once."""
    free_mb: Annotated[float, Field(ge=0)] = 500
    """Room that must be left on the disk: below it objects are refused as out of resources."""
    idle_seconds: Seconds = 60
    """How long an association may say nothing, and how long one packet of it may take."""
    stall_seconds: Seconds = 900
    """How long one object may take."""


class OrthancPoll(Record):
    """An Orthanc server that is asked for what is new."""

    peer: str
    route: str
    seconds: Seconds = 10
    """Between two questions."""
    from_start: bool = False
    """Whether the first question is for all that it has, and not for what comes from now on."""


class Delivery(Record):
    """How results are sent again where a peer does not take them."""

    ae_title: AeTitle = "VOXMETRY"
    """What this service calls itself where it calls others."""
    first_wait_seconds: Seconds = 30
    """After the first failure; it doubles with each."""
    longest_wait_seconds: Seconds = 3600
    tries: Annotated[int, Field(ge=1)] = 24
    """Then it is given up, and told."""
    timeout_seconds: Seconds = 60
    """How long a peer may keep silent."""


def network_problems(
    routes: Mapping[str, Route],
    peers: Mapping[str, DicomPeer | WebPeer | OrthancPeer],
    receiver: DicomReceiver | None,
    polls: tuple[OrthancPoll, ...],
) -> list[str]:
    """Say in words which names of the settings do not fit together.

    Parameters
    ----------
    routes, peers
        By name.
    receiver
        None where no C-STORE service is wanted.
    polls
        The Orthanc servers that are polled.

    Returns
    -------
    list of str
        One sentence each; none where all fits.
    """
    problems = [problem for name, route in routes.items() for problem in _names_of(name, route, peers)]
    titles: dict[str, str] = {}
    for name, route in routes.items():
        if route.ae_title is None:
            continue
        if receiver is None:
            problems.append(f"routes.{name}.ae_title: nobody can call it, as there is no dicom section")
        if route.ae_title in titles:
            problems.append(f"routes.{name}.ae_title: {route.ae_title} is that of {titles[route.ae_title]} too")
        titles[route.ae_title] = name
    if receiver is not None and not titles:
        problems.append("dicom: no route has an ae_title, so nobody can send")
    for number, poll in enumerate(polls):
        if poll.route not in routes:
            problems.append(f"polls.{number}.route: {poll.route} is not in routes")
        if not isinstance(peers.get(poll.peer), OrthancPeer):
            problems.append(f"polls.{number}.peer: {poll.peer} is no peer of kind orthanc")
    if len({(poll.peer, poll.route) for poll in polls}) < len(polls):
        problems.append("polls: the same peer and route twice")
    return problems


def _names_of(name: str, route: Route, peers: Mapping[str, DicomPeer | WebPeer | OrthancPeer]) -> list[str]:
    problems = []
    for listed in ("senders", "send_to"):
        if unknown := [peer for peer in getattr(route, listed) if peer not in peers]:
            problems.append(f"routes.{name}.{listed}: {', '.join(unknown)} is not in peers")
    for known in route.senders:
        peer = peers.get(known)
        if peer is not None and not (isinstance(peer, DicomPeer) and peer.addresses):
            problems.append(f"routes.{name}.senders: {known} is no peer of kind dicom with addresses")
    for known in route.send_to:
        peer = peers.get(known)
        if isinstance(peer, DicomPeer) and peer.host is None:
            problems.append(f"routes.{name}.send_to: {known} has no host and port to receive at")
    return problems
