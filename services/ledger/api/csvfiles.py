"""CSV files by HTTP, and the profiles that say how a company's senders write them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from aiohttp import web
from pydantic import StringConstraints

from services.ledger.answers import Page
from services.ledger.answers_feeds import CsvProfileDocument, FeedDocument
from services.ledger.api.common import ledger, readers
from services.ledger.api.feeds import UPLOAD, upload
from services.ledger.feeds import csv_store, files
from services.ledger.feeds.csv_posting import CsvFile
from services.ledger.feeds.csvfile.profile import Profile
from shared.access.principal import area
from shared.errors import Invalid, NotFound
from shared.fields import Query
from shared.web import Call, Endpoint, json_response
from shared.web.lists import WholeList, paged

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of a profile: it is also the name of a folder in the watched directory."""
_READ = area("payment_posting")
_AGREE = area("payment_posting", "edit")


class CsvQuery(Query):
    """By which profile the file is read."""

    profile: Annotated[str, StringConstraints(pattern=NAME)]


async def csv(call: Call) -> web.Response:
    """200 with the finished feed; 202 for a body over 8 MiB, which is worked off in the background."""
    name = call.query.profile
    profile = await csv_store.profile_of(readers(call), call.principal.company, name)
    if profile is None:
        raise Invalid.field("profile", "unknown_profile", "There is no such profile")
    return await upload(call, files.csv(CsvFile(name=name, profile=profile)))


async def profiles(call: Call) -> web.Response:
    found = await csv_store.read_profiles(readers(call), call.principal.company)
    shown, following = paged(found, [one["name"] for one in found], call.query)
    return json_response({"items": shown, "next": following})


async def read_profile(call: Call) -> web.Response:
    return json_response(await csv_store.read_profile(readers(call), call.principal.company, _name(call)))


async def write_profile(call: Call) -> web.Response:
    """Files that come later are read by it, and rows that wait when they are tried again; what was posted stays."""
    pool, company, name = ledger(call).pool, call.principal.company, _name(call)
    if not re.fullmatch(NAME, name):
        raise Invalid.field("name", "invalid_name", "Must be up to 64 letters, digits, points, lines and underscores")
    await csv_store.write_profile(pool, company, name, call.body, call.principal.subject)
    return json_response(await csv_store.read_profile(readers(call), company, name))


async def delete_profile(call: Call) -> web.Response:
    """No file is read by it any more; what came by it can still be finished and tried again."""
    await csv_store.delete_profile(ledger(call).pool, call.principal.company, _name(call))
    return web.Response(status=204)


def _name(call: Call) -> str:
    name: str = call.request.match_info["name"]
    if "\0" in name:
        raise NotFound()
    return name


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/feeds/csv",
        csv,
        UPLOAD,
        "Send a CSV file",
        query=CsvQuery,
        raw_types=("text/csv",),
        answer=FeedDocument,
        also=(202,),
    ),
    Endpoint(
        "GET",
        "/v1/feeds/csv/profiles",
        profiles,
        _READ,
        "How the company's senders write CSV files",
        query=WholeList,
        answer=Page[CsvProfileDocument],
    ),
    Endpoint(
        "GET",
        "/v1/feeds/csv/profiles/{name}",
        read_profile,
        _READ,
        "One profile of CSV files",
        answer=CsvProfileDocument,
    ),
    Endpoint(
        "PUT",
        "/v1/feeds/csv/profiles/{name}",
        write_profile,
        _AGREE,
        "Agree how a sender writes",
        body=Profile,
        answer=CsvProfileDocument,
    ),
    Endpoint(
        "DELETE", "/v1/feeds/csv/profiles/{name}", delete_profile, _AGREE, "Remove a profile of CSV files", status=204
    ),
)
