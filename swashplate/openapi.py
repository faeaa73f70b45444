"""OpenAPI 3.1 out of the route table, and a page that shows it without anything from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

if TYPE_CHECKING:
    from swashplate.http import Route

_ERROR = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "hint": {"type": "string"}},
}
_REASONS = {
    400: "The request is wrong",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    409: "In conflict with what is there",
    413: "Too large",
    503: "Something this service needs does not answer",
}


def _reference(model: type[Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _failure(status: int) -> dict[str, Any]:
    return {
        "description": _REASONS.get(status, "Failed"),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _operation(route: Route) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done"}
    if route.answer is not None:
        success["content"] = _reference(route.answer)
    if route.example is not None:
        success.setdefault("content", {"application/json": {}})["application/json"]["example"] = route.example
    operation: dict[str, Any] = {"summary": route.summary, "responses": {str(route.status): success}}
    failures = {*route.errors, *((400, 413) if route.body else ())}
    for status in sorted(failures):
        operation["responses"][str(status)] = _failure(status)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)(?::[^}]*)?}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _reference(route.body)}
    return operation


def document(name: str, version: str, routes: Iterable[Route], *, secured: bool = False) -> dict[str, Any]:
    """The OpenAPI document of a service; ``secured`` when it demands a token."""
    routes = list(routes)
    takes = {(r.body, "validation") for r in routes if r.body}
    gives = {(r.answer, "validation") for r in routes if r.answer}
    ordered = sorted(takes | gives, key=lambda pair: pair[0].__name__)
    _, schemas = models_json_schema(ordered, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
        operation = paths.setdefault(path, {})[route.method.lower()] = _operation(route)
        if secured and not route.open:
            operation["security"] = [{"token": []}]
            operation["responses"]["401"] = _failure(401)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"Swashplate {name}", "version": version},
        "paths": paths,
        "components": {"schemas": {**schemas.get("$defs", {}), "Error": _ERROR}},
    }
    if secured:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return described


def page(described: dict[str, Any]) -> str:
    """One plain HTML page listing the operations."""
    rows = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            answers = ", ".join(operation["responses"])
            cells = (method.upper(), path, operation["summary"], answers)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    title = html.escape(described["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}td{border-top:1px solid #ccc;padding:.3rem .6rem .3rem 0;"
        "vertical-align:top}td:first-child,td:nth-child(2){font-family:ui-monospace,monospace}</style>"
        f"<h1>{title}</h1><p><a href=openapi.json>openapi.json</a></p><table>{''.join(rows)}</table></html>"
    )
