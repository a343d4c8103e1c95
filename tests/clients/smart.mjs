// Drives a served gateway with the SMART on FHIR JavaScript client (npm fhirclient).
import assert from "node:assert/strict";
import FHIR from "fhirclient";
import { end, eventually, mailto, refused, step } from "./steps.mjs";

const [serverUrl, token, sender, recipient] = process.argv.slice(2);
// In Node the client is made for a request; there is no login here, the token is known.
const request = { url: "/", headers: {}, connection: {} };
const response = {};
const storage = {
  values: {},
  async get(key) { return this.values[key]; },
  async set(key, value) { return (this.values[key] = value); },
  async unset(key) { return delete this.values[key]; },
};
const client = FHIR(request, response, storage).client({
  serverUrl, tokenResponse: { access_token: token, token_type: "Bearer" },
});
const stamp = Date.now();
const draft = (more = {}) => ({
  resourceType: "Communication",
  status: "preparation",
  sender: mailto(sender),
  recipient: [mailto(recipient)],
  topic: { text: `SMART ${stamp}` },
  payload: [{ contentString: "Please see attached." }],
  ...more,
});

let one, patient;
await step("it reads FHIR R4", async () => {
  assert.equal(await client.getFhirRelease(), 4);
  assert.equal(await client.getFhirVersion(), "4.0.1");
});
await step("create", async () => {
  patient = await client.create({
    resourceType: "Patient",
    identifier: [{ system: "urn:x", value: `smart-${stamp}` }],
    name: [{ family: "Helberg" }],
  });
  one = await client.create(draft({ subject: { reference: `Patient/${patient.id}` } }));
  assert.equal(one.meta.versionId, "1");
});
await step("request, with references resolved", async () => {
  const read = await client.request(`Communication/${one.id}`, { resolveReferences: ["subject"] });
  assert.equal(read.subject.id, patient.id);
});
await step("update", async () => {
  one = await client.update({ ...one, topic: { text: "Changed" } });
  assert.equal(one.meta.versionId, "2");
});
await step("patch", async () => {
  one = await client.patch(`Communication/${one.id}`, [
    { op: "replace", path: "/topic/text", value: "Patched" },
  ]);
  assert.equal(one.topic.text, "Patched");
});
await step("search, with pages", async () => {
  for (const value of ["a", "b", "c"]) {
    await client.create(draft({ identifier: [{ system: `urn:${stamp}`, value }] }));
  }
  const url = `Communication?identifier=urn:${stamp}|&_count=2`;
  assert.equal((await client.request(url, { pageLimit: 1, flat: true })).length, 2);
  assert.equal((await client.request(url, { pageLimit: 0, flat: true })).length, 3);
});
await step("a version", async () => {
  const first = await client.request(`Communication/${one.id}/_history/1`);
  assert.equal(first.topic.text, `SMART ${stamp}`);
});
await step("of a patient", async () => {
  const bundle = await client.request(`Communication?patient=${patient.id}`);
  assert.equal(bundle.total, 1);
});
await step("a batch", async () => {
  const answer = await client.request({
    url: "./",
    method: "POST",
    headers: { "content-type": "application/fhir+json" },
    body: JSON.stringify({
      resourceType: "Bundle",
      type: "batch",
      entry: [{ request: { method: "GET", url: `Communication/${one.id}` } }],
    }),
  });
  assert.equal(answer.entry[0].resource.id, one.id);
});
await step("send, and see it delivered", async () => {
  const sent = await client.create(draft({ status: "in-progress" }));
  const done = await eventually(async () => {
    const now = await client.request(`Communication/${sent.id}`);
    return now.status === "completed";
  });
  assert.ok(done);
});
await step("what cannot be sent is refused with an OperationOutcome", async () => {
  const error = await refused(() => client.create(draft({ status: "in-progress", recipient: [] })));
  assert.ok([400, 422].includes(error.statusCode ?? error.status ?? error.response?.status), error.stack);
});
await step("delete", async () => {
  await client.delete(`Communication/${one.id}`);
  const error = await refused(() => client.request(`Communication/${one.id}`));
  assert.equal(error.statusCode ?? error.status ?? error.response?.status, 410);
});
end();
