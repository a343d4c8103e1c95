"""What a sender by FHIR sees of a message of its own, on the agent without its servers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from certs.address import DirectAddress
from certs.ids import new_id
from fhir_bridge.delivery import address_of, delivery_of
from fhir_bridge.ports import Submission
from fhir_bridge.store import insert
from fhir_bridge.terms import Terms, mailto_identifier
from tests.helpers.agent import RIVERA, Agent, mail
from tests.helpers.pki import NOW

TERMS = Terms()
ABOUT = "<1@hillside.example>"


async def sent(agent: Agent, *recipients: DirectAddress, wants_dispatched: bool = False) -> UUID:
    """Submit a message by FHIR, beside its resource."""
    sink = agent.fhir_bodies.sink()
    sink.write(mail(RIVERA, *recipients))
    content = await sink.finish()
    resource: dict[str, Any] = {
        "resourceType": "Communication",
        "status": "in-progress",
        "recipient": [{"identifier": mailto_identifier(str(each))} for each in recipients],
        "payload": [{"contentString": "x"}],
    }
    if wants_dispatched:
        url = TERMS.extension("wants-dispatched")
        resource["extension"] = [{"url": url, "valueBoolean": True}]

    def record(connection: sa.Connection, message: UUID) -> None:
        insert(
            connection,
            resource,
            identity=new_id(NOW),
            owner=RIVERA.key,
            now=NOW,
            terms=TERMS,
            message=message,
        )

    submission = Submission(RIVERA, recipients, content, ABOUT, wants_dispatched)
    return await agent.outbox.submit(submission, record)


async def shown(agent: Agent) -> dict[str, Any]:
    """The one Communication of the sender."""
    [resource] = await agent.resources("Communication", RIVERA)
    return resource


async def codes(agent: Agent) -> dict[str | None, str]:
    """How far it is for each recipient."""
    recipients = (await shown(agent))["recipient"]
    return {address_of(each): delivery_of(each, TERMS)["code"] for each in recipients}


async def tasks(agent: Agent) -> list[str]:
    """The states of the recipients' Tasks."""
    found = await agent.resources("Task", RIVERA)
    return sorted(task["status"] for task in found)
