"""SQL of identity, beside its arguments; one module by subject. Each function takes the connection to work on."""

from typing import Final

from shared.seal import AuditRows
from shared.seal_service import Sealing

ROLE: Final = "identity_app"
"""The group role that sessions take on: it owns nothing and has what the migrations grant."""
SEALING: Final = Sealing("identity", ROLE, (AuditRows(),))
