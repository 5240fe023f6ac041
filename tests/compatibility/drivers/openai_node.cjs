// Drives `openai`, OpenAI's own client for JavaScript.
"use strict";

const { OpenAI } = require("openai");
const { EMBEDDER, MODEL, PARAMETERS, PNG, SCHEMA, TOOL, serve, user } = require("./common.cjs");

const url = `data:image/png;base64,${PNG}`;
const format = { name: "answer", schema: SCHEMA, strict: true };

const make = (base, apiKey) => new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 });
const chat = (client, said, more) =>
  client.chat.completions.create({ model: MODEL, messages: user(said), ...more });
const respond = (client, input, more) =>
  client.responses.create({ model: MODEL, input, ...more });

serve(make, {
  "POST /v1/chat/completions whole": (c, text) => chat(c, text),
  "POST /v1/chat/completions streamed": (c, text) =>
    chat(c, text, { stream: true, stream_options: { include_usage: true } }),
  "POST /v1/chat/completions tools": (c, text) => chat(c, text, { tools: [TOOL] }),
  "POST /v1/chat/completions images": (c, text) =>
    chat(c, [{ type: "text", text }, { type: "image_url", image_url: { url } }]),
  "POST /v1/chat/completions thinking": (c, text) =>
    chat(c, text, { reasoning_effort: "low", stream: true }),
  "POST /v1/chat/completions structured": (c, text) =>
    chat(c, text, { response_format: { type: "json_schema", json_schema: format } }),
  "POST /v1/completions whole": (c, prompt) => c.completions.create({ model: MODEL, prompt }),
  "POST /v1/completions streamed": (c, prompt) =>
    c.completions.create({ model: MODEL, prompt, stream: true }),
  "POST /v1/embeddings": (c, text) =>
    c.embeddings.create({ model: EMBEDDER, input: [text, "two"] }),
  "GET /v1/models": async (c) => (await c.models.list()).data,
  "GET /v1/models/…": (c) => c.models.retrieve(MODEL),
  "POST /v1/responses whole": (c, text) => respond(c, text),
  "POST /v1/responses streamed": (c, text) => respond(c, text, { stream: true }),
  "POST /v1/responses tools": (c, text) =>
    respond(c, text, {
      tools: [{ type: "function", name: "weather", parameters: PARAMETERS, strict: false }],
    }),
  "POST /v1/responses images": (c, text) =>
    respond(
      c,
      user([
        { type: "input_text", text },
        { type: "input_image", image_url: url },
      ]),
    ),
  "POST /v1/responses thinking": (c, text) =>
    respond(c, text, { reasoning: { effort: "low" }, stream: true }),
  "POST /v1/responses structured": (c, text) =>
    respond(c, text, { text: { format: { type: "json_schema", ...format } } }),
});
