"""What nobody has use for is forgotten, with its octets; what somebody has is kept."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from fhir_bridge.tables import fhir_binary
from fhir_bridge.tidying import Tidying
from tests.unit.fhir_bridge.conftest import NOW, World, communication


async def tidy(world: World, later: timedelta) -> None:
    await Tidying(
        database=world.database,
        bodies=world.bodies,
        clock=lambda: NOW + later,
        drafts_kept=timedelta(days=365),
    ).run_once()


async def upload(world: World) -> str:
    made = await world.http.post("/Binary", content=b"octets")
    return f"/Binary/{made.json()['id']}"


async def test_a_deleted_upload_leaves_no_body(world: World) -> None:
    url = await upload(world)
    assert len(world.bodies.recorded) == 1
    assert (await world.http.delete(url)).status_code == 204
    assert not world.bodies.recorded
    assert not await world.database.read(lambda c: c.execute(sa.select(fhir_binary.c.id)).all())


async def test_an_upload_that_nothing_took_goes_after_a_day(world: World) -> None:
    url = await upload(world)
    await tidy(world, timedelta(hours=23))
    assert (await world.http.get(url)).status_code == 200
    await tidy(world, timedelta(hours=25))
    assert (await world.http.get(url)).status_code == 404
    assert not world.bodies.recorded


async def test_an_upload_that_a_message_has_stays(world: World) -> None:
    url = await upload(world)
    payload = [{"contentAttachment": {"url": url.lstrip("/")}}]
    await world.http.post("/Communication", json=communication(payload=payload))
    await tidy(world, timedelta(days=400))
    assert (await world.http.get(url)).content == b"octets"


async def test_a_draft_that_nobody_touched_for_long_is_deleted(world: World) -> None:
    drafted = communication(status="preparation")
    draft = (await world.http.post("/Communication", json=drafted)).json()
    sent = (await world.http.post("/Communication", json=communication())).json()
    recorded = communication(status="completed")
    record = (await world.http.post("/Communication", json=recorded)).json()
    await tidy(world, timedelta(days=364))
    assert (await world.http.get(f"/Communication/{draft['id']}")).status_code == 200
    await tidy(world, timedelta(days=366))
    assert (await world.http.get(f"/Communication/{draft['id']}")).status_code == 410
    for kept in (sent, record):
        assert (await world.http.get(f"/Communication/{kept['id']}")).status_code == 200
