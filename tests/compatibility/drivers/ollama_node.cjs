// Drives `ollama`, Ollama's own client for JavaScript.
"use strict";

const { Ollama } = require("ollama");
const { EMBEDDER, MODEL, PNG, SCHEMA, TOOL, serve, user } = require("./common.cjs");

const make = (host, key) => new Ollama({ host, headers: { Authorization: `Bearer ${key}` } });
const chat = (client, text, more) =>
  client.chat({ model: MODEL, messages: user(text), ...more });
const generate = (client, prompt, more) => client.generate({ model: MODEL, prompt, ...more });

serve(make, {
  "POST /api/chat whole": (c, text) => chat(c, text),
  "POST /api/chat streamed": (c, text) => chat(c, text, { stream: true }),
  "POST /api/chat tools": (c, text) => chat(c, text, { tools: [TOOL] }),
  "POST /api/chat images": (c, text) =>
    c.chat({ model: MODEL, messages: user(text, { images: [PNG] }) }),
  "POST /api/chat thinking": (c, text) => chat(c, text, { think: true, stream: true }),
  "POST /api/chat structured": (c, text) => chat(c, text, { format: SCHEMA }),
  "POST /api/generate whole": (c, text) => generate(c, text),
  "POST /api/generate streamed": (c, text) => generate(c, text, { stream: true }),
  "POST /api/generate images": (c, text) => generate(c, text, { images: [PNG] }),
  "POST /api/generate thinking": (c, text) => generate(c, text, { think: true }),
  "POST /api/generate structured": (c, text) => generate(c, text, { format: SCHEMA }),
  "POST /api/embed": (c, text) => c.embed({ model: EMBEDDER, input: [text, "two"] }),
  "POST /api/embeddings": (c, text) => c.embeddings({ model: EMBEDDER, prompt: text }),
  "GET /api/tags": (c) => c.list(),
  "GET /api/ps": (c) => c.ps(),
  "POST /api/show": (c) => c.show({ model: MODEL }),
  "GET /api/version": (c) => c.version(),
  "POST /api/create whole": (c, system) => c.create({ model: "mine", from: MODEL, system }),
  "POST /api/create streamed": (c) => c.create({ model: "mine", from: MODEL, stream: true }),
  "POST /api/copy": (c) => c.copy({ source: MODEL, destination: "other" }),
  "POST /api/pull whole": (c) => c.pull({ model: "tiny" }),
  "POST /api/pull streamed": (c) => c.pull({ model: "tiny", stream: true }),
  "POST /api/push whole": (c) => c.push({ model: "tiny" }),
  "POST /api/push streamed": (c) => c.push({ model: "tiny", stream: true }),
  "DELETE /api/delete": (c) => c.delete({ model: "tiny" }),
});
