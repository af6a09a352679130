// What the official JavaScript client makes of a server, one line of JSON a case; and every request that it sent.
// node client.mjs URL KEY WIRE_LOG, in a folder with `npm install openai`.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, apiKey, wireLog] = process.argv.slice(2);
const found = createRequire(`${process.cwd()}/`).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(found).href);
const wire = [];

function shapeOf(value) {
  if (Array.isArray(value)) return value.length ? [shapeOf(value[0])] : [];
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, shapeOf(one)]));
}

async function recorded(address, options) {
  const headers = Object.fromEntries(new Headers(options.headers));
  headers.authorization = headers.authorization.includes(apiKey) ? "Bearer KEY" : headers.authorization;
  const body = typeof options.body === "string" ? JSON.parse(options.body) : null;
  const answered = await fetch(address, options);
  const path = new URL(address).pathname + new URL(address).search;
  const sent = { case: current, method: options.method.toUpperCase(), path, headers, body, status: answered.status };
  if (answered.headers.get("content-type").startsWith("application/json")) {
    const told = await answered.clone().json();
    Object.assign(sent, { id: told.id ?? null, shape: shapeOf(told) });
  }
  wire.push(sent);
  return answered;
}

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, fetch: recorded });
const model = "tiny-llama";
const messages = [{ role: "user", content: "My cat is Tom." }];
const parameters = {
  type: "object", properties: { city: { type: "string", maxLength: 4 } }, required: ["city"], additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters } }];
let current = "";

async function chunksOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function errorOf(call) {
  try {
    await call();
    return "none";
  } catch (error) {
    return [error.constructor.name, error.status, error.code];
  }
}

const cases = {
  async answer() {
    const made = await client.chat.completions.create({ model, messages, max_completion_tokens: 3 });
    return [made.object, made.choices[0].finish_reason, made.usage.completion_tokens, made.memory.user];
  },
  async stream() {
    const options = { model, messages, max_completion_tokens: 3, stream: true, stream_options: { include_usage: true } };
    const chunks = await chunksOf(await client.chat.completions.create(options));
    return [chunks[0].choices[0].delta.role, chunks.at(-2).choices[0].finish_reason, chunks.at(-1).usage.total_tokens > 3];
  },
  async streamHelper() {
    const runner = client.chat.completions.stream({ model, messages, max_completion_tokens: 3 });
    const final = await runner.finalChatCompletion();
    return [final.choices[0].message.role, final.choices[0].finish_reason];
  },
  async calls() {
    const options = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false };
    const made = await client.chat.completions.create({ ...options, max_completion_tokens: 100 });
    const [call] = made.choices[0].message.tool_calls;
    return [made.choices[0].finish_reason, call.function.name, Object.keys(JSON.parse(call.function.arguments))];
  },
  async callsInAStream() {
    const options = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false };
    const runner = client.chat.completions.stream({ ...options, max_completion_tokens: 100 });
    const final = await runner.finalChatCompletion();
    return Object.keys(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments));
  },
  async schema() {
    const json_schema = { name: "place", schema: parameters, strict: true };
    const options = { model, messages, max_completion_tokens: 100, response_format: { type: "json_schema", json_schema } };
    const made = await client.chat.completions.create(options);
    return Object.keys(JSON.parse(made.choices[0].message.content));
  },
  async logprobs() {
    const made = await client.chat.completions.create({ model, messages, max_completion_tokens: 2, logprobs: true, top_logprobs: 1 });
    return made.choices[0].logprobs.content.map((one) => one.top_logprobs.length);
  },
  async embeddings() {
    const made = await client.embeddings.create({ model, input: ["a cat", "two cats"] });
    return [made.data.length, Math.abs(made.data[0].embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-4];
  },
  async responses() {
    const made = await client.responses.create({ model, input: "My cat is Tom.", max_output_tokens: 3 });
    const next = await client.responses.create({ model, input: "Who?", previous_response_id: made.id, max_output_tokens: 3 });
    const kept = await client.responses.retrieve(next.id);
    await client.responses.delete(made.id);
    return [kept.previous_response_id === made.id, kept.output_text === next.output_text, made.status];
  },
  async responseStream() {
    const events = await chunksOf(await client.responses.create({ model, input: "My cat is Tom.", max_output_tokens: 3, stream: true }));
    return [...new Set(events.map((event) => event.type))];
  },
  async conversations() {
    const made = await client.conversations.create({ metadata: { topic: "cats" }, items: [{ role: "user", content: "My cat is Tom." }] });
    const items = await client.conversations.items.list(made.id);
    const gone = await client.conversations.delete(made.id);
    return [items.data.length, gone.deleted];
  },
  async models() {
    return (await client.models.list()).data.map((one) => one.id.split(":")[0]);
  },
  async errors() {
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "ltm_none", maxRetries: 0, fetch: recorded });
    return [
      await errorOf(() => client.chat.completions.create({ model: "zork", messages })),
      await errorOf(() => client.chat.completions.create({ model, messages: [] })),
      await errorOf(() => stranger.models.list()),
    ];
  },
  async cancelled() {
    const stream = await client.chat.completions.create({ model, messages, max_completion_tokens: 60, stream: true });
    for await (const _ of stream) break;
    return stream.controller.signal.aborted;
  },
};

for (const [name, run] of Object.entries(cases)) {
  current = name;
  let made;
  try {
    made = await run();
  } catch (error) {
    made = `failed: ${error}`;
  }
  console.log(JSON.stringify([name, made]));
}
if (wireLog) writeFileSync(wireLog, wire.map((one) => JSON.stringify(one)).join("\n") + "\n");
