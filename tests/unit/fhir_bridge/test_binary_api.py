from __future__ import annotations

import base64

import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.unit.fhir_bridge.conftest import World

OCTETS = bytes(range(256)) * 1000


async def uploaded(world: World, octets: bytes = OCTETS) -> str:
    answer = await world.http.post(
        "/Binary?_filename=a%20%C3%A9.bin",
        content=octets,
        headers={"content-type": "application/x-data"},
    )
    assert answer.status_code == 201
    get_fhir_model_class("Binary").model_validate(answer.json())
    return f"/Binary/{answer.json()['id']}"


async def received(world: World, encoding: str, body: bytes) -> str:
    message = (
        b"From: b@x.example\r\nTo: anna@direct.hillside.example\r\n"
        b"Content-Type: application/x-data\r\nContent-Disposition: attachment; filename=a.bin\r\n"
        b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\n" + body
    )
    identity = await world.receive(message)
    resource = (await world.http.get(f"/Communication/{identity}")).json()
    return str(resource["payload"][0]["contentAttachment"]["url"])


async def test_octets_come_back_with_their_type(world: World) -> None:
    answer = await world.http.get(await uploaded(world))
    assert answer.content == OCTETS
    assert answer.headers["content-type"] == "application/x-data"


async def test_octets_can_do_nothing_in_a_browser(world: World) -> None:
    headers = (await world.http.get(await uploaded(world))).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["content-disposition"] == (
        "attachment; filename=\"a _.bin\"; filename*=UTF-8''a%20%C3%A9.bin"
    )


async def test_a_binary_is_also_a_resource(world: World) -> None:
    url = await uploaded(world)
    answer = await world.http.get(url, headers={"accept": "application/fhir+json"})
    get_fhir_model_class("Binary").model_validate(answer.json())
    assert base64.b64decode(answer.json()["data"]) == OCTETS


async def test_a_binary_may_be_posted_as_a_resource(world: World) -> None:
    posted = {"resourceType": "Binary", "contentType": "text/plain", "data": "YQ=="}
    answer = await world.http.post(
        "/Binary", json=posted, headers={"content-type": "application/fhir+json"}
    )
    read = await world.http.get(f"/Binary/{answer.json()['id']}")
    assert (read.content, read.headers["content-type"]) == (b"a", "text/plain")


@pytest.mark.parametrize("data", ["%%", 5])
async def test_a_binary_with_bad_data_is_refused(world: World, data: object) -> None:
    posted = {"resourceType": "Binary", "contentType": "text/plain", "data": data}
    answer = await world.http.post(
        "/Binary", json=posted, headers={"content-type": "application/fhir+json"}
    )
    assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, ["Binary.data"])


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=100000-", 206, 100_000, 256_000),
        ("bytes=-5", 206, 255_995, 256_000),
        ("bytes=255999-999999", 206, 255_999, 256_000),
        ("bytes=5-2", 200, 0, 256_000),
        ("bytes=-", 200, 0, 256_000),
        ("bytes=0-1,3-4", 200, 0, 256_000),
        ("pages=1-2", 200, 0, 256_000),
    ],
)
@pytest.mark.parametrize("encoding", ["binary", "base64"])
async def test_a_range_is_served(
    world: World, asked: str, status: int, first: int, last: int, encoding: str
) -> None:
    body = OCTETS if encoding == "binary" else base64.encodebytes(OCTETS)
    answer = await world.http.get(await received(world, encoding, body), headers={"range": asked})
    assert (answer.status_code, answer.content) == (status, OCTETS[first:last])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/256000"


async def test_a_range_beyond_the_end_is_refused(world: World) -> None:
    answer = await world.http.get(await uploaded(world), headers={"range": "bytes=256000-"})
    assert answer.status_code == 416


async def test_what_is_known_is_not_served_again(world: World) -> None:
    url = await uploaded(world)
    etag = (await world.http.get(url)).headers["etag"]
    assert (await world.http.get(url, headers={"if-none-match": etag})).status_code == 304


async def test_an_empty_binary_is_empty(world: World) -> None:
    answer = await world.http.get(await uploaded(world, b""))
    assert (answer.status_code, answer.content) == (200, b"")


async def test_an_upload_over_the_limit_leaves_nothing(world: World) -> None:
    answer = await world.http.post("/Binary", content=b"x" * 2_100_000)
    assert answer.status_code == 413
    assert not world.bodies.recorded
    assert world.bodies.discarded == 1


@pytest.mark.parametrize("kind", ["nonsense", "a/b\tc", "x/" + "y" * 300])
async def test_a_bad_content_type_is_refused(world: World, kind: str) -> None:
    answer = await world.http.post("/Binary", content=b"x", headers={"content-type": kind})
    assert answer.status_code == 400


async def test_another_client_sees_no_upload(world: World) -> None:
    url = await uploaded(world)
    theirs = await world.add_client("other", "eve@direct.hillside.example")
    assert (await world.http.get(url, headers=theirs)).status_code == 404


async def test_a_minimal_answer_is_empty(world: World) -> None:
    answer = await world.http.post("/Binary", content=b"x", headers={"prefer": "return=minimal"})
    assert (answer.status_code, answer.content) == (201, b"")
