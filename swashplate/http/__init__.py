"""HTTP: a table of routes becomes a service with one error shape, ``/health``, ``/metrics``, OpenAPI and a docs page."""

from swashplate.http import docs_page, strict_json
from swashplate.http.bodies import (
    BODY_LIMIT,
    FILE_LIMIT,
    MIB,
    parse,
    read_body,
    read_bytes,
    read_json,
    text_of,
    values_in,
)
from swashplate.http.connection import Patience, RequestTimeoutError
from swashplate.http.parameters import (
    OFFSET,
    Choice,
    JsonObject,
    Parameter,
    Seconds,
    Text,
    Whole,
    limit_of,
)
from swashplate.http.routes import Handler, Route, answer, refusal
from swashplate.http.service import Check, HttpService, must_be_connected
from swashplate.http.uploads import Received, read_upload

__all__ = [
    "BODY_LIMIT",
    "FILE_LIMIT",
    "MIB",
    "OFFSET",
    "Check",
    "Choice",
    "Handler",
    "HttpService",
    "JsonObject",
    "Parameter",
    "Patience",
    "Received",
    "RequestTimeoutError",
    "Route",
    "Seconds",
    "Text",
    "Whole",
    "answer",
    "docs_page",
    "limit_of",
    "must_be_connected",
    "parse",
    "read_body",
    "read_bytes",
    "read_json",
    "read_upload",
    "refusal",
    "strict_json",
    "text_of",
    "values_in",
]
