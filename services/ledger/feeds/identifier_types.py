"""Types of identifiers (HL7 table 0203), which version 2 and FHIR share."""

from __future__ import annotations

from typing import Final

PERSONAL: Final = frozenset(("DL", "PPN", "SB", "SS", "TAX"))
"""Those that a person has outside the clinic: no account numbers."""
