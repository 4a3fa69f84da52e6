// Clients of matrix-js-sdk, each in a browser profile of its own, driven by lines of JSON on standard input:
//
//   {"do": "login", "with": {"client": "bob", ...}}  ->  {"value": ...}  or  {"error": "..."}
//
// "do" names a function of page.mjs, which runs in the client's page.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const crypto = new URL("node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/", import.meta.url);

const bundle = await build({
  absWorkingDir: fileURLToPath(new URL(".", import.meta.url)), entryPoints: ["./page.mjs"], bundle: true, format: "esm", platform: "browser", write: false,
  define: { global: "globalThis" }, logLevel: "silent",
});

const files = {
  "/": ["text/html", "<!doctype html><script type=module src=page.js></script>"],
  "/page.js": ["text/javascript", bundle.outputFiles[0].contents],
  "/pkg/matrix_sdk_crypto_wasm_bg.wasm": ["application/wasm", await readFile(new URL("matrix_sdk_crypto_wasm_bg.wasm", crypto))],
};

const server = createServer((request, response) => {
  const [type, body] = files[request.url] ?? ["text/plain", ""];
  response.writeHead(files[request.url] ? 200 : 404, { "Content-Type": type }).end(body);
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const address = `http://127.0.0.1:${server.address().port}/`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

const pages = new Map();

async function page(client) {
  if (!pages.has(client)) {
    const context = await browser.newContext();
    const opened = await context.newPage();
    opened.on("console", (m) => ["warning", "error"].includes(m.type()) && console.error(client, m.text().slice(0, 500)));
    opened.on("pageerror", (error) => console.error(client, "error", error));
    await opened.goto(address);
    await opened.waitForFunction(() => globalThis.peer !== undefined);
    pages.set(client, opened);
  }
  return pages.get(client);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, with: args } = JSON.parse(line);
  let reply;
  try {
    const value = await (await page(args.client)).evaluate(async ([name, args]) => {
      try {
        return await globalThis.peer[name](args);
      } catch (error) {
        throw new Error(String(error)); // since not every error of the library can leave the page
      }
    }, [name, args]);
    reply = { value: value ?? null };
  } catch (error) {
    reply = { error: String(error?.message ?? error) };
  }
  process.stdout.write(JSON.stringify(reply) + "\n");
}

await browser.close();
server.close();
