// A browser that obeys: lines of JSON on stdin, each an action; for each a line of JSON on stdout, {"value": …} or
// {"error": …}. The tests themselves are in test_page_browser.py, test_mitmweb.py, test_cors.py and
// test_runtimes.py.
//
//     node drive.mjs {"executable": "/usr/bin/chromium", "profile": "/tmp/…", "proxy": "http://127.0.0.1:8080" or null,
//                     "extension": "/tmp/…" or null, "args": […]}

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { executable, profile, proxy, extension, args } = JSON.parse(process.argv[2]);
const context = await chromium.launchPersistentContext(profile, {
  executablePath: executable,
  headless: true,
  viewport: { width: 1120, height: 900 },
  // Playwright's own word for "loopback too": Chromium leaves it out of every proxy otherwise.
  proxy: proxy ? { server: proxy, bypass: "<-loopback>" } : undefined,
  ignoreDefaultArgs: extension ? ["--disable-extensions"] : [],
  args: [
    ...(extension ? [`--load-extension=${extension}`] : []),
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    ...args,
  ],
});
const page = context.pages()[0] ?? (await context.newPage());
const complaints = [];
const requests = [];
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) complaints.push(`${message.location().url}: ${message.text()}`);
});
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("request", (request) => requests.push(request.url()));
page.on("dialog", (dialog) => {
  complaints.push(`a dialog: ${dialog.message()}`);
  dialog.dismiss();
});

const ACTIONS = {
  goto: async (url) => (await page.goto(url)).status(),
  setContent: async (url, html) => {
    await page.route(url, (route) => route.fulfill({ contentType: "text/html", body: html }));
    await page.goto(url);
  },
  click: (selector) => page.click(selector),
  fill: (selector, text) => page.fill(selector, text),
  press: (selector, key) => page.press(selector, key),
  key: (key) => page.keyboard.press(key),
  scheme: (name) => page.emulateMedia({ colorScheme: name }),
  wait: async (selector) => {
    await page.waitForSelector(selector, { timeout: 60_000 });
  },
  text: (selector) => page.innerText(selector),
  evaluate: (expression) => page.evaluate(expression),
  resize: (width, height) => page.setViewportSize({ width, height }),
  screenshot: async (path) => {
    await page.screenshot({ path, fullPage: true });
  },
  complaints: async () => complaints.splice(0),
  requests: async () => [...requests],
};

process.stdout.write('{"value": "ready"}\n');
for await (const line of createInterface({ input: process.stdin })) {
  const [action, ...args] = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await ACTIONS[action](...args)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await context.close();
