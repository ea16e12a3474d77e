"use strict";
const PARTS = ["state", "rules", "stats", "flows"];
const message = document.getElementById("message");
let changes = 0;

// The server writes the page, and all escaping is done there; this puts into place what is new of it.
function enable(root) {
  for (const box of root.querySelectorAll("input[data-rule]")) box.removeAttribute("disabled");
}

function merge(list, fresh) {
  for (const part of list.querySelectorAll("details[open]")) {
    const key = part.closest("[data-key]").dataset.key;
    [...fresh.children].find((child) => child.dataset.key === key)?.querySelector("details")?.setAttribute("open", "");
  }
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = [...fresh.children].map((child) => {
    const old = known.get(child.dataset.key);
    return old && old.isEqualNode(child) ? old : child;
  });
  if (wanted.length === list.children.length && wanted.every((child, place) => child === list.children[place])) return;
  const focused = document.activeElement && list.contains(document.activeElement) ? document.activeElement.dataset.rule : null;
  list.replaceChildren(...wanted);
  if (focused) [...list.querySelectorAll("input[data-rule]")].find((box) => box.dataset.rule === focused)?.focus();
}

async function refresh() {
  const before = changes;
  const answer = await fetch("/", { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(await answer.text());
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (before !== changes) return; // this is how it was before a switch was moved
  enable(fresh);
  for (const part of PARTS) merge(document.getElementById(part), fresh.getElementById(part));
}

async function change(box) {
  changes += 1;
  try {
    const answer = await fetch("/rules/" + encodeURIComponent(box.dataset.rule), {
      method: "PATCH",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ force_upstream_stream: box.checked }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    changes += 1;
    await refresh();
    message.textContent = "";
  } catch (error) {
    box.checked = !box.checked;
    message.textContent = "Not changed: " + error.message;
  }
}

async function keepFresh() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    if (document.hidden) continue;
    try {
      await refresh();
      if (message.textContent.startsWith("mitmproxy")) message.textContent = "";
    } catch {
      message.textContent = "mitmproxy is not responding; this is the last known state.";
    }
  }
}

document.getElementById("rules").addEventListener("change", (event) => change(event.target));
enable(document);
keepFresh();
