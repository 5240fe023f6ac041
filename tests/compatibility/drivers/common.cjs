// What the drivers in Node.js share; common.py documents the protocol.
"use strict";

const readline = require("node:readline");

const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
};

exports.MODEL = "llama3.2";
exports.EMBEDDER = "nomic-embed-text";
exports.PNG = Buffer.concat([
  Buffer.from("89504e470d0a1a0a", "hex"),
  Buffer.alloc(64),
]).toString("base64");
exports.PARAMETERS = parameters;
exports.TOOL = {
  type: "function",
  function: { name: "weather", description: "The weather", parameters },
};
exports.SCHEMA = {
  type: "object",
  properties: { answer: { type: "string" }, sure: { type: "boolean" } },
  required: ["answer", "sure"],
  additionalProperties: false,
};

exports.user = (content, more) => [{ role: "user", content, ...more }];

async function outcome(client, calls, { call, text }) {
  const pieces = [];
  try {
    let value = await calls[call](client, text);
    if (value && value[Symbol.asyncIterator]) {
      for await (const chunk of value) pieces.push(chunk);
      value = pieces;
    }
    return { call, value: value ?? null };
  } catch (error) {
    return { call, pieces, error: describeError(error) };
  }
}

function describeError(error) {
  return {
    class: error.name === "Error" ? error.constructor.name : error.name,
    status: error.status_code ?? error.status ?? null,
    message: String(error.message),
    retry_after: error.headers?.get?.("retry-after") ?? null,
  };
}

// Run jobs until the end of input; `make` creates a client for a base URL and a key.
exports.serve = async (make, calls) => {
  console.log = console.error; // libraries may print: keep that out of the outcomes
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { base, key, jobs, together } = JSON.parse(line);
    const client = make(base, key);
    let outcomes = [];
    if (together) {
      outcomes = await Promise.all(jobs.map((job) => outcome(client, calls, job)));
    } else {
      for (const job of jobs) outcomes.push(await outcome(client, calls, job));
    }
    process.stdout.write(JSON.stringify(outcomes) + "\n");
  }
};
