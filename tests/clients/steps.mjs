// What the scripts share: each prints "OK step" or "FAIL step: why", and ends with a status.
let failed = 0;

export async function step(name, work) {
  try {
    await work();
    console.log(`OK ${name}`);
  } catch (error) {
    failed += 1;
    const told = error.outcome ?? error.response?.data;
    console.log(`FAIL ${name}: ${told ? JSON.stringify(told) : error.stack}`);
  }
}

export async function refused(work) {
  try {
    await work();
  } catch (error) {
    return error;
  }
  throw new Error("this was not refused");
}

export async function eventually(work, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await work();
    if (found || Date.now() > end) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

export const mailto = (address) => ({
  identifier: { system: "urn:ietf:rfc:3986", value: `mailto:${address}` },
});

export function end() {
  process.exit(failed ? 1 : 0);
}
