"""The description as one page for people, which needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from swashplate.http.parameters import LARGEST
from swashplate.words import counted

_STYLE = """
:root{color-scheme:light dark;--line:#d8dce2;--soft:#f5f6f8;--text:#1c2430;--dim:#5b6675;--page:#fff;
--get:#1565c0;--post:#2e7d32;--put:#b26a00;--patch:#6a3ab2;--delete:#b3261e}
@media(prefers-color-scheme:dark){:root{--line:#363d48;--soft:#1e242d;--text:#e4e8ee;--dim:#9aa5b4;--page:#14181e;
--get:#6db3ff;--post:#7bcf80;--put:#f0b35a;--patch:#b99bf0;--delete:#ff8f85}}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,sans-serif;margin:0;color:var(--text);background:var(--page);display:flex}
nav{width:19rem;flex:none;height:100vh;overflow:auto;position:sticky;top:0;padding:1.2rem;border-right:1px solid var(--line);
font-size:13px;background:var(--soft)}
nav b{display:block;margin:1rem 0 .2rem;text-transform:capitalize}
nav a{display:block;color:inherit;text-decoration:none;padding:.1rem 0;overflow-wrap:anywhere}nav a:hover{text-decoration:underline}
main{flex:1;min-width:0;max-width:60rem;padding:1.5rem 2rem 6rem}
h1{margin:.2rem 0}h2{text-transform:capitalize;border-bottom:2px solid var(--line);padding-bottom:.3rem;margin-top:3rem}
section{border:1px solid var(--line);border-radius:8px;margin:1rem 0;padding:0 1.2rem}
section>details>summary{cursor:pointer;padding:.8rem 0;list-style:none;display:flex;gap:.7rem;align-items:baseline;flex-wrap:wrap}
section>details>summary::-webkit-details-marker{display:none}
section>details[open]{padding-bottom:1rem}
code,pre,.m,.path{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:13px}
.m{font-weight:700;display:inline-block;min-width:3.4rem}
.get,.head{color:var(--get)}.post{color:var(--post)}.put{color:var(--put)}.patch{color:var(--patch)}.delete{color:var(--delete)}
nav .m{font-size:11px;min-width:3rem}
.path{font-weight:600;overflow-wrap:anywhere}.what{color:var(--dim)}
h4{margin:1.1rem 0 .3rem;font-size:13px;color:var(--dim);text-transform:uppercase;letter-spacing:.04em}
pre{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow:auto;margin:.3rem 0;max-height:26rem}
.copy{position:relative}.copy button{position:absolute;right:.5rem;top:.5rem;font:12px system-ui,sans-serif;cursor:pointer}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{border-top:1px solid var(--line);padding:.35rem .8rem .35rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{border-top:0;color:var(--dim);font-weight:500}td:first-child{white-space:nowrap}.in td:nth-child(2){white-space:nowrap}
.must{color:var(--delete);font-size:12px}.dim{color:var(--dim)}
details.answer>summary{cursor:pointer;padding:.15rem 0}
@media(max-width:800px){nav{display:none}main{padding:1rem}td:first-child{white-space:normal}}
"""
_SCRIPT = """
document.addEventListener('click',function(e){var b=e.target;if(b.tagName!=='BUTTON')return;
var t=b.nextElementSibling.textContent;
(navigator.clipboard?navigator.clipboard.writeText(t):Promise.reject()).catch(function(){
var r=document.createRange();r.selectNodeContents(b.nextElementSibling);
var s=getSelection();s.removeAllRanges();s.addRange(r);document.execCommand('copy')});
b.textContent='copied';setTimeout(function(){b.textContent='copy'},1500)});
document.querySelectorAll('.copy pre').forEach(function(p){
p.textContent=p.textContent.replace('$URL',location.origin)});
function reveal(){var s=document.getElementById(location.hash.slice(1));var d=s&&s.querySelector('details');if(d)d.open=true}
addEventListener('hashchange',reveal);reveal();
"""
UNFOLDED = 12
"""Fields of an answer that are shown at once."""
DEEPEST = 3
"""Levels of a nested object that the table of a body unfolds."""


def page(document: dict[str, Any]) -> str:
    """The whole page as HTML."""
    return _Page(document).render()


class _Page:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._schemas: dict[str, Any] = document["components"]["schemas"]

    def render(self) -> str:
        info = self._document["info"]
        menu, body = [], []
        for tag in (entry["name"] for entry in self._document["tags"]):
            menu.append(f"<b>{escape(tag)}</b>")
            body.append(f"<h2>{escape(tag)}</h2>")
            for path, operations in self._document["paths"].items():
                for method, operation in operations.items():
                    if tag not in operation["tags"]:
                        continue
                    anchor, mark = escape(operation["operationId"]), f"<span class='m {method}'>{method.upper()}</span>"
                    menu.append(f"<a href='#{anchor}'>{mark} {escape(path)}</a>")
                    body.append(self._operation(anchor, mark, method, path, operation))
        about = f"<p>{_prose(info['description'])}</p>" if "description" in info else ""
        return (
            "<!doctype html><html lang=en><head><meta charset=utf-8>"
            "<meta name=viewport content='width=device-width,initial-scale=1'>"
            f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
            f"<nav><a href=#><strong>{escape(info['title'])}</strong></a>{''.join(menu)}</nav>"
            f"<main id=top><h1>{escape(info['title'])}</h1><p class=dim>version {escape(info['version'])} · "
            f"<a href=openapi.json>openapi.json</a> · <a href=health>health</a> · <a href=metrics>metrics</a></p>{about}"
            f"{self._access()}{''.join(body)}</main><script>{_SCRIPT}</script></body></html>\n"
        )

    def _access(self) -> str:
        shape = '{"error": "what is wrong", "code": "a_word", "hint": "what to do"}'
        more = ""
        if "securitySchemes" in self._document["components"]:
            more = " A request brings its token: <code>Authorization: Bearer TOKEN</code>."
        return f"<p>Every failure is <code>{escape(shape)}</code>, with a status of 400 and above.{more}</p>"

    def _operation(self, anchor: str, mark: str, method: str, path: str, operation: dict[str, Any]) -> str:
        parts = [f"<p>{_prose(operation['description'])}</p>" if "description" in operation else ""]
        parts.append("<h4>Example</h4>" + _copyable(self._curl(method, path, operation)))
        parts.append(self._parameters(operation.get("parameters", [])))
        parts.append(self._body(operation.get("requestBody")))
        parts.append("<h4>Answers</h4>" + "".join(self._answers(operation["responses"])))
        return (
            f"<section id='{anchor}'><details><summary>{mark} <span class=path>{escape(path)}</span>"
            f"<span class=what>{escape(operation['summary'])}</span></summary>{''.join(parts)}</details></section>"
        )

    def _parameters(self, parameters: list[dict[str, Any]]) -> str:
        if not parameters:
            return ""
        rows = []
        for each in parameters:
            schema = each.get("schema") or next(iter(each["content"].values()))["schema"]
            text = escape(each.get("description", ""))
            rows.append(
                (_name(each["name"], required=each.get("required", False)), each["in"], self._type(schema), text)
            )
        return "<h4>Parameters</h4><div class=in>" + _table(("name", "in", "type", ""), rows) + "</div>"

    def _body(self, body: dict[str, Any] | None) -> str:
        if body is None:
            return ""
        media_type, content = _content(body)
        rows = list(self._fields(content.get("schema", {}), "", 0))
        told = "" if body.get("required") else " · may be left out"
        shown = f"<h4>Body <span class=dim>{escape(media_type)}{told}</span></h4>"
        return shown + self._text_of(content.get("schema", {})) + _table(("field", "type", ""), rows)

    def _text_of(self, schema: dict[str, Any]) -> str:
        text = self._resolved(schema).get("description")
        return f"<p>{_prose(text)}</p>" if text else ""

    def _fields(
        self, schema: dict[str, Any], prefix: str, depth: int, *, says_required: bool = True
    ) -> Iterator[tuple[str, str, str]]:
        found = self._object(schema)
        required = found.get("required", [])
        for name, field in found.get("properties", {}).items():
            yield (
                _name(prefix + name, required=says_required and name in required),
                self._type(field),
                _prose(field.get("description", "")),
            )
            if depth < DEEPEST:
                deeper = self._object(field)
                suffix = "[]." if self._resolved(field).get("type") == "array" else "."
                if deeper.get("properties"):
                    below = f"{prefix}{name}{suffix}"
                    yield from self._fields(deeper, below, depth + 1, says_required=says_required)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return {**self._schemas.get(schema["$ref"].rpartition("/")[2], {}), **_without(schema, "$ref")}
        options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
        return self._resolved(options[0]) if len(options) == 1 else schema

    def _object(self, schema: dict[str, Any]) -> dict[str, Any]:
        found = self._resolved(schema)
        return self._resolved(found["items"]) if found.get("type") == "array" and "items" in found else found

    def _type(self, schema: dict[str, Any]) -> str:
        words = _words(self._resolved(schema), self)
        default = schema.get("default")
        more = f", default <code>{escape(json.dumps(default))}</code>" if default not in (None, "", [], {}) else ""
        return words + more

    def _curl(self, method: str, path: str, operation: dict[str, Any]) -> str:
        query = []
        for each in operation.get("parameters", []):
            value = each.get("example") or _content(each)[1].get("example")
            if each["in"] == "path":
                path = path.replace("{" + each["name"] + "}", str(value or each["name"].upper()))
            elif each["in"] == "query" and (each.get("required") or value is not None):
                query.append(f"{each['name']}={quote(_as_text(value) if value is not None else each['name'].upper())}")
        lines = ["curl" + ("" if method == "get" else f" -X {method.upper()}")]
        if "security" in operation:
            lines.append('-H "Authorization: Bearer $TOKEN"')
        body = operation.get("requestBody")
        if body is not None:
            media_type, content = _content(body)
            lines += _curl_body(media_type, content.get("example"))
        address = "$URL" + path + ("?" + "&".join(query) if query else "")
        return " \\\n  ".join((*lines, f'"{address}"'))

    def _answers(self, responses: dict[str, Any]) -> Iterator[str]:
        for status, response in responses.items():
            media_type, content = _content(response)
            inner = f"<p class=dim>{escape(media_type)}</p>" if media_type else "<p class=dim>no body</p>"
            if "example" in content:
                inner += _pre(content["example"])
            rows = (
                list(self._fields(content.get("schema", {}), "", 0, says_required=False)) if int(status) < 400 else []
            )
            table = _table(("field", "type", ""), rows)
            folded = len(rows) > UNFOLDED
            inner += (
                f"<details class=answer><summary>{counted(len(rows), 'field')}</summary>{table}</details>"
                if folded
                else table
            )
            for name, header in response.get("headers", {}).items():
                if name != "X-Request-Id":
                    inner += f"<p><code>{escape(name)}</code> {escape(header['description'])}</p>"
            yield (
                f"<details class=answer{' open' if int(status) < 300 else ''}><summary><code>{status}</code> "
                f"{escape(response['description'])}</summary>{inner}</details>"
            )


def _words(schema: dict[str, Any], page: _Page) -> str:
    """A type in a few words, its bounds among them."""
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(_words(page._resolved(option), page) for option in options)  # noqa: SLF001
    kind = schema.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if text == "array" and "items" in schema:
        text = f"list of {_words(page._resolved(schema['items']), page)}"  # noqa: SLF001
    bounds = [
        f"{sign} {schema[key]:g}" if isinstance(schema[key], float) else f"{sign} {schema[key]}"
        for key, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", "&gt;"), ("maximum", "≤"), ("minLength", "length ≥"),
            ("maxLength", "length ≤"), ("maxItems", "at most"),
        )
        if key in schema and not (isinstance(schema[key], int) and abs(schema[key]) >= LARGEST)
    ]  # fmt: skip
    if "pattern" in schema:
        bounds.append(f"<code>{escape(schema['pattern'])}</code>")
    if "format" in schema:
        bounds.append(escape(schema["format"]))
    return f"{text} <span class=dim>{', '.join(bounds)}</span>" if bounds else text


def _content(described: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The media type and what is said of it; a body has one or none."""
    found: dict[str, dict[str, Any]] = described.get("content", {})
    return next(iter(found.items()), ("", {}))


def _without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def _name(name: str, *, required: bool) -> str:
    return f"<code>{escape(name)}</code>" + (" <span class=must>required</span>" if required else "")


def _prose(text: str) -> str:
    """A docstring: what stands in (double) backticks is code, an empty line begins a paragraph."""
    marked = re.sub(r"``?([^`]+)``?", r"<code>\1</code>", escape(text, quote=False))
    return marked.replace("\n\n", "</p><p>")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{lines}</table>"


def _pre(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"


def _copyable(text: str) -> str:
    return f"<div class=copy><button type=button>copy</button><pre>{escape(text)}</pre></div>"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _curl_body(media_type: str, example: Any) -> list[str]:
    if media_type == "multipart/form-data":
        return ["-F file=@FILE"]
    if media_type != "application/json":
        return [f"-H 'Content-Type: {media_type}'", "--data-binary @FILE"]
    text = shlex.quote(json.dumps(example, ensure_ascii=False)) if example is not None else "@body.json"
    return ["-H 'Content-Type: application/json'", f"-d {text}"]
