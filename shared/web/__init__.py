"""What every HTTP service shares: declared endpoints, guards, parsing at the edge, problems, health and metrics."""

from shared.web.app import AppParts, create_app
from shared.web.endpoint import Call, Endpoint, Streamed, json_response

__all__ = ["AppParts", "Call", "Endpoint", "Streamed", "create_app", "json_response"]
