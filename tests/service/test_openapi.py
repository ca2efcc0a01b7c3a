"""Requests made up from the service's own description: what it says of itself holds, and none ends in an error."""

from __future__ import annotations

import pytest

from service_clients import call_json, start
from voxmetry.config.service import ServiceSettings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

EXAMPLES = 12
"""Of each operation."""


@pytest.fixture(scope="module")
def described(tmp_path_factory, tiny_model):
    """A service of its own, whose jobs may be cancelled and deleted, and its description."""
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "root").mkdir()
    settings = ServiceSettings(
        data=str(folder / "data"),
        port=0,
        models=(str(tiny_model),),
        roots={"root": str(folder / "root")},
        limits={"free_mb": 1, "waiting_jobs": 5},
    )
    address, end = start(settings)
    yield address
    end()


def test_the_description_names_every_address_under_v1_and_no_other(described):
    status, spec = call_json(described.removeprefix("http://"), "GET", "/v1/openapi.json")
    assert status == 200
    assert {path for path in spec["paths"] if not path.startswith("/v1/")} == {"/health", "/metrics"}
    operations = [one for methods in spec["paths"].values() for one in methods.values()]
    assert all(one.get("description") for one in operations)


def test_requests_made_up_from_it_are_answered_as_it_says(described):
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # A request of the right form may still name a model or a study that is not there.
    leave_out = [positive_data_acceptance]
    schema = schemathesis.openapi.from_url(f"{described}/v1/openapi.json")
    n = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case):
            if case.path.endswith("/events"):
                # Nobody waits for something to happen here.
                case.query["wait"] = 0
            case.call_and_validate(timeout=120, excluded_checks=leave_out)

        check()
        n += 1
    assert n >= 15
