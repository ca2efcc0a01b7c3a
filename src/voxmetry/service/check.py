"""Settings of the service looked at before anything starts: what is wrong with them, and which peers answer."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxmetry.config.routes import Delivery, DicomPeer, OrthancPeer, Tls, WebPeer
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import VoxmetryError
from voxmetry.models import find_model, read_spec
from voxmetry.workflows.annotate.collect import read_corrections
from voxmetry.workflows.cohort.model_index import load_known_model

CHECK_SECONDS = 5.0
"""How long a peer may keep silent."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    verdict
        'wrong': the service will not start, or not work; 'look': it may be meant so; 'ok'.
    where
        Key in the settings.
    words
        What was found.
    fix
        What to do; empty where nothing is.
    """

    verdict: Literal["ok", "look", "wrong"]
    where: str
    words: str
    fix: str = ""


def check_settings(settings: ServiceSettings, *, ask_peers: bool = True) -> list[Finding]:
    """Look at models, files, folders and peers that the settings name. Nothing is written, and no study is sent.

    Parameters
    ----------
    settings
        That were read, so that their keys and names fit.
    ask_peers
        Whether each peer is asked for an answer: a C-ECHO, or one question by QIDO-RS.

    Returns
    -------
    list of Finding
        In the order of the settings.
    """
    findings = [*_models(settings), *_data(settings), *_training(settings)]
    if settings.tokens is not None:
        findings.append(_file("tokens", settings.tokens, secret=True))
    if settings.dicom is not None and settings.dicom.tls is not None:
        findings += _tls("dicom.tls", settings.dicom.tls, server=True)
    for name, peer in settings.peers.items():
        findings += _peer_files(f"peers.{name}", peer)
    if ask_peers:
        findings += _answers(settings)
    return findings


def _training(settings: ServiceSettings) -> Iterator[Finding]:
    if settings.training is None:
        return
    try:
        name = read_spec(find_model(settings.training.start_from)).name
    except VoxmetryError as error:
        yield Finding("wrong", "training.start_from", error.found, error.fix)
    else:
        yield Finding("ok", "training.start_from", name)
    for number, work in enumerate(settings.training.work):
        try:
            found = f"{len(read_corrections(Path(work)).cases)} corrections"
        except VoxmetryError as error:
            yield Finding("look", f"training.work.{number}", error.found, error.fix)
        else:
            yield Finding("ok", f"training.work.{number}", found)


def _models(settings: ServiceSettings) -> Iterator[Finding]:
    for number, name in enumerate(settings.models):
        where = f"models.{number}"
        try:
            known = load_known_model(name)
        except VoxmetryError as error:
            yield Finding("wrong", where, error.found, error.fix)
            continue
        yield Finding("ok", where, known.spec.name)


def _data(settings: ServiceSettings) -> Iterator[Finding]:
    folder = Path(settings.data).absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("wrong", "data", f"{folder} cannot be written to", "name another folder, or give the right to it")
    else:
        yield Finding("ok", "data", str(folder))
    for name, root in settings.roots.items():
        if not Path(root).is_dir():
            yield Finding("wrong", f"roots.{name}", "no such folder", "check the path")


def _file(where: str, path: str, *, secret: bool) -> Finding:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        return Finding("wrong", where, f"cannot be read: {error.strerror}", "check the path, and who may read it")
    if secret and os.name == "posix" and mode & stat.S_IROTH:
        return Finding("look", where, "everybody on this machine may read it", f"chmod o-r {path}")
    return Finding("ok", where, "can be read")


def _tls(where: str, tls: Tls, *, server: bool) -> Iterator[Finding]:
    from voxmetry.service.dicom.tls import client_context, server_context

    try:
        if not server:
            client_context(tls.certificate, tls.key, tls.authority)
        elif tls.certificate is None or tls.key is None:
            yield Finding("wrong", where, "certificate and key are missing", "name the files of this service")
            return
        else:
            server_context(tls.certificate, tls.key, tls.authority)
    except OSError as error:
        words = error.strerror or "not PEM files that fit together"
        yield Finding("wrong", where, f"cannot be used: {words}", "check the paths, and that the key fits")
        return
    yield Finding("ok", where, "can be used")
    if server and tls.authority is None:
        words = "callers need no certificate: whoever has an address and an AE title of a sender may call"
        yield Finding("look", where, words, "name the authority that signed theirs: dicom.tls.authority")


def _peer_files(where: str, peer: DicomPeer | WebPeer | OrthancPeer) -> Iterator[Finding]:
    if peer.tls is not None:
        yield from _tls(f"{where}.tls", peer.tls, server=False)
    if isinstance(peer, DicomPeer):
        return
    for key in ("password_file", "token_file"):
        path = getattr(peer, key)
        if path is not None:
            yield _file(f"{where}.{key}", path, secret=True)
            if peer.url.startswith("http://") and not peer.url.startswith(("http://127.", "http://localhost")):
                yield Finding("look", f"{where}.url", "a password is sent without TLS", "use https://")


def _answers(settings: ServiceSettings) -> list[Finding]:
    from voxmetry.service.dicom.send import Sender

    how = Delivery(ae_title=settings.delivery.ae_title, timeout_seconds=CHECK_SECONDS)
    sender = Sender(settings.peers, how)
    asked = [name for name, peer in settings.peers.items() if not (isinstance(peer, DicomPeer) and peer.host is None)]

    def ask(name: str) -> Finding:
        try:
            sender.echo(name)
        except VoxmetryError as error:
            return Finding("look", f"peers.{name}", error.found, error.fix)
        return Finding("ok", f"peers.{name}", "answers")

    if not asked:
        return []
    with ThreadPoolExecutor(max_workers=min(8, len(asked))) as pool:
        return list(pool.map(ask, asked))
