"""Machine clients: EMR integrations, made by the operator. Those of the services themselves come by configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg

from services.identity.domain import Client, Editor
from services.identity.service.acts import administration, current_editor
from services.identity.store import clients as store
from services.identity.store import companies as company_store
from services.identity.tokens import new_secret, secret_hash
from shared.access.principal import Principal
from shared.db import acquire
from shared.errors import Forbidden, Invalid, NotFound
from shared.ids import uuid7


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client with its secret, which is shown once and stored only as a hash."""

    client: Client
    secret: str


class Clients:
    """A company's administrators see the clients that may write to it, and of those only the companies they share."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list(self, caller: Principal, after: UUID | None, limit: int) -> Sequence[Client]:
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            company_id = None if editor.is_operator else caller.company
            return [_seen(editor, client) for client in await store.list_clients(connection, company_id, after, limit)]

    async def create(self, caller: Principal, fields: Mapping[str, Any]) -> NewClient:
        """A source belongs to one client: on the message bus it is all that says who is speaking."""
        client_key, secret = uuid7(), new_secret()
        client = Client(id=client_key, client_id=str(client_key), **fields)
        async with administration(self._pool, caller) as act:
            known = await company_store.companies(act.connection, client.company_ids)
            if len(known) != len(client.company_ids):
                raise Invalid.field("company_ids", "unknown_company", "There is no such company")
            if await store.taken_sources(act.connection, client.sources):
                raise Invalid.field("sources", "taken", "Another client has this source")
            await store.save_client(act.connection, client, secret_hash(secret))
            await act.publish_client(client)
            await act.audit("client_created", client.id, client.company_ids)
        return NewClient(client, secret)

    async def delete(self, caller: Principal, client_key: UUID) -> None:
        """Its secret stops working now, its last token with it. The name and the sources are free again."""
        async with administration(self._pool, caller) as act:
            editor = await current_editor(act.connection, caller)
            client = await store.client(act.connection, client_key)
            if client is None or not client.active or client.kind != "emr":
                raise NotFound()
            if not editor.is_operator and editor.active_company_id not in client.company_ids:
                raise NotFound()
            if not all(map(editor.may_grant, client.company_ids)):
                raise Forbidden("This client serves companies that you do not have: only the operator removes it")
            client = replace(client, active=False, version=client.version + 1)
            await store.save_client(act.connection, client)
            await act.publish_client(client)
            await act.publish_access(client.id, client.version)
            await act.audit("client_deleted", client.id, client.company_ids)


def _seen(editor: Editor, client: Client) -> Client:
    return replace(client, company_ids=tuple(filter(editor.may_grant, client.company_ids)))
