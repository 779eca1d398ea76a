// Runs Perfetto's own trace processor, as its web page does in a worker, under node: requests on stdin, answers on
// stdout, both TraceProcessorRpcStream. The argument is a folder with engine_bundle.js and trace_processor.wasm.
"use strict";
const fs = require("fs");
const path = require("path");

const folder = process.argv[2];
const requests = new Uint8Array(fs.readFileSync(0));
const code = fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8");

class XMLHttpRequest { // the bundle asks for the engine in one blocking request
  open(_, url) { this.url = url; }
  send() {
    const bytes = fs.readFileSync(path.join(folder, path.basename(this.url)));
    this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  }
}
const worker = { location: { href: "/" } };
const quiet = { ...console, log() {}, warn() {} };
// Without `process` the bundle takes this place for a worker, which is what it was made for.
new Function("self", "process", "XMLHttpRequest", "WorkerGlobalScope", "importScripts", "console", code)(
  worker, undefined, XMLHttpRequest, Object, () => {}, quiet);
setTimeout(() => { // the engine is there after the promises that its start made
  const port = { postMessage: (answer) => fs.writeSync(1, answer) };
  worker.onmessage({ data: port });
  port.onmessage({ data: requests });
}, 0);
