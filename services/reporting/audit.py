"""What reporting seals: its audit. (Its figures are proved by the ledger's.)"""

from typing import Final

from services.reporting.store import ROLE
from shared.seal import AuditRows
from shared.seal_service import Sealing

SEALING: Final = Sealing("reporting", ROLE, (AuditRows(),))
