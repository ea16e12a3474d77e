// A browser that obeys: lines of JSON on stdin, each an action; for each a line of JSON on stdout, {"value": …} or
// {"error": …}. The tests themselves are in test_page_browser.py, test_twelve_failures.py, test_mitmweb.py,
// test_cors.py and test_runtimes.py.
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

// Runs in the page: the text that a person can read in the window as it is. A character counts if it is inside the
// window and inside every box around it that hides what does not fit, and if nothing lies over its text.
function seen() {
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  let text = "";
  let last = { top: NaN, right: NaN };
  while (words.nextNode()) {
    const node = words.currentNode;
    const around = node.parentElement;
    if (!node.data.trim() || !around.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const shown = { left: 0, top: 0, right: innerWidth, bottom: innerHeight };
    for (let box = around; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (style.overflow === "visible" || style.display === "inline") continue;
      const { left, top, right, bottom } = box.getBoundingClientRect();
      const dots = style.textOverflow === "ellipsis" && box.scrollWidth > box.clientWidth ? parseFloat(style.fontSize) : 0;
      shown.left = Math.max(shown.left, left);
      shown.top = Math.max(shown.top, top);
      shown.right = Math.min(shown.right, right - dots);
      shown.bottom = Math.min(shown.bottom, bottom);
    }
    let first = true;
    for (let place = 0; place < node.data.length; place += 1) {
      range.setStart(node, place);
      range.setEnd(node, place + 1);
      const { left, top, right, bottom, width } = range.getBoundingClientRect();
      const fits = left >= shown.left - 1 && right <= shown.right + 1 && top >= shown.top - 1 && bottom <= shown.bottom + 1;
      if (!fits || (!width && node.data[place].trim())) continue;
      if (width && first) {
        if (!around.contains(document.elementFromPoint((left + right) / 2, (top + bottom) / 2))) break;
        if (Math.abs(top - last.top) > 3 || Math.abs(left - last.right) > 3) text += " ";
        first = false;
      }
      if (width) last = { top, right };
      text += node.data[place];
    }
  }
  return text.replace(/\s+/g, " ").trim();
}

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
  scroll: (selector) => page.locator(selector).scrollIntoViewIfNeeded(),
  seen: () => page.evaluate(seen),
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
