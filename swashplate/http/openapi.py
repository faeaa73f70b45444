"""OpenAPI 3.1 out of the route table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from swashplate.http.parameters import JsonObject, Parameter
from swashplate.http.routes import JSON, Route

_ERROR = {
    "type": "object",
    "description": "Every failure looks like this.",
    "required": ["error", "code"],
    "properties": {
        "error": {"type": "string", "description": "One sentence for people."},
        "code": {"type": "string", "description": "One word for programs; it stays the same."},
        "hint": {"type": "string", "description": "What to do next."},
        "request_id": {"type": "string", "description": "What to search the log for; with a status of 500 and above."},
    },
}
_REASONS = {
    400: ("The request is wrong", "invalid_request", "body: field name: Field required"),
    401: ("The token is missing or not enough", "unauthorized", "the token is missing"),
    403: ("Not allowed", "forbidden", "the token of this attempt does not allow that"),
    404: ("There is no such thing", "not_found", "there is nothing of that id"),
    405: ("Not with this method", "method_not_allowed", "DELETE /tasks: Method Not Allowed"),
    408: ("The body did not come", "request_timeout", "fewer than 1024 bytes of the body came within 30 s"),
    409: ("In conflict with what is there", "conflict", "it is running"),
    413: ("Too large", "too_large", "this is too large"),
    415: ("Not this media type", "unsupported_media_type", "this is not taken"),
    416: ("Not this range", "range_not_satisfiable", "the range is outside"),
    500: ("A bug of ours; the log has the details", "internal", "internal error"),
    502: ("What another service gave is damaged", "digest_mismatch", "the content has another digest"),
    503: ("Something this service needs does not answer", "unavailable", "the broker is away"),
    504: ("It took too long", "timeout", "no answer in time"),
}
_SUCCESSES = {200: "Done", 201: "Made", 202: "Taken, and not done yet", 204: "Done", 304: "What you have is current"}
_PARAMETER = re.compile(r"{(\w+)(?::[^}]*)?}")
REQUEST_ID = {
    "X-Request-Id": {
        "description": "The request's own, or one of ours; every log line about the request bears it.",
        "schema": {"type": "string"},
    }
}


class _Schemas:
    """The models of a service, and how one refers to each."""

    def __init__(self, routes: list[Route]) -> None:
        models = {m for r in routes for m in (r.body, r.answer, *r.also.values()) if m is not None}
        ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
        references, found = models_json_schema(
            [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
        )
        self.definitions: dict[str, Any] = found.get("$defs", {})
        self._references = {model: schema for (model, _), schema in references.items()}

    def of(self, model: type[BaseModel]) -> dict[str, Any]:
        return dict(self._references[model])


def shown_path(route: Route) -> str:
    """The path without the patterns that only the dispatcher reads."""
    return _PARAMETER.sub(r"{\1}", route.path)


def _parameter(parameter: Parameter[Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": parameter.name, "in": parameter.place, "description": parameter.text}
    if parameter.required or parameter.place == "path":
        described["required"] = True
    if isinstance(parameter, JsonObject):
        described["content"] = {JSON: {"schema": parameter.schema()}}
        if parameter.example is not None:
            described["content"][JSON]["example"] = parameter.example
        return described
    described["schema"] = parameter.schema()
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _parameters(route: Route) -> list[dict[str, Any]]:
    known = {parameter.name: parameter for parameter in route.parameters}
    described: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
        if name not in known
    ]
    return described + [_parameter(parameter) for parameter in route.parameters]


def _failure(status: int, route: Route, body_limit: int) -> dict[str, Any]:
    sentence, code, example = _REASONS.get(status, ("Failed", "error", "it failed"))
    if status == 413 and _takes_body(route) and route.error_schema is None:
        most = route.limit or body_limit
        sentence, example = f"The body has more than {most} bytes", f"the body is over the limit of {most} bytes"
    if route.error_schema is not None and status not in {401, 500}:
        shared = [{"$ref": "#/components/schemas/Error"}]
        content: dict[str, Any] = {"schema": {"anyOf": [dict(route.error_schema), *shared]}}
    else:
        content = {"schema": {"$ref": "#/components/schemas/Error"}, "example": {"error": example, "code": code}}
    return {"description": sentence, "headers": REQUEST_ID, "content": {JSON: content}}


def _success(status: int, model: type[BaseModel] | None, route: Route, schemas: _Schemas) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in route.headers.items()}
    described: dict[str, Any] = {"description": _SUCCESSES.get(status, "Done"), "headers": {**REQUEST_ID, **headers}}
    if status in {204, 304} or (status != route.status and model is None):
        return described
    content: dict[str, Any] = {}
    if model is not None:
        content["schema"] = schemas.of(model)
    elif route.gives != JSON:
        content["schema"] = {"type": "string"} if route.gives.startswith("text/") else {}
    if route.example is not None and status == route.status:
        content["example"] = route.example
    if content or route.gives != JSON:
        described["content"] = {route.gives: content}
    return described


def _takes_body(route: Route) -> bool:
    return route.body is not None or route.body_schema is not None


def _failures(route: Route, *, secured: bool) -> set[int]:
    found = {400, *route.errors, *((408, 413) if _takes_body(route) else ())}
    return found | ({401} if secured else set())


def _operation(route: Route, schemas: _Schemas, body_limit: int, *, secured: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "operationId": _operation_id(route)}
    if route.description:
        operation["description"] = route.description
    operation["tags"] = [route.tag or _tag(route)]
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if _takes_body(route):
        schema = schemas.of(route.body) if route.body is not None else dict(route.body_schema or {})
        content: dict[str, Any] = {"schema": schema}
        if route.body_example is not None:
            content["example"] = route.body_example
        operation["requestBody"] = {"required": route.body_required, "content": {route.takes: content}}
    answers = {route.status: route.answer, **route.also}
    operation["responses"] = {
        **{
            str(status): _success(status, model, route, schemas)
            if status < 400
            else _failure(status, route, body_limit)
            for status, model in sorted(answers.items())
        },
        **{
            str(status): _failure(status, route, body_limit)
            for status in sorted(_failures(route, secured=secured) - set(answers))
        },
    }
    if secured:
        operation["security"] = [{"token": []}]
    return operation


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", shown_path(route))
    return "_".join((route.method.lower(), *words))


def _tag(route: Route) -> str:
    first = shown_path(route).strip("/").partition("/")[0]
    return first if first and not first.startswith("{") else "service"


def document(
    name: str,
    version: str,
    routes: Iterable[Route],
    *,
    secured: bool = False,
    basic: bool = False,
    description: str = "",
    body_limit: int,
) -> dict[str, Any]:
    """The OpenAPI document of a service; ``secured`` when it demands a token, ``basic`` when a password will do too.

    ``body_limit`` is in bytes, for the routes that have no limit of their own.
    """
    routes = list(routes)
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        needs = route.bearer or (secured and not route.open)
        paths.setdefault(shown_path(route), {})[route.method.lower()] = _operation(
            route, schemas, body_limit, secured=needs
        )
    tags: dict[str, None] = {tag: None for route in routes for tag in [route.tag or _tag(route)]}
    info: Mapping[str, Any] = {"title": f"Swashplate {name.replace('_', ' ')}", "version": version}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {**info, "description": description} if description else info,
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {"schemas": {**schemas.definitions, "Error": _ERROR}},
    }
    if secured or any(route.bearer for route in routes):
        schemes = {"token": {"type": "http", "scheme": "basic" if basic else "bearer"}}
        described["components"]["securitySchemes"] = schemes
    return described
