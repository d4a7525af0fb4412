"""An EMR client in a company's feeds. Who may call what, and other companies' objects: tests/access."""

from __future__ import annotations

from uuid import uuid4

import orjson

from shared.access.policy import EMR_CLIENT
from tests.support.emr import BATCH, emr_event, emr_payment
from tests.support.ledger import LedgerStack


async def test_an_emr_client_sees_its_own_feeds_and_nothing_else(stack: LedgerStack) -> None:
    company = await stack.company()
    mine, other = [await stack.emr_client([company], f"{name} {company.company_id}") for name in ("mine", "other")]
    tokens = {client: company.token(EMR_CLIENT, client_id=client) for client in (mine, other)}
    feeds = {}
    for client, token in tokens.items():
        source = f"{'mine' if client == mine else 'other'} {company.company_id}"
        event = emr_event(source, "payment", emr_payment(uuid4(), "p"))
        answer = await company.upload("emr", b"[" + orjson.dumps(event) + b"]", token=token, **{"Content-Type": BATCH})
        assert (answer.status, answer.body["quarantined"]) == (200, 1)
        feeds[client] = answer.body["feed_id"]
    for client, token in tokens.items():
        foreign = feeds[other if client == mine else mine]
        assert [row["feed_id"] for row in (await company.get("/v1/feeds", token))["items"]] == [feeds[client]]
        assert (await company.get(f"/v1/feeds/{feeds[client]}", token))["quarantined"] == 1
        for path in (f"/v1/feeds/{foreign}", f"/v1/feeds/{foreign}/raw"):
            assert (await company.send("GET", path, token=token)).status == 404
        rows = (await company.get("/v1/exceptions", token))["items"]
        assert {row["feed_id"] for row in rows} == {feeds[client]}
        assert (await company.get("/v1/exceptions", token, feed_id=foreign))["items"] == []
    assert len((await company.get("/v1/feeds"))["items"]) == 2
    # A client may send only what is registered as its own.
    stolen = emr_event(f"mine {company.company_id}", "payment", emr_payment(company.locations[0], "p"))
    answer = await company.upload("emr", orjson.dumps(stolen), token=tokens[other])
    assert (answer.body["quarantined"], answer.body["posted"]) == (1, 0)
    assert (await company.reasons(feed_id=answer.body["feed_id"])) == {"unknown_source": 1}
