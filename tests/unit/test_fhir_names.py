"""What a resource may be known by: a name that the sender would make up anew the next time is none."""

from __future__ import annotations

from uuid import uuid4

import pytest

from services.ledger.feeds.fhir.facts import outcomes
from tests.support.fhir_builder import Raw, body, charge_item, claim, invoice, notice, patient, reconciliation

NAMELESS = [
    charge_item(id=None, identifier=None),
    claim(id=None, identifier=None),
    invoice(id=None, identifier=None),
    reconciliation(id=None, identifier=None),
    notice(id=None, identifier=None, payment={"display": "cash"}, request={"reference": "Patient/p1"}),
]


def _bundle(resource: Raw, full_url: str) -> bytes:
    entries = [{"fullUrl": full_url, "resource": resource}, {"resource": patient()}]
    return body({"resourceType": "Bundle", "type": "transaction", "entry": entries})


@pytest.mark.parametrize("resource", NAMELESS, ids=lambda one: str(one["resourceType"]))
def test_an_address_of_this_bundle_alone_names_nothing(resource: Raw) -> None:
    """FHIR 3.1.1.2: urn:uuid stands for an id that the server is still to give. Sent again it is another one, and
    whatever is known by it would be posted twice."""
    (found, _) = outcomes(_bundle(resource, f"urn:uuid:{uuid4()}"))
    assert (found.state, found.key) == ("refused", "")
    assert "missing_identifier" in {issue.code for issue in found.issues}


@pytest.mark.parametrize("resource", NAMELESS, ids=lambda one: str(one["resourceType"]))
def test_an_address_on_a_server_names_it(resource: Raw) -> None:
    (found, _) = outcomes(_bundle(resource, "https://emr.example/fhir/thing/7"))
    assert "missing_identifier" not in {issue.code for issue in found.issues}
    assert found.key.endswith("https://emr.example/fhir/thing/7")
