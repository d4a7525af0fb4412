"""The ledger's endpoints, by subject. `ENDPOINTS` is the whole surface, in the order of the documentation."""

from services.ledger.api import (
    acknowledgements,
    audit,
    batches,
    charges,
    claims,
    csvfiles,
    events,
    exceptions,
    fee_schedule,
    feeds,
    fhir,
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
    *acknowledgements.ENDPOINTS,
    *exceptions.ENDPOINTS,
    *claims.ENDPOINTS,
    *mappings.ENDPOINTS,
    *reconciliation.ENDPOINTS,
    *hl7.ENDPOINTS,
    *fee_schedule.ENDPOINTS,
    *fhir.ENDPOINTS,
    *csvfiles.ENDPOINTS,
    *audit.ENDPOINTS,
    *events.ENDPOINTS,
)
