"""The ledger's endpoints, by subject. `ENDPOINTS` is the whole surface, in the order of the documentation."""

from services.ledger.api import batches, charges, events, feeds, parties, payments

ENDPOINTS = (
    *parties.ENDPOINTS,
    *charges.ENDPOINTS,
    *payments.ENDPOINTS,
    *batches.ENDPOINTS,
    *feeds.ENDPOINTS,
    *events.ENDPOINTS,
)
