// Reads resources, one JSON line each, and prints what npm `fhir` says against each: an array.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const { Fhir } = createRequire(import.meta.url)("fhir");
const validator = new Fhir();
for await (const line of createInterface({ input: process.stdin })) {
  const { messages } = validator.validate(JSON.parse(line), { errorOnUnexpected: true });
  const errors = messages.filter((one) => one.severity === "error" || one.severity === "fatal");
  console.log(JSON.stringify(errors.map((one) => `${one.location}: ${one.message}`)));
}
