// The other side of the interoperation tests: one process that reads a request per line on its standard
// input and writes an answer per line on its standard output, in order.
//
//   {"do": "machine.sync", "with": {...}}  ->  {"value": ...}  or  {"error": "..."}

import { createInterface } from "node:readline";

// The libraries log to the console; standard output belongs to the answers.
for (const level of ["log", "info", "debug", "warn", "trace"]) console[level] = console.error;

const libraries = {
  olm: () => import("./libolm.mjs"),
  machine: () => import("./machine.mjs"),
};

async function answer(line) {
  const request = JSON.parse(line);
  const [library, name] = request.do.split(".");
  const functions = await libraries[library]();
  return functions[name](request.with);
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply;
  try {
    reply = { value: (await answer(line)) ?? null };
  } catch (err) {
    reply = { error: String(err?.description ?? err?.message ?? err) };
  }
  process.stdout.write(JSON.stringify(reply) + "\n");
}
