"use strict";
// The server writes the page, and all escaping is done there; this puts into place what is new of it.

const MOST_ROWS = 2000; // as many as the server remembers
const PARTS = ["state", "rules", "stats", "flight"];
const flows = document.getElementById("flows");
const filters = document.getElementById("filters");
const message = document.getElementById("message");
let place = document.body.dataset.place;
let source = null;
let lost = 0;

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function query() {
  const fields = [...new FormData(filters)].map(([name, value]) => [name, value === "on" ? "1" : value.trim()]);
  return new URLSearchParams(fields.filter(([, value]) => value));
}

async function text(answer) {
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.text();
}

// News

function merge(list, html) {
  const fresh = parsed(html);
  for (const box of fresh.querySelectorAll("input[data-rule]")) box.removeAttribute("disabled");
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = [...fresh.children].map((child) => {
    const old = known.get(child.dataset.key);
    return old?.isEqualNode(child) ? old : child;
  });
  if (wanted.length === list.children.length && wanted.every((child, at) => child === list.children[at])) return;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.rule : null;
  list.replaceChildren(...wanted);
  if (focused) list.querySelector(`[data-rule="${CSS.escape(focused)}"]`)?.focus();
}

function rowOf(key) {
  return [...flows.children].find((row) => row.dataset.key === key);
}

// Puts rows in the place of those that are shown, and returns the others.
function replaceRows(html) {
  return [...parsed(html).children].filter((fresh) => {
    const old = rowOf(fresh.dataset.key);
    if (old && !old.classList.contains("open")) { // an open one somebody reads
      const focused = old.contains(document.activeElement);
      old.replaceWith(fresh);
      if (focused) fresh.querySelector("button")?.focus();
    }
    return !old;
  });
}

function addNews(html) {
  rowOf("")?.matches(".quiet") && rowOf("").remove();
  flows.prepend(...replaceRows(html));
  while (flows.children.length > MOST_ROWS + 1) flows.lastElementChild.remove();
  rove();
}

function showList(html) {
  flows.replaceChildren(parsed(html));
  rove();
}

function suggest(id, name) {
  const names = new Set([...document.querySelectorAll(`#stats [data-${name}]`)].map((row) => row.dataset[name]));
  const options = [...names].map((value) => Object.assign(document.createElement("option"), { value }));
  document.getElementById(id).replaceChildren(...options);
}

function show(parts) {
  for (const name of PARTS) if (name in parts) merge(document.getElementById(name), parts[name]);
  if ("stats" in parts) {
    suggest("upstreams", "upstream");
    suggest("models", "model");
  }
  if ("flows" in parts) showList(parts.flows);
  if ("news" in parts) addNews(parts.news);
  if ("again" in parts) replaceRows(parts.again);
}

function listen() {
  source?.close();
  const chosen = query();
  chosen.set("after", place);
  const mine = (source = new EventSource("/events?" + chosen));
  mine.addEventListener("message", (event) => {
    place = event.lastEventId;
    show(JSON.parse(event.data));
  });
  mine.addEventListener("reload", () => location.reload());
  mine.addEventListener("open", () => {
    clearTimeout(lost);
    lost = 0;
    if (message.textContent.startsWith("mitmproxy")) message.textContent = "";
  });
  // A browser reconnects by itself, unless it was refused.
  mine.addEventListener("error", () => {
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => mine === source && listen(), 3000);
    lost ||= setTimeout(() => {
      message.textContent = "mitmproxy is not responding; this is the last known state.";
    }, 5000);
  });
}

// A page that nobody looks at gives up its connection: there may be several of them.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    clearTimeout(lost);
    lost = 0;
  } else listen();
});

// Filters

let typing = 0;

async function choose() {
  const chosen = query();
  history.replaceState(null, "", chosen.size ? "?" + chosen : location.pathname);
  source?.close();
  try {
    const html = await text(await fetch("/flows.html?" + chosen));
    if (`${chosen}` !== `${query()}`) return;
    showList(html);
  } catch (error) {
    message.textContent = error.message;
  }
  listen();
}

filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(choose, 200);
});
filters.addEventListener("submit", (event) => event.preventDefault());

// Flows

function rows() {
  return [...flows.querySelectorAll("li > button")];
}

// One of the rows is in the order of Tab, and the arrow keys lead to the others.
function rove(to = null) {
  const all = rows();
  const current = to ?? all.find((row) => row.tabIndex === 0 && row.dataset.roved) ?? all[0];
  for (const row of all) {
    row.tabIndex = row === current ? 0 : -1;
    delete row.dataset.roved;
  }
  if (current) current.dataset.roved = "1";
}

function close(row) {
  row.classList.remove("open");
  row.querySelector("button").setAttribute("aria-expanded", "false");
  row.querySelector(".opened")?.remove();
}

async function toggle(row) {
  const button = row.querySelector("button");
  const opens = !row.classList.contains("open");
  for (const other of flows.querySelectorAll("li.open")) close(other);
  if (!opens) return;
  row.classList.add("open");
  button.setAttribute("aria-expanded", "true");
  button.setAttribute("aria-busy", "true");
  try {
    const html = await text(await fetch(`/flows/${button.dataset.place}.html`));
    if (row.classList.contains("open")) row.append(parsed(html));
  } catch (error) {
    close(row);
    message.textContent = error.message;
  }
  button.removeAttribute("aria-busy");
}

async function showMore(button) {
  button.disabled = true;
  const chosen = query();
  chosen.set("after", button.dataset.more);
  try {
    const fresh = parsed(await text(await fetch("/flows.html?" + chosen)));
    const first = fresh.querySelector("button");
    button.parentElement.replaceWith(fresh);
    rove(first);
    first?.focus();
  } catch (error) {
    button.disabled = false;
    message.textContent = error.message;
  }
}

flows.addEventListener("click", (event) => {
  const button = event.target.closest("li > button");
  if (!button) return;
  rove(button);
  if (button.dataset.more) showMore(button);
  else toggle(button.parentElement);
});

flows.addEventListener("keydown", (event) => {
  const row = event.target.closest("li");
  if (event.key === "Escape" && row?.classList.contains("open")) {
    close(row);
    row.querySelector("button").focus();
    return;
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches("li > button")) return;
  const all = rows();
  const next = all[all.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  rove(next);
  next.focus();
});

// Rules

async function change(box) {
  try {
    const answer = await fetch("/rules/" + encodeURIComponent(box.dataset.rule), {
      method: "PATCH",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ force_upstream_stream: box.checked }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    box.toggleAttribute("checked", box.checked); // as the server writes it from now on
    message.textContent = "";
  } catch (error) {
    box.checked = !box.checked;
    message.textContent = "Not changed: " + error.message;
  }
}

document.getElementById("rules").addEventListener("change", (event) => change(event.target));
for (const box of document.querySelectorAll("input[data-rule]")) box.removeAttribute("disabled");
suggest("upstreams", "upstream");
suggest("models", "model");
rove();
listen();
