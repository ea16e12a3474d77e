// For Node.js, Deno and Bun. Some libraries use fetch, some node:https, some that with an agent of their own. (Deno needs
// more than --allow-net for node:https, and Bun knows no agents.)
import https from "node:https";
import http from "node:http";

const [url, ...models] = process.argv.slice(2);
const headers = { "Content-Type": "application/json" };
const module = url.startsWith("https:") ? https : http;

// As agentkeepalive's, which openai had up to version 4.
class OwnAgent extends module.Agent {
  createConnection(...words) {
    const socket = super.createConnection(...words);
    if (module === https) socket.setTimeout(60_000);
    return socket;
  }
}

function request(agent, body) {
  return new Promise((resolve, reject) => {
    const request = module.request(url, { method: "POST", headers, agent }, (answer) => {
      let text = "";
      answer.setEncoding("utf-8");
      answer.on("data", (piece) => (text += piece));
      answer.on("end", () => resolve(text));
    });
    request.on("error", reject);
    request.end(body);
  });
}

for (const model of models) {
  const body = JSON.stringify({ model, messages: [] });
  console.log(await (await fetch(url, { method: "POST", headers, body })).text());
  if (!process.versions.deno) console.log(await request(undefined, body));
  if (!process.versions.deno && !process.versions.bun) {
    console.log(await request(new OwnAgent({ keepAlive: true }), body));
  }
}
