"""Record a telephone or video call as a Communication, with its recording as Media.

The recording is uploaded as a Binary; then Media and Communication are created together, in one
transaction. Nothing is sent: `status` is `completed`, and the medium is not Direct.

Environment: GATEWAY, TOKEN.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

MODES = {"telephone": "PHONE", "video": "VIDEOCONF"}
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode"
MEDIA_TYPE = "http://terminology.hl7.org/CodeSystem/media-type"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, default="telephone")
    parser.add_argument("--patient", required=True, help="such as Patient/0199…")
    parser.add_argument("--thread", help="the thread's header, such as Communication/0199…")
    parser.add_argument("--note", required=True, help="what was said, in a sentence or two")
    parser.add_argument("--seconds", type=int, default=0, help="how long it took")
    parser.add_argument("recording", type=Path, nargs="?")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    with httpx.Client(base_url=os.environ["GATEWAY"], headers=headers, timeout=60) as gateway:
        sys.stdout.write(record(gateway, given) + "\n")


def record(gateway: httpx.Client, given: argparse.Namespace) -> str:
    """Return the reference to the new Communication."""
    ended = datetime.fromtimestamp(time.time(), UTC)
    began = ended - timedelta(seconds=given.seconds)
    entries = []
    payload: list[dict[str, Any]] = [{"contentString": given.note}]
    if given.recording is not None:
        media = uploaded(gateway, given, began)
        url = f"urn:uuid:{uuid4()}"
        entries.append(entry(media, url))
        payload.append({"contentReference": {"reference": url}})
    communication = {
        "resourceType": "Communication",
        "status": "completed",
        "medium": [{"coding": [{"system": PARTICIPATION, "code": MODES[given.mode]}]}],
        "topic": {"text": f"{given.mode.title()} call"},
        "subject": {"reference": given.patient},
        "sent": began.isoformat(timespec="seconds"),
        "received": ended.isoformat(timespec="seconds"),
        "payload": payload,
    }
    if given.thread:
        communication["partOf"] = [{"reference": given.thread}]
    entries.append(entry(communication, f"urn:uuid:{uuid4()}"))
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    answer = gateway.post("/", json=bundle)
    if answer.is_error:
        sys.exit(answer.text)
    location: str = answer.json()["entry"][-1]["response"]["location"]
    return "/".join(location.partition("/_history")[0].rsplit("/", 2)[-2:])


def uploaded(gateway: httpx.Client, given: argparse.Namespace, began: datetime) -> dict[str, Any]:
    """Upload the recording, and return the Media that describes it."""
    path: Path = given.recording
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    with path.open("rb") as octets:
        answer = gateway.post(
            "/Binary",
            params={"_filename": path.name},
            content=octets,
            headers={"Content-Type": kind, "Content-Length": str(path.stat().st_size)},
        )
    answer.raise_for_status()
    media: dict[str, Any] = {
        "resourceType": "Media",
        "status": "completed",
        "type": {
            "coding": [
                {"system": MEDIA_TYPE, "code": "video" if given.mode == "video" else "audio"}
            ]
        },
        "subject": {"reference": given.patient},
        "createdDateTime": began.isoformat(timespec="seconds"),
        "content": {
            "contentType": kind,
            "url": f"Binary/{answer.json()['id']}",
            "title": path.name,
        },
    }
    return media | ({"duration": given.seconds} if given.seconds else {})


def entry(resource: dict[str, Any], url: str) -> dict[str, Any]:
    """Return an entry that creates `resource`; others refer to it by `url`."""
    request = {"method": "POST", "url": resource["resourceType"]}
    return {"fullUrl": url, "resource": resource, "request": request}


if __name__ == "__main__":
    main()
