// Streams with one client, each model in its turn, and prints what the client has made of each stream, a line of JSON each:
//     node clients.mjs CLIENT BASE_URL MODEL …
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { ChatOpenAI } from "@langchain/openai";
import { jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const [name, baseURL, ...models] = process.argv.slice(2);
const apiKey = "sk-test-key";
const messages = [{ role: "user", content: "Hi" }];
const parameters = { type: "object", properties: { city: { type: "string" }, days: { type: "number" } } };
const names = ["weather", "news"];

globalThis.AI_SDK_LOG_WARNINGS = false; // they go to where the answers go

const openai = () => new OpenAI({ apiKey, baseURL, maxRetries: 0 });

async function withVercel(model) {
  const description = "Tells it";
  const tools = Object.fromEntries(names.map((name) => [name, tool({ description, inputSchema: jsonSchema(parameters) })]));
  let failure;
  const result = streamText({ model, messages, tools, maxRetries: 0, onError: ({ error }) => (failure = error) });
  let text = "";
  for await (const piece of result.textStream) text += piece;
  if (failure) throw failure;
  const usage = await result.usage;
  return {
    text,
    reasoning: (await result.reasoningText) ?? "",
    calls: (await result.toolCalls).map((call) => [call.toolCallId, call.toolName, call.input]),
    finish: await result.finishReason,
    usage: [usage.inputTokens, usage.outputTokens],
  };
}

async function withLangChain(settings) {
  const chat = new ChatOpenAI({ apiKey, maxRetries: 0, streamUsage: true, configuration: { baseURL }, ...settings });
  let whole;
  for await (const chunk of await chat.stream("Hi")) whole = whole === undefined ? chunk : whole.concat(chunk);
  return {
    text: whole.text,
    calls: whole.tool_calls.map((call) => [call.id, call.name, call.args]),
    usage: [whole.usage_metadata?.input_tokens, whole.usage_metadata?.output_tokens],
  };
}

const CLIENTS = {
  "openai chat": (model) =>
    openai()
      .chat.completions.stream({ model, messages, n: 2, stream_options: { include_usage: true } })
      .finalChatCompletion(),
  "openai responses": (model) => openai().responses.stream({ model, input: "Hi" }).finalResponse(),
  "anthropic messages": (model) =>
    new Anthropic({ apiKey, baseURL: baseURL.replace(/\/v1$/, ""), maxRetries: 0 }).messages
      .stream({ model, messages, max_tokens: 99 })
      .finalMessage(),
  "ai chat": (model) => withVercel(createOpenAI({ apiKey, baseURL }).chat(model)),
  "ai responses": (model) => withVercel(createOpenAI({ apiKey, baseURL }).responses(model)),
  "ai compatible": (model) =>
    withVercel(createOpenAICompatible({ name: "ours", apiKey, baseURL, includeUsage: true })(model)),
  "langchain chat": (model) => withLangChain({ model }),
  "langchain responses": (model) => withLangChain({ model, useResponsesApi: true }),
};

for (const model of models) {
  const made = await CLIENTS[name](model).catch((error) => ({ failure: String(error?.stack ?? error) }));
  console.log(JSON.stringify(made));
}
