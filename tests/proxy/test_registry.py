"""The embedded registry against the OCI Distribution Specification: push, pull, and what it must refuse."""

from __future__ import annotations

import asyncio
import json
import urllib.parse

import pytest
from yarl import URL

from proxy.registry_uploads import AT_ONCE, IDLE_SECONDS
from swashplate.blobs import sha256_digest

BINARY = b"\0asm" + bytes(range(256)) * 40
DIGEST = sha256_digest(BINARY)
UNKNOWN = "sha256:" + "0" * 64


def code(body: bytes) -> str:
    return json.loads(body)["errors"][0]["code"]


async def begin(registry, repository: str = "app") -> str:
    status, headers, _ = await registry.ask("POST", f"/v2/{repository}/blobs/uploads/")
    assert status == 202
    return headers["Location"]


def files(registry) -> set[str]:
    return {path.name for path in (registry.folder / "blobs").iterdir()}


async def test_the_version_check_and_health_answer(registry):
    status, headers, _ = await registry.ask("GET", "/v2/")
    assert (status, headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")
    assert (await registry.ask("GET", "/v2"))[0] == 200
    assert (await registry.ask("GET", "/health"))[0] == 200


async def test_a_pushed_image_comes_back_byte_for_byte(registry):
    manifest = registry.manifest_of(BINARY)
    assert await registry.push("group/app", "v1", BINARY) == sha256_digest(manifest)
    for selector in ("v1", sha256_digest(manifest)):
        status, headers, body = await registry.ask("GET", f"/v2/group/app/manifests/{selector}")
        assert (status, body) == (200, manifest)
        assert headers["Docker-Content-Digest"] == sha256_digest(manifest)
        assert headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
        status, headers, body = await registry.ask("HEAD", f"/v2/group/app/manifests/{selector}")
        assert (status, headers["Content-Length"], body) == (200, str(len(manifest)), b"")
    assert (await registry.ask("GET", f"/v2/group/app/blobs/{DIGEST}"))[2] == BINARY
    status, headers, body = await registry.ask("HEAD", f"/v2/group/app/blobs/{DIGEST}")
    assert (status, headers["Content-Length"], body) == (200, str(len(BINARY)), b"")


async def test_a_blob_can_be_pushed_in_one_put(registry):
    location = await begin(registry)
    status, headers, _ = await registry.ask("PUT", f"{location}?digest={DIGEST}", data=BINARY)
    assert (status, headers["Location"]) == (201, f"/v2/app/blobs/{DIGEST}")
    assert (await registry.ask("GET", headers["Location"]))[2] == BINARY


async def test_a_blob_can_be_pushed_in_pieces(registry):
    location = await begin(registry)
    half = len(BINARY) // 2
    pieces = [(BINARY[:half], f"0-{half - 1}"), (BINARY[half:], f"{half}-{len(BINARY) - 1}")]
    for content, content_range in pieces:
        status, headers, _ = await registry.ask(
            "PATCH", location, data=content, headers={"Content-Range": content_range}
        )
        assert status == 202
        location = headers["Location"]
    status, headers, _ = await registry.ask("GET", location)
    assert (status, headers["Range"]) == (204, f"0-{len(BINARY) - 1}")
    assert (await registry.ask("PUT", f"{location}?digest={DIGEST}"))[0] == 201
    assert (await registry.ask("GET", f"/v2/app/blobs/{DIGEST}"))[2] == BINARY
    assert (await registry.ask("GET", location))[0] == 404


async def test_a_piece_in_the_wrong_place_is_refused_and_the_upload_goes_on(registry):
    location = await begin(registry)
    await registry.ask("PATCH", location, data=BINARY[:100], headers={"Content-Range": "0-99"})
    status, headers, _ = await registry.ask("PATCH", location, data=b"xx", headers={"Content-Range": "50-51"})
    assert (status, headers["Range"]) == (416, "0-99")
    status, _, _ = await registry.ask("PUT", f"{location}?digest={DIGEST}", data=BINARY[100:])
    assert status == 201


async def test_a_wrong_digest_is_refused_and_leaves_nothing(registry):
    location = await begin(registry)
    status, _, body = await registry.ask("PUT", f"{location}?digest={UNKNOWN}", data=BINARY)
    assert (status, code(body)) == (400, "DIGEST_INVALID")
    status, _, body = await registry.ask("POST", f"/v2/app/blobs/uploads/?digest={UNKNOWN}", data=BINARY)
    assert (status, code(body)) == (400, "DIGEST_INVALID")
    assert files(registry) == set()


@pytest.mark.parametrize("digest", ["sha256:xyz", "md5:00", "", "sha256:" + "A" * 64, "sha512:" + "0" * 128])
async def test_what_is_no_digest_is_refused(registry, digest):
    location = await begin(registry)
    assert (await registry.ask("PUT", f"{location}?digest={digest}", data=b"x"))[0] == 400
    assert (await registry.ask("POST", f"/v2/app/blobs/uploads/?digest={digest}", data=b"x"))[0] == 400


async def test_an_upload_can_be_given_up(registry):
    location = await begin(registry)
    await registry.ask("PATCH", location, data=BINARY)
    assert (await registry.ask("DELETE", location))[0] == 204
    assert (await registry.ask("PATCH", location, data=BINARY))[0] == 404
    assert files(registry) == set()


async def test_an_upload_belongs_to_its_repository(registry):
    location = await begin(registry, "one")
    status, _, body = await registry.ask("PUT", f"{location.replace('one', 'two')}?digest={DIGEST}", data=BINARY)
    assert (status, code(body)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_blob_of_another_repository_can_be_mounted(registry):
    await registry.push_blob("one", BINARY)
    status, headers, _ = await registry.ask("POST", f"/v2/two/blobs/uploads/?mount={DIGEST}&from=one")
    assert (status, headers["Location"]) == (201, f"/v2/two/blobs/{DIGEST}")
    status, headers, _ = await registry.ask("POST", f"/v2/two/blobs/uploads/?mount={UNKNOWN}&from=one")
    assert status == 202
    assert (await registry.ask("PUT", f"{headers['Location']}?digest={sha256_digest(b'x')}", data=b"x"))[0] == 201


async def test_a_blob_over_the_limit_is_refused_whether_it_says_its_length_or_not(make_registry):
    registry = await make_registry(max_blob_bytes=1000)

    async def unannounced():
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, unannounced()):
        status, _, body = await registry.ask("PUT", f"{await begin(registry)}?digest={UNKNOWN}", data=content)
        assert (status, code(body)) == (413, "SIZE_INVALID")
    location = await begin(registry)
    await registry.ask("PATCH", location, data=b"x" * 600)
    assert (await registry.ask("PATCH", location, data=b"x" * 600))[0] == 413
    assert files(registry) == set()
    await registry.push_blob("app", b"x" * 1000)


async def test_an_upload_of_many_megabytes_passes(make_registry):
    registry = await make_registry(max_blob_bytes=300 << 20)
    content = b"\0asm" + bytes(120 << 20)
    digest = await registry.push_blob("app", content)
    status, headers, _ = await registry.ask("HEAD", f"/v2/app/blobs/{digest}")
    assert (status, headers["Content-Length"]) == (200, str(len(content)))


@pytest.mark.parametrize(
    ("wanted", "part"),
    [("bytes=0-3", BINARY[:4]), ("bytes=10-", BINARY[10:]), ("bytes=-5", BINARY[-5:]), ("bytes=5-5", BINARY[5:6])],
)
async def test_a_range_of_a_blob_is_served(registry, wanted, part):
    await registry.push_blob("app", BINARY)
    status, headers, body = await registry.ask("GET", f"/v2/app/blobs/{DIGEST}", headers={"Range": wanted})
    assert (status, body) == (206, part)
    assert headers["Content-Range"].endswith(f"/{len(BINARY)}")


async def test_a_range_past_the_end_is_refused(registry):
    await registry.push_blob("app", BINARY)
    headers = {"Range": f"bytes={len(BINARY)}-"}
    assert (await registry.ask("GET", f"/v2/app/blobs/{DIGEST}", headers=headers))[0] == 416


async def test_a_manifest_needs_its_blobs(registry):
    path = "/v2/app/manifests/v1"
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    manifest = registry.manifest_of(BINARY)
    status, _, body = await registry.ask("PUT", path, data=manifest, headers=headers)
    assert (status, code(body)) == (400, "MANIFEST_BLOB_UNKNOWN")
    await registry.push_blob("app", b"{}")
    assert (await registry.ask("PUT", path, data=manifest, headers=headers))[0] == 400
    await registry.push_blob("app", BINARY)
    assert (await registry.ask("PUT", path, data=manifest, headers=headers))[0] == 201


async def test_an_index_needs_its_manifests(registry):
    index_type = "application/vnd.oci.image.index.v1+json"
    digest = await registry.push("app", "v1", BINARY)
    size = len(registry.manifest_of(BINARY))

    def index(of: str) -> bytes:
        entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": of, "size": size}
        return json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry]}).encode()

    await registry.push_manifest("app", "all", index(digest), index_type)
    assert (await registry.ask("GET", "/v2/app/manifests/all"))[1]["Content-Type"] == index_type
    status, _, body = await registry.ask(
        "PUT", "/v2/app/manifests/bad", data=index(UNKNOWN), headers={"Content-Type": index_type}
    )
    assert (status, code(body)) == (400, "MANIFEST_BLOB_UNKNOWN")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"schemaVersion": 1}',
        b'{"schemaVersion": 2, "layers": [{"digest": "../../etc/passwd"}]}',
        b'{"schemaVersion": 2, "config": 5}',
        b'{"schemaVersion": 2, "layers": [null]}',
        b'{"schemaVersion": 2, "mediaType": []}',
        b'{"schemaVersion": 2, "mediaType": "application/x"}',
    ],
)
async def test_a_malformed_manifest_is_refused(registry, content):
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    status, _, body = await registry.ask("PUT", "/v2/app/manifests/v1", data=content, headers=headers)
    assert (status, code(body)) == (400, "MANIFEST_INVALID")
    assert (await registry.ask("GET", "/v2/app/tags/list"))[0] == 404


async def test_a_manifest_pushed_by_a_digest_must_have_it(registry):
    digest = await registry.push("app", "v1", BINARY)
    assert await registry.push_manifest("app", digest, registry.manifest_of(BINARY)) == digest
    status, _, body = await registry.ask("PUT", f"/v2/app/manifests/{UNKNOWN}", data=registry.manifest_of(BINARY))
    assert (status, code(body)) == (400, "DIGEST_INVALID")


async def test_a_manifest_over_the_limit_is_refused(registry):
    content = json.dumps({"schemaVersion": 2, "annotations": {"x": "y" * (5 << 20)}}).encode()
    assert (await registry.ask("PUT", "/v2/app/manifests/v1", data=content))[0] == 413


async def test_a_tag_moves_and_the_old_manifest_stays(registry):
    first = await registry.push("app", "latest", BINARY)
    second = await registry.push("app", "latest", BINARY + b"2")
    headers = (await registry.ask("HEAD", "/v2/app/manifests/latest"))[1]
    assert headers["Docker-Content-Digest"] == second != first
    assert (await registry.ask("GET", f"/v2/app/manifests/{first}"))[0] == 200


async def test_deleting_a_tag_keeps_the_manifest_and_deleting_the_manifest_takes_its_tags(registry):
    digest = await registry.push("app", "v1", BINARY)
    await registry.push("app", "v2", BINARY)
    assert (await registry.ask("DELETE", "/v2/app/manifests/v1"))[0] == 202
    status, _, body = await registry.ask("GET", "/v2/app/manifests/v1")
    assert (status, code(body)) == (404, "MANIFEST_UNKNOWN")
    assert (await registry.ask("GET", f"/v2/app/manifests/{digest}"))[0] == 200
    assert (await registry.ask("DELETE", f"/v2/app/manifests/{digest}"))[0] == 202
    assert (await registry.ask("GET", "/v2/app/manifests/v2"))[0] == 404
    assert json.loads((await registry.ask("GET", "/v2/app/tags/list"))[2])["tags"] == []
    assert (await registry.ask("DELETE", f"/v2/app/manifests/{digest}"))[0] == 404


async def test_a_manifest_is_known_only_in_its_own_repository(registry):
    digest = await registry.push("app", "v1", BINARY)
    status, _, body = await registry.ask("GET", f"/v2/other/manifests/{digest}")
    assert (status, code(body)) == (404, "MANIFEST_UNKNOWN")


async def test_tags_and_repositories_are_listed_in_pages(registry):
    for tag in ("b", "a", "c"):
        await registry.push("group/app", tag, BINARY)
    await registry.push("zoo", "x", BINARY)
    path, seen = "/v2/group/app/tags/list?n=2", []
    while path:
        _, headers, body = await registry.ask("GET", path)
        assert json.loads(body)["name"] == "group/app"
        seen.append(json.loads(body)["tags"])
        path = urllib.parse.unquote(headers.get("Link", "").partition(">")[0].lstrip("<"))
    assert seen == [["a", "b"], ["c"]]
    assert json.loads((await registry.ask("GET", "/v2/_catalog"))[2]) == {"repositories": ["group/app", "zoo"]}
    assert json.loads((await registry.ask("GET", "/v2/_catalog?n=1&last=group/app"))[2])["repositories"] == ["zoo"]
    assert (await registry.ask("GET", "/v2/zoo/tags/list?n=-1"))[0] == 400
    status, _, body = await registry.ask("GET", "/v2/nothing/tags/list")
    assert (status, code(body)) == (404, "NAME_UNKNOWN")


async def test_referrers_of_a_manifest_are_found(registry):
    subject = await registry.push("app", "v1", BINARY)
    about = json.loads(registry.manifest_of(BINARY))
    about |= {"artifactType": "application/x.signature", "subject": {"digest": subject, "size": 1, "mediaType": "x"}}
    digest = await registry.push_manifest("app", "sig", json.dumps(about).encode())
    _, headers, body = await registry.ask("GET", f"/v2/app/referrers/{subject}")
    assert headers["Content-Type"].startswith("application/vnd.oci.image.index.v1+json")
    assert [m["digest"] for m in json.loads(body)["manifests"]] == [digest]
    _, headers, body = await registry.ask("GET", f"/v2/app/referrers/{subject}?artifactType=other")
    assert (headers["OCI-Filters-Applied"], json.loads(body)["manifests"]) == ("artifactType", [])
    assert json.loads((await registry.ask("GET", f"/v2/app/referrers/{UNKNOWN}"))[2])["manifests"] == []


async def test_a_name_with_a_line_break_is_an_invalid_name_and_no_unknown_path(registry):
    for rest in ("blobs/uploads/", f"blobs/{UNKNOWN}", "manifests/latest", "tags/list", f"referrers/{UNKNOWN}"):
        url = URL(f"{registry.url}/v2/a%0Ab/{rest}", encoded=True)
        async with registry.session.request("POST" if rest.endswith("/") else "GET", url) as response:
            assert (response.status, (await response.json())["errors"][0]["code"]) == (400, "NAME_INVALID")


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../etc", "%2e%2e/%2e%2e/etc", "A", "a//b", ".a", "a/.", "a" * 256, "a\\b", "%00"]
)
async def test_a_name_that_is_none_is_refused_everywhere(registry, name):
    for method, rest in [
        ("POST", "blobs/uploads/"),
        ("GET", f"blobs/{UNKNOWN}"),
        ("GET", "manifests/latest"),
        ("PUT", "manifests/latest"),
        ("GET", "tags/list"),
        ("DELETE", "manifests/latest"),
    ]:
        url = URL(f"{registry.url}/v2/{name}/{rest}", encoded=True)
        async with registry.session.request(method, url) as response:
            assert response.status in {400, 404}, (method, rest)
    assert not [path for path in registry.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("tag", ["..", ".hidden", "a%2fb", "%2e%2e%2f%2e%2e", "a" * 129, "sha256:zz"])
async def test_a_tag_that_is_none_is_refused(registry, tag):
    await registry.push("app", "v1", BINARY)
    for method in ("GET", "PUT", "DELETE"):
        url = URL(f"{registry.url}/v2/app/manifests/{tag}", encoded=True)
        async with registry.session.request(method, url, data=registry.manifest_of(BINARY)) as response:
            assert response.status in {400, 404, 405}


async def test_what_is_not_supported_says_so_in_the_registrys_own_shape(registry):
    await registry.push_blob("app", BINARY)
    status, _, body = await registry.ask("DELETE", f"/v2/app/blobs/{DIGEST}")
    assert (status, code(body)) == (405, "UNSUPPORTED")
    status, _, body = await registry.ask("GET", "/v2/app/what")
    assert (status, code(body)) == (404, "UNSUPPORTED")


async def test_an_upload_that_broke_can_be_gone_on_with(registry):
    location = await begin(registry)
    host, port = registry.host.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BINARY)}\r\n\r\n".encode())
    writer.write(BINARY[:1000])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        while (await registry.ask("GET", location))[1]["Range"] != "0-999":
            await asyncio.sleep(0.01)
    status, _, _ = await registry.ask("PUT", f"{location}?digest={DIGEST}", data=BINARY[1000:])
    assert status == 201


async def test_two_finish_one_upload_and_one_is_told_that_it_ended(registry):
    location = await begin(registry)
    answers = await asyncio.gather(*(registry.ask("PUT", f"{location}?digest={DIGEST}", data=BINARY) for _ in range(2)))
    assert sorted(status for status, _, _ in answers) == [201, 404]


async def test_only_so_many_uploads_are_open_and_forgotten_ones_give_way(make_registry):
    now = 0.0
    registry = await make_registry(clock=lambda: now)
    for _ in range(AT_ONCE):
        await begin(registry)
    status, _, body = await registry.ask("POST", "/v2/app/blobs/uploads/")
    assert (status, code(body)) == (429, "TOOMANYREQUESTS")
    now = IDLE_SECONDS + 1
    await begin(registry)
    assert len(files(registry)) == 1
