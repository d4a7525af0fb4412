"""The ledger's endpoints, by subject. `ENDPOINTS` is the whole surface, in the order of the documentation."""

from services.ledger.api import (
    batches,
    charges,
    events,
    exceptions,
    feeds,
    hl7,
    mappings,
    parties,
    payments,
    reconciliation,
)

ENDPOINTS = (
    *parties.ENDPOINTS,
    *charges.ENDPOINTS,
    *payments.ENDPOINTS,
    *batches.ENDPOINTS,
    *feeds.ENDPOINTS,
    *exceptions.ENDPOINTS,
    *mappings.ENDPOINTS,
    *reconciliation.ENDPOINTS,
    *hl7.ENDPOINTS,
    *events.ENDPOINTS,
)
