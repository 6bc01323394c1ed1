"""What the OpenAPI document says of bodies and answers, and the page that shows it without a script."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": ["object", "string"]}, "request": {"type": "string"}},
    "required": ["error", "request"],
}
_REFUSALS = {
    400: "The request cannot be read",
    401: "The token is missing or wrong",
    403: "A page of another site, or another name of this machine",
    404: "There is no such head, version, tap or image",
    405: "The route has another method",
    406: "The answer cannot have this form",
    408: "The body did not arrive in time",
    409: "Not possible with this head, cache or service",
    413: "The body is too large, or has too many images",
    415: "Wrong content type",
    422: "Values that cannot be used, or no usable image",
    429: "Overloaded: see Retry-After",
    503: "Not serving",
    504: "The deadline has passed",
}
_ALWAYS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 503, 504)

JSON_BODY: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_TENSORS = {"type": "array", "items": {"type": "object", "required": ["name"]}}
INFER: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"id": {"type": "string"}, "inputs": _TENSORS, "outputs": _TENSORS},
            "required": ["inputs"],
        }
    },
    "application/octet-stream": _BINARY,
}

IMAGES: dict[str, Any] = {
    "body": {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                "required": ["image"],
            }
        },
    }
}

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title><link rel="stylesheet" href="/static/style.css">
<main class="routes"><h1>{{ title }}</h1><p>The same for programs: <a href="/openapi.json">openapi.json</a></p>
{% for path, methods in paths.items() %}{% for method, operation in methods.items() %}
<section><h2><code>{{ method|upper }} {{ path }}</code></h2><p>{{ operation.summary }}</p>
{% if operation.parameters %}<ul>{% for item in operation.parameters %}
<li><code>{{ item.name }}</code> in the {{ item.in }}{% if item.description %}: {{ item.description }}{% endif %}</li>
{% endfor %}</ul>{% endif %}
{% if operation.requestBody %}<p class="quiet">Body: {{ operation.requestBody.content|join(", ") }}</p>{% endif %}
</section>{% endfor %}{% endfor %}</main></html>
""")


def answers(
    *statuses: int, body: Mapping[str, Any] | None = None, kinds: Sequence[str] = ("application/json",)
) -> dict[str, Any]:
    """Return what a route declares beside its function: its answers, all refusals, and the form of its body."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _REFUSALS[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in _ALWAYS
    }
    responses |= {
        status: {
            "description": _REFUSALS.get(status, "The answer"),
            "content": {kind: {"schema": {}} for kind in (kinds if status < HTTPStatus.BAD_REQUEST else kinds[:1])},
        }
        for status in statuses
    }
    extra = {} if body is None else {"openapi_extra": {"requestBody": {"required": True, "content": dict(body)}}}
    return {"responses": responses, **extra}


def page_of(document: Mapping[str, Any]) -> str:
    """Return a page that shows an OpenAPI document."""
    return _PAGE.render(title=document["info"]["title"], paths=document["paths"])
