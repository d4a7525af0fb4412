"""`/v1/audit`: who read what of the ledger. What was posted, and by whom, stands in the postings."""

from services.ledger.api.common import readers
from shared.access.principal import area
from shared.db import reading
from shared.web.audit import audit_endpoint

ENDPOINTS = (audit_endpoint(area("audit_trail"), lambda call: reading(readers(call), call.principal.company)),)
