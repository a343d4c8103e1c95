// Drives a served gateway with @medplum/core, as an application written for Medplum would.
import assert from "node:assert/strict";
import { MedplumClient } from "@medplum/core";
import WebSocket from "ws";
import { end, eventually, mailto, refused, step } from "./steps.mjs";

const [baseUrl, token, sender, recipient] = process.argv.slice(2);
globalThis.WebSocket = WebSocket; // Node 20 has none of its own
const medplum = new MedplumClient({
  baseUrl: new URL(baseUrl).origin,
  accessToken: token,
  cacheTime: 0,
  fetch,
});
const stamp = Date.now();
const me = mailto(sender);

let patient, practitioner, header;
const children = [];
const child = (more = {}) => ({
  resourceType: "Communication",
  status: "completed",
  sender: me,
  recipient: [mailto(recipient)],
  partOf: [{ reference: `Communication/${header.id}` }],
  ...more,
});

await step("create the people", async () => {
  patient = await medplum.createResource({
    resourceType: "Patient", name: [{ given: ["Homer"], family: "Simpson" }],
  });
  practitioner = await medplum.createResource({
    resourceType: "Practitioner",
    name: [{ family: "Smith" }],
    identifier: [{ system: "urn:x", value: `smith-${stamp}` }],
  });
  assert.equal(patient.meta.versionId, "1");
});
await step("createResourceIfNoneExist", async () => {
  const again = await medplum.createResourceIfNoneExist(
    { resourceType: "Practitioner", name: [{ family: "Other" }] },
    `identifier=urn:x|smith-${stamp}`,
  );
  assert.equal(again.id, practitioner.id);
});
await step("upsertResource", async () => {
  const query = { identifier: `urn:x|upsert-${stamp}` };
  const resource = {
    resourceType: "Patient", identifier: [{ system: "urn:x", value: `upsert-${stamp}` }],
  };
  const made = await medplum.upsertResource(resource, query);
  const changed = await medplum.upsertResource({ ...resource, active: true }, query);
  assert.equal(changed.id, made.id);
  assert.equal(changed.active, true);
});
await step("a thread: header and children", async () => {
  header = await medplum.createResource({
    resourceType: "Communication",
    status: "in-progress",
    topic: { text: `Referral ${stamp}` },
    subject: { reference: `Patient/${patient.id}` },
    sender: me,
    recipient: [me, { reference: `Practitioner/${practitioner.id}` }],
  });
  for (const [sent, text] of [["2026-01-02T10:00:00Z", "two"], ["2026-01-01T10:00:00Z", "one"]]) {
    const made = await medplum.createResource(
      child({ sent, payload: [{ contentString: text }] }),
    );
    children.push(made);
  }
  assert.equal(header.status, "in-progress");
  assert.deepEqual((await medplum.readHistory("Communication", header.id)).entry.length, 1);
});

// fhir.md section 2, row 13, word for word.
const headers = async (query) =>
  (await medplum.searchResources("Communication", query)).map((found) => found.id);
await step("part-of:missing=true", async () => {
  const found = await headers("part-of:missing=true");
  assert.ok(found.includes(header.id));
  assert.ok(!found.includes(children[0].id));
});
await step("part-of=Communication/x&_sort=sent", async () => {
  const found = await medplum.searchResources(
    "Communication", `part-of=Communication/${header.id}&_sort=sent`,
  );
  assert.deepEqual(found.map((one) => one.payload[0].contentString), ["one", "two"]);
});
await step("part-of:missing=true&subject=", async () => {
  assert.deepEqual(await headers(`part-of:missing=true&subject=Patient/${patient.id}`), [header.id]);
});
await step("part-of:missing=true&recipient=", async () => {
  const query = `part-of:missing=true&recipient=Practitioner/${practitioner.id}`;
  assert.deepEqual(await headers(query), [header.id]);
});
await step("status:not=a,b,c", async () => {
  const query = `part-of:missing=true&subject=Patient/${patient.id}`;
  assert.deepEqual(await headers(`${query}&status:not=entered-in-error,completed,stopped`), [header.id]);
  assert.deepEqual(await headers(`${query}&status:not=entered-in-error,in-progress,stopped`), []);
});
await step("_sort=-_lastUpdated", async () => {
  const found = await medplum.searchResources("Communication", "_sort=-_lastUpdated&_count=2");
  assert.deepEqual(found.map((one) => one.id), [children[1].id, children[0].id]);
});
await step("_total=accurate", async () => {
  const bundle = await medplum.search(
    "Communication", `part-of=Communication/${header.id}&_total=accurate&_count=1`,
  );
  assert.equal(bundle.total, 2);
  assert.equal(bundle.entry.length, 1);
});
await step("the inbox list: _has and identifier:not", async () => {
  const query = "part-of:missing=true&identifier:not=http://example.com/ai|" +
    "&_has:Communication:part-of:_id:not=null&_sort=-_lastUpdated&_count=20&_total=accurate";
  assert.ok((await headers(query)).includes(header.id));
});
await step("searchResourcePages", async () => {
  const seen = [];
  const query = `part-of=Communication/${header.id}&_count=1`;
  for await (const page of medplum.searchResourcePages("Communication", query)) {
    seen.push(...page.map((one) => one.id));
  }
  assert.deepEqual(seen.sort(), children.map((one) => one.id).sort());
});
await step("$graphql: the last message of a thread", async () => {
  const { data } = await medplum.graphql(`{
    thread: CommunicationList(part_of: "Communication/${header.id}", _sort: "-sent", _count: 1) {
      id payload { contentString }
    }
  }`);
  assert.deepEqual(data.thread, [{ id: children[0].id, payload: [{ contentString: "two" }] }]);
});
await step("patch with a test operation", async () => {
  const path = (value) => [
    { op: "test", path: "/meta/versionId", value },
    { op: "replace", path: "/status", value: "completed" },
  ];
  const patched = await medplum.patchResource("Communication", header.id, path("1"));
  assert.equal(patched.status, "completed");
  await refused(() => medplum.patchResource("Communication", header.id, path("1")));
});
await step("read a version", async () => {
  const first = await medplum.readVersion("Communication", header.id, "1");
  assert.equal(first.status, "in-progress");
});
await step("Binary, raw, and an attachment of it", async () => {
  const octets = new Uint8Array([0, 1, 2, 253, 254, 255]);
  const binary = await medplum.createBinary({
    data: octets, contentType: "application/octet-stream", filename: "scan.bin",
  });
  assert.ok(binary.url, "a Binary that was made says where it is");
  const back = await medplum.download(binary.url);
  assert.deepEqual(new Uint8Array(await back.arrayBuffer()), octets);
  const attachment = await medplum.createAttachment({
    data: "a,b\r\n", contentType: "text/csv", filename: "list.csv",
  });
  const record = await medplum.createResource(
    child({ payload: [{ contentAttachment: attachment }] }),
  );
  const kept = record.payload[0].contentAttachment;
  assert.equal(await (await medplum.download(kept.url)).text(), "a,b\r\n");
});
await step("send, and see it delivered", async () => {
  const sent = await medplum.createResource({
    resourceType: "Communication",
    status: "in-progress",
    sender: me,
    recipient: [mailto(recipient)],
    topic: { text: "From Medplum" },
    payload: [{ contentString: "Please see the patient." }],
  });
  const done = await eventually(async () => {
    const now = await medplum.readResource("Communication", sent.id, { cache: "reload" });
    return now.status === "completed" && now;
  });
  assert.ok(done, "the processed MDN came back");
});
await step("$validate", async () => {
  const outcome = await medplum.validateResource({ resourceType: "Patient", active: true });
  assert.equal(outcome.issue[0].severity, "information");
});
await step("batch", async () => {
  const request = { method: "GET", url: `Communication/${header.id}` };
  const bundle = await medplum.executeBatch({
    resourceType: "Bundle", type: "batch", entry: [{ request }],
  });
  assert.equal(bundle.entry[0].resource.id, header.id);
});
await step("people of several types: _type", async () => {
  // ParticipantFilter.tsx asks so, word for word.
  const bundle = await medplum.search("Patient", "_type=Patient,Practitioner&name=S&_count=100");
  const found = bundle.entry.map((one) => one.resource.id);
  assert.ok(found.includes(patient.id));
  assert.ok(found.includes(practitioner.id));
});
await step("websocket subscription: Communication?part-of=", async () => {
  const criteria = `Communication?part-of=Communication/${header.id}`;
  const emitter = medplum.subscribeToCriteria(criteria);
  await new Promise((resolve, reject) => {
    emitter.addEventListener("connect", resolve);
    emitter.addEventListener("error", (event) => reject(event.payload));
    setTimeout(() => reject(new Error("no handshake")), 10000);
  });
  const arrived = new Promise((resolve, reject) => {
    emitter.addEventListener("message", (event) => resolve(event.payload));
    setTimeout(() => reject(new Error("no event")), 10000);
  });
  const made = await medplum.createResource(child({ payload: [{ contentString: "three" }] }));
  const bundle = await arrived;
  assert.equal(bundle.entry[0].resource.type, "event-notification");
  assert.deepEqual(bundle.entry[1].resource, made);
});
await step("the socket answers pings", async () => {
  const manager = medplum.getSubscriptionManager();
  await new Promise((resolve) => setTimeout(resolve, 6000)); // it pings each 5 seconds
  assert.equal(manager.waitingForPong, false);
  manager.closeWebSocket();
});
await step("delete a draft", async () => {
  const draft = await medplum.createResource(child({ status: "preparation" }));
  await medplum.deleteResource("Communication", draft.id);
  const error = await refused(() => medplum.readResource("Communication", draft.id, { cache: "reload" }));
  assert.equal(error.outcome.issue[0].code, "deleted");
});
end();
