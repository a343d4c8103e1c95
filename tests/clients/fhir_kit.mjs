// Drives a served gateway with fhir-kit-client.
import assert from "node:assert/strict";
import { Client } from "fhir-kit-client";
import { end, mailto, step } from "./steps.mjs";

const [baseUrl, token, sender, recipient] = process.argv.slice(2);
const stamp = Date.now();
const client = new Client({ baseUrl, bearerToken: token });
const draft = (more = {}) => ({
  resourceType: "Communication",
  status: "preparation",
  sender: mailto(sender),
  recipient: [mailto(recipient)],
  topic: { text: "Referral" },
  payload: [{ contentString: "Please see attached." }],
  ...more,
});

async function status(work) {
  try {
    await work();
  } catch (error) {
    return error.response?.status;
  }
  return 200;
}

let one;
let patient;
await step("capability statement", async () => {
  const statement = await client.capabilityStatement();
  assert.equal(statement.fhirVersion, "4.0.1");
});
await step("create", async () => {
  one = await client.create({ resourceType: "Communication", body: draft() });
  assert.equal(one.meta.versionId, "1");
});
await step("read", async () => {
  const read = await client.read({ resourceType: "Communication", id: one.id });
  assert.deepEqual(read, one);
});
await step("update with If-Match", async () => {
  const body = { ...one, topic: { text: "New" } };
  const headers = { "If-Match": 'W/"1"' };
  const updated = await client.update({
    resourceType: "Communication", id: one.id, body, options: { headers },
  });
  assert.equal(updated.meta.versionId, "2");
  const stale = () => client.update({
    resourceType: "Communication", id: one.id, body, options: { headers },
  });
  assert.equal(await status(stale), 412);
});
await step("vread", async () => {
  const first = await client.vread({ resourceType: "Communication", id: one.id, version: "1" });
  assert.equal(first.topic.text, "Referral");
});
await step("JSON Patch", async () => {
  const patched = await client.patch({
    resourceType: "Communication",
    id: one.id,
    jsonPatch: [{ op: "replace", path: "/topic/text", value: "Patched" }],
  });
  assert.equal(patched.topic.text, "Patched");
});
await step("conditional update", async () => {
  const searchParams = { identifier: `urn:x|kit-${stamp}` };
  const body = draft({ identifier: [{ system: "urn:x", value: `kit-${stamp}` }] });
  const made = await client.update({ resourceType: "Communication", searchParams, body });
  const again = await client.update({ resourceType: "Communication", searchParams, body });
  assert.equal(again.id, made.id);
});
await step("search by GET", async () => {
  const bundle = await client.search({
    resourceType: "Communication", searchParams: { identifier: `urn:x|kit-${stamp}` },
  });
  assert.equal(bundle.total, 1);
});
await step("search by POST", async () => {
  const bundle = await client.search({
    resourceType: "Communication",
    searchParams: { identifier: `urn:x|kit-${stamp}` },
    options: { postSearch: true },
  });
  assert.equal(bundle.total, 1);
});
await step("next page", async () => {
  const first = await client.search({
    resourceType: "Communication", searchParams: { _count: 1, _sort: "_lastUpdated" },
  });
  const second = await client.nextPage({ bundle: first });
  assert.notEqual(second.entry[0].resource.id, first.entry[0].resource.id);
});
await step("compartment", async () => {
  patient = await client.create({
    resourceType: "Patient", body: { resourceType: "Patient", name: [{ family: "Helberg" }] },
  });
  const subject = { reference: `Patient/${patient.id}` };
  await client.create({ resourceType: "Communication", body: draft({ subject }) });
  const bundle = await client.search({
    resourceType: "Communication",
    compartment: { resourceType: "Patient", id: patient.id },
  });
  assert.equal(bundle.total, 1);
});
await step("history of instance, type and system", async () => {
  const instance = await client.history({ resourceType: "Communication", id: one.id });
  assert.equal(instance.entry.length, 3);
  const type = await client.history({ resourceType: "Communication" });
  assert.ok(type.entry.length > 3);
  const system = await client.history();
  assert.ok(system.entry.length > type.entry.length);
});
const entry = { request: { method: "POST", url: "Patient" }, resource: { resourceType: "Patient", active: true } };
await step("batch", async () => {
  const body = { resourceType: "Bundle", type: "batch", entry: [entry] };
  const answer = await client.batch({ body });
  assert.equal(answer.entry[0].response.status, "201 Created");
});
await step("transaction", async () => {
  const body = { resourceType: "Bundle", type: "transaction", entry: [entry, entry] };
  const answer = await client.transaction({ body });
  assert.equal(answer.entry.length, 2);
});
await step("operation $validate", async () => {
  const outcome = await client.operation({
    resourceType: "Communication", name: "$validate", input: draft(),
  });
  assert.equal(outcome.issue[0].severity, "information");
});
await step("operation $send-direct", async () => {
  const sent = await client.operation({
    resourceType: "Communication", name: "$send-direct", input: draft(),
  });
  assert.equal(sent.status, "in-progress");
  assert.equal(await status(() => client.delete({ resourceType: "Communication", id: sent.id })), 409);
});
await step("resolve a reference", async () => {
  const resource = draft({ subject: { reference: `Patient/${patient.id}` } });
  const found = await client.resolve({ reference: resource.subject.reference, context: resource });
  assert.equal(found.id, patient.id);
});
await step("delete", async () => {
  await client.delete({ resourceType: "Communication", id: one.id });
  assert.equal(await status(() => client.read({ resourceType: "Communication", id: one.id })), 410);
});
end();
