"""SQL of identity, beside its arguments; one module by subject. Each function takes the connection to work on."""

from typing import Final

ROLE: Final = "identity_app"
"""The group role that sessions take on: it owns nothing and has what the migrations grant."""
