"""The API described for machines, OpenAPI 3.1, made of the routes and the models themselves.

Paths and methods come from the router, words from the handlers' docstrings, shapes from the models
that validate requests and answers; `relay.api.describe` ties them together.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from relay import __version__
from relay.api.answers import ErrorAnswer
from relay.api.describe import FROM_A_BODY, FROM_ANY, Operation, operation_of

REF = "#/components/schemas/{model}"
Schema = dict[str, Any]


def openapi(app: web.Application) -> Schema:
    """The description of every route of `app`."""
    found = sorted(_operations(app), key=lambda entry: entry[:2])
    used: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {
        (ErrorAnswer, "serialization"): None
    }
    for _, _, _, operation in found:
        if operation.body is not None:
            used[operation.body, "validation"] = None
        used.update(dict.fromkeys((model, "serialization") for model in operation.answers))
    refs, definitions = models_json_schema(list(used), ref_template=REF)
    paths: dict[str, Schema] = {}
    for path, method, handler, operation in found:
        entry = _entry(path, method, handler, operation, refs)
        paths.setdefault(path, {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Trickle Relay",
            "version": __version__,
            "summary": "Relays live trickle streams through a ComfyStream server and back.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the operator has set RELAY_API_TOKEN.",
                }
            },
        },
        "security": [{}, {"token": []}],
    }


class Description:
    """The description as it is sent: made once, when it is first asked for."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._json: bytes | None = None

    async def of(self, app: web.Application) -> bytes:
        """As JSON. Making it takes tenths of a second, in a thread."""
        async with self._lock:
            if self._json is None:
                self._json = await asyncio.to_thread(lambda: json.dumps(openapi(app)).encode())
            return self._json


DESCRIPTION = web.AppKey("description", Description)


async def describe_api(request: web.Request) -> web.StreamResponse:
    """This description."""
    body = await request.app[DESCRIPTION].of(request.app)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _operations(app: web.Application) -> Iterator[tuple[str, str, object, Operation]]:
    for route in app.router.routes():
        if route.resource is not None and route.method not in ("HEAD", "OPTIONS", "*"):
            path = route.resource.canonical
            if path != "/" and path.endswith("/"):
                continue  # another writing of one that is listed
            yield path, route.method, route.handler, operation_of(route.handler)


def _entry(
    path: str, method: str, handler: object, operation: Operation, refs: dict[Any, Schema]
) -> Schema:
    summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition(". ")
    entry: Schema = {
        "operationId": _name(path, method),
        "summary": _line(summary).rstrip("."),
        "tags": [_tag(path)],
    }
    if description:
        entry["description"] = _line(description)
    if parameters := list(_parameters(path, operation)):
        entry["parameters"] = parameters
    if operation.body is not None:
        content: Schema = {"schema": refs[operation.body, "validation"]}
        if operation.example is not None:
            content["example"] = dict(operation.example)
        entry["requestBody"] = {"required": True, "content": {"application/json": content}}
    elif operation.any_body:
        entry["requestBody"] = {"content": {"application/json": {"schema": {}}}}
    statuses = {*FROM_ANY, *operation.errors}
    if operation.body is not None:
        statuses.update(FROM_A_BODY)
    good = {"200": _good(operation, refs)}
    if operation.may_be_held:
        good["202"] = good["200"] | {"description": "Accepted"}
    entry["responses"] = good | {str(status): _error(status, refs) for status in sorted(statuses)}
    return entry


def _good(operation: Operation, refs: dict[Any, Schema]) -> Schema:
    schemas = [refs[model, "serialization"] for model in operation.answers]
    schema: Schema = {"type": "object"}
    if operation.content_type != "application/json":
        schema = {"type": "string"}
    elif schemas:
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"description": "OK", "content": {operation.content_type: {"schema": schema}}}


def _error(status: int, refs: dict[Any, Schema]) -> Schema:
    schema = refs[ErrorAnswer, "serialization"]
    answer: Schema = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"schema": schema}},
    }
    header = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if header:
        answer["headers"] = {header: {"schema": {"type": "string"}, "required": True}}
    return answer


def _parameters(path: str, operation: Operation) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)\}", path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    schemas: tuple[tuple[Mapping[str, str], Schema], ...] = (
        (operation.query, {"type": "boolean"}),
        (operation.numbers, {"type": "integer", "minimum": 1}),
        (operation.texts, {"type": "array", "items": {"type": "string"}}),
    )
    for parameters, kind in schemas:
        for name, meaning in parameters.items():
            yield {"name": name, "in": "query", "schema": kind, "description": meaning}
    for name, meaning in operation.headers.items():
        schema = {"type": "string"}
        yield {"name": name, "in": "header", "schema": schema, "description": meaning}


def _name(path: str, method: str) -> str:
    """As in ``get_session_session_id_status``."""
    return "_".join([method.lower(), *re.findall(r"[a-z0-9]+", path)])


def _tag(path: str) -> str:
    if re.match(r"/(api/|streams?(/|$)|live-video)", path):
        return "livepeer"
    return "sessions" if path.startswith("/session") else "operation"


def _line(text: str) -> str:
    return " ".join(text.split())
