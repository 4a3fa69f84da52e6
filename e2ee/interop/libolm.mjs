// libolm behind handles: objects are made by name, and their methods called by name. An argument
// {"handle": n} is the object n, {"base64": "..."} is bytes.

import { createRequire } from "node:module";

// libolm was built before Node had fetch, and takes it for a sign that it runs in a browser.
delete globalThis.fetch;
const Olm = createRequire(import.meta.url)("@matrix-org/olm");
await Olm.init();

const objects = [];

function argument(a) {
  if (typeof a?.handle === "number") return objects[a.handle];
  if (typeof a?.base64 === "string") return new Uint8Array(Buffer.from(a.base64, "base64"));
  return a;
}

export function make({ name }) {
  return { handle: objects.push(new Olm[name]()) - 1 };
}

export function call({ on, name, args }) {
  const value = objects[on][name](...args.map(argument));
  return value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value;
}
