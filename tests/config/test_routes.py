"""Routes and peers: what does not fit together is told before anything listens."""

from __future__ import annotations

from typing import Any

import pytest

from voxmetry.config import StudySettings, parse_record
from voxmetry.config.routes import (
    DicomPeer,
    DicomReceiver,
    OrthancPeer,
    OrthancPoll,
    Route,
    SeriesMatch,
    WebPeer,
    network_problems,
)
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import ConfigError


def peer(**values: Any) -> DicomPeer:
    return parse_record(
        {"kind": "dicom", "ae_title": "CT1", "addresses": ["10.0.0.7"], **values}, DicomPeer, where="peer"
    )


def route(**values: Any) -> Route:
    return parse_record({"model": "hippocampus-mr", **values}, Route, where="route")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ae_title": "SEVENTEEN_LETTERS"}, "1 to 16"),
        ({"ae_title": " CT1"}, "no space"),
        ({"ae_title": "CT\\1"}, "backslash"),
        ({"ae_title": "CT\n1"}, "printable"),
        ({"addresses": ["10.0.0.256"]}, "does not appear to be"),
        ({"addresses": ["10.0.0.7/16"]}, "host bits"),
        ({"addresses": []}, "neither addresses"),
        ({"host": "pacs"}, "together"),
        ({"tls": {"certificate": "a.pem"}}, "together"),
    ],
)
def test_a_peer_that_cannot_be_meant_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        peer(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "archive.example"}, "https"),
        ({"url": "file:///etc/passwd"}, "https"),
        ({"url": "https://me:secret@archive.example"}, "no user and password"),
        ({"url": "https://a", "user": "me"}, "together"),
        ({"url": "https://a", "user": "me", "password_file": "p", "token_file": "t"}, "either"),
    ],
)
def test_a_web_service_is_named_by_its_address_and_keeps_secrets_in_files(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_record({"kind": "dicomweb", **values}, WebPeer, where="peer")


def test_addresses_are_compared_as_networks() -> None:
    known = peer(addresses=["10.1.0.0/16", "::1"])
    assert known.calls_from("10.1.2.3")
    assert known.calls_from("::ffff:10.1.2.3")
    assert known.calls_from("::1")
    assert not known.calls_from("10.2.0.1")


def test_a_route_writes_what_it_sends() -> None:
    service = StudySettings(tolerance_mm=2.0)
    assert not route().study_settings(service).dicom.any_object
    sent = route(send_to=["pacs"], send=["seg", "sr"]).study_settings(service)
    assert (sent.dicom.seg, sent.dicom.sr, sent.dicom.rtstruct, sent.tolerance_mm) == (True, True, False, 2.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ae_title": "VOX"}, "nobody may call"),
        ({"senders": ["ct"]}, "nobody may call"),
        ({"send": [], "send_to": ["pacs"]}, "send names nothing"),
        ({"send_to": ["pacs"], "settings": {"dicom": {"deidentify": True, "seg": True}}}, "without the patient"),
    ],
)
def test_a_route_that_contradicts_itself_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        route(**values)


def test_each_name_that_leads_nowhere_is_told() -> None:
    peers = {
        "ct": peer(),
        "web": WebPeer(kind="dicomweb", url="https://archive.example"),
        "orthanc": OrthancPeer(kind="orthanc", url="http://127.0.0.1:8042"),
    }
    routes = {
        "one": route(ae_title="VOX", senders=["ct", "nobody", "web"], send_to=["ct", "gone"]),
        "two": route(ae_title="VOX", senders=["ct"]),
    }
    polls = (OrthancPoll(peer="orthanc", route="three"), OrthancPoll(peer="web", route="one"))
    assert network_problems(routes, peers, DicomReceiver(), polls) == [
        "routes.one.senders: nobody is not in peers",
        "routes.one.send_to: gone is not in peers",
        "routes.one.senders: web is no peer of kind dicom with addresses",
        "routes.one.send_to: ct has no host and port to receive at",
        "routes.two.ae_title: VOX is that of one too",
        "polls.0.route: three is not in routes",
        "polls.1.peer: web is no peer of kind orthanc",
    ]
    good = {"one": route(ae_title="VOX", senders=["ct"], send_to=["web", "orthanc"])}
    assert network_problems(good, peers, DicomReceiver(), (OrthancPoll(peer="orthanc", route="one"),)) == []
    assert network_problems(good, peers, None, ()) == [
        "routes.one.ae_title: nobody can call it, as there is no dicom section"
    ]
    assert network_problems({}, peers, DicomReceiver(), ()) == ["dicom: no route has an ae_title, so nobody can send"]


def test_series_are_matched_by_what_they_are_and_never_by_a_regular_expression() -> None:
    match = SeriesMatch(modality=("CT",), min_instances=10, description=("*thorax*", "abd?men"))
    assert match.takes("CT", 10, "Routine THORAX 1.0 ")
    assert match.takes("CT", 11, "Abdomen")
    assert not match.takes("MR", 50, "thorax")
    assert not match.takes("CT", 9, "thorax")
    assert not match.takes("CT", 50, "head (a+)+$")
    assert SeriesMatch().takes("PT", 1, "")


@pytest.mark.parametrize(
    "values",
    [
        {"host": "x" * 64},
        {"host": ""},
        {"host": "a b"},
        {"dicom": {"host": "a\0b"}},
        {"peers": {"pacs": {"kind": "dicom", "ae_title": "PACS", "host": "pacs/x", "port": 104}}},
        {"peers": {"web": {"kind": "dicomweb", "url": "http://" + "x" * 64 + "/dicom-web"}}},
        {"peers": {"web": {"kind": "dicomweb", "url": "http://[::1/dicom-web"}}},
        {"peers": {"web": {"kind": "orthanc", "url": "http://archive:99999"}}},
        {"data": ""},
        {"roots": {"research": "a\0b"}},
        {"retention": {"results_days": 1e10}},
        {"limits": {"idle_seconds": 1e12}},
        {"delivery": {"first_wait_seconds": 1e12}},
    ],
)
def test_what_no_system_can_open_call_or_wait_for_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"\b(host|url|data|research|results_days|idle_seconds|first_wait_seconds): "):
        parse_record(values, ServiceSettings, where="serve.yaml")
