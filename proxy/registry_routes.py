"""The embedded registry's operations as the OCI Distribution Specification v1.1 lays them out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.manifests import EMPTY_CONFIG, OCI_INDEX, OCI_MANIFEST
from proxy.registry_store import OciError
from swashplate.http import Handler, Route, Text, answer
from swashplate.messages import Message

if TYPE_CHECKING:
    from proxy.registry import Registry

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
API = {"Docker-Distribution-API-Version": "registry/2.0"}
ERRORS = {
    "type": "object",
    "required": ["errors"],
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
        }
    },
}
BYTES = {"type": "string", "format": "binary"}
MANIFEST = {
    "schemaVersion": 2,
    "config": EMPTY_CONFIG,
    "layers": [{"mediaType": "application/wasm", "digest": "sha256:" + "0" * 64, "size": 1024}],
}
BELOW = r"/v2/{name:[\s\S]+}"
"""Of a repository. Whatever stands there, a line break too, is refused as the name that it is not."""
NAME = Text(name="name", text="The repository.", place="path", longest=255, example="fl-client")
DIGEST = Text(
    name="digest",
    text="sha256: and 64 hexadecimal digits.",
    place="path",
    pattern="sha256:[0-9a-f]{64}",
    example="sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
)
REFERENCE = Text(name="reference", text="A tag or a digest.", place="path", longest=135, example="latest")
COUNT = Text(name="n", text="At most so many.", pattern="[0-9]{1,9}")
LAST = Text(name="last", text="Only what follows this one.")


class Catalog(Message):
    repositories: list[str]


class Tags(Message):
    name: str
    tags: list[str]


def speaking_oci(handler: Handler) -> Handler:
    """Errors in the specification's shape."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except OciError as error:
            body = {"errors": [{"code": error.code, "message": error.message}]}
            return answer(body, status=error.status, headers={**API, **error.headers})

    return guarded


def routes(registry: Registry) -> list[Route]:
    """Every operation, with its errors in the specification's shape."""
    found = [
        Route("GET", "/v2/", registry.version, "Is this a registry?", example={}, tag="registry"),
        *_listing(registry),
        *_of_uploads(registry),
        *_of_content(registry),
        *(Route(m, "/v2{rest:.*}", registry.unsupported, "Anything else is refused", hidden=True) for m in METHODS),
    ]
    return [replace(route, handler=speaking_oci(route.handler), error_schema=ERRORS) for route in found]


def _listing(registry: Registry) -> list[Route]:
    return [
        Route(
            "GET",
            "/v2/_catalog",
            registry.catalog,
            "The repositories",
            parameters=(COUNT, LAST),
            answer=Catalog,
            tag="repositories",
        ),
        Route(
            "GET",
            f"{BELOW}/tags/list",
            registry.tags,
            "The tags of a repository",
            parameters=(NAME, COUNT, LAST),
            answer=Tags,
            errors=(404,),
            tag="repositories",
        ),
        Route(
            "GET",
            f"{BELOW}/referrers/{{digest}}",
            registry.referrers,
            "The manifests about this one",
            parameters=(NAME, DIGEST, Text(name="artifactType", text="Only those of this type.")),
            gives=OCI_INDEX,
            tag="manifests",
        ),
    ]


def _of_uploads(registry: Registry) -> list[Route]:
    every, one = f"{BELOW}/blobs/uploads/", f"{BELOW}/blobs/uploads/{{upload}}"
    upload = Text(name="upload", text="The upload, as its Location has it.", place="path")
    whole = replace(DIGEST, place="query", text="The digest of the whole blob.", required=True)
    at_once = replace(whole, required=False, text="The digest of the body, which is the whole blob.")
    mount = replace(whole, name="mount", required=False, text="A blob that may be here already.")
    piece: dict[str, Any] = {
        "takes": "application/octet-stream",
        "body_schema": BYTES,
        "body_required": False,
        "tag": "uploads",
    }
    where = {"Location": "Where to go on.", "Range": "How far it is."}
    return [
        Route(
            "POST",
            every,
            registry.begin,
            "Begin an upload, or push a blob with ?digest=",
            parameters=(NAME, at_once, mount),
            status=202,
            also={201: None},
            errors=(413, 429),
            headers=where,
            **piece,
        ),
        Route(
            "GET",
            one,
            registry.upload_status,
            "How far an upload is",
            parameters=(NAME, upload),
            status=204,
            errors=(404,),
            headers=where,
            tag="uploads",
        ),
        Route(
            "PATCH",
            one,
            registry.append,
            "The next piece of a blob",
            parameters=(NAME, upload),
            status=202,
            errors=(404, 413, 416),
            headers=where,
            **piece,
        ),
        Route(
            "PUT",
            one,
            registry.finish,
            "The last piece, and the digest",
            parameters=(NAME, upload, whole),
            status=201,
            errors=(404, 413, 416),
            headers={"Location": "The blob.", "Docker-Content-Digest": "Its digest."},
            **piece,
        ),
        Route(
            "DELETE",
            one,
            registry.cancel,
            "Give an upload up",
            parameters=(NAME, upload),
            status=204,
            errors=(404, 416),
            tag="uploads",
        ),
    ]


def _of_content(registry: Registry) -> list[Route]:
    blob, manifest = f"{BELOW}/blobs/{{digest}}", f"{BELOW}/manifests/{{reference}}"
    put: dict[str, Any] = {
        "takes": OCI_MANIFEST,
        "body_schema": {"type": "object"},
        "body_example": MANIFEST,
        "tag": "manifests",
    }
    return [
        *(
            Route(
                method,
                blob,
                registry.blob,
                "A blob, or a Range of it",
                parameters=(NAME, DIGEST),
                gives="application/octet-stream",
                also={206: None, 304: None},
                errors=(404, 416),
                tag="blobs",
            )
            for method in ("GET", "HEAD")
        ),
        *(
            Route(
                method,
                manifest,
                registry.manifest,
                "A manifest",
                parameters=(NAME, REFERENCE),
                gives=OCI_MANIFEST,
                errors=(404,),
                tag="manifests",
            )
            for method in ("GET", "HEAD")
        ),
        Route(
            "PUT",
            manifest,
            registry.put_manifest,
            "Push a manifest",
            parameters=(NAME, REFERENCE),
            status=201,
            errors=(413,),
            headers={"Location": "The manifest.", "Docker-Content-Digest": "Its digest."},
            **put,
        ),
        Route(
            "DELETE",
            manifest,
            registry.delete_manifest,
            "Delete a tag or a manifest",
            parameters=(NAME, REFERENCE),
            status=202,
            errors=(404,),
            tag="manifests",
        ),
    ]
