"use strict";
// Whatever a client or a server has chosen goes into text nodes and attributes, never into markup;
// the page's policy forbids the rest.

const at = (id) => document.getElementById(id);

/* Words for numbers */

const count = (n) => Math.round(n).toLocaleString("en");
const rate = (n) => (n > 0 && n < 10 ? n.toFixed(1) : count(n));
const percent = (share) => {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${share > 0 && share < 0.1 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
};
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, n < 1 ? 0 : Math.floor(Math.log2(n) / 10));
  const value = n / 1024 ** step;
  return `${step && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
};
const time = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 1440)} days`;
};
const clock = (date) => date.toLocaleTimeString("en-GB");

/* Nodes */

const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text === null ? "–" : String(text);
  if (kind) node.className = kind;
  return node;
};
const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};
const setMood = (node, mood) => {
  if (mood) node.dataset.mood = mood;
  else delete node.dataset.mood;
};
const badge = (text, mood) => {
  const node = make("span", text, "badge");
  setMood(node, mood);
  return node;
};
const linkTo = (id) => {
  const node = make("a", id.slice(0, 8), "id");
  node.href = `#session/${id}`;
  node.title = `Session ${id}`;
  return node;
};
const pairs = (list, facts) => {
  // The nodes stay: whoever reads the list with a screen reader keeps the place.
  while (list.children.length > facts.length) list.lastElementChild.remove();
  facts.forEach(([name, value, note, mood], index) => {
    let pair = list.children[index];
    if (!pair) {
      pair = make("div");
      pair.append(make("dt"), make("dd"));
      pair.lastElementChild.append(document.createTextNode(""), make("small"));
      list.append(pair);
    }
    const [text, small] = pair.lastElementChild.childNodes;
    setText(pair.firstElementChild, name);
    if (text.data !== value) text.data = value;
    setText(small, note || "");
    setMood(pair, mood);
  });
};

/* Asking */

const TOKEN = "wsteady-token";
const headers = () => {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
};

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const refusal = async (answer) => {
  const said = await answer.json().catch(() => ({}));
  return new Refused(answer.status, said.error || `HTTP ${answer.status}`);
};

const ask = async (method, path, fields) => {
  const init = { method, headers: headers(), cache: "no-store" };
  if (fields) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(fields);
  }
  const answer = await fetch(path, init);
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
};

const fail = (text) => {
  at("failure").textContent = text;
  at("failure").hidden = !text;
};

/** Does what a button is for; what goes wrong is said beside the numbers. */
const act = async (what, method, path, fields) => {
  try {
    await ask(method, path, fields);
    fail("");
    return true;
  } catch (error) {
    if (error.status === 401) wantToken();
    fail(`${what}: ${error.message}`);
    return false;
  }
};

let questions = 0;

/** Asks a person; resolves to whether it was meant. */
const isMeant = (title, text, yes) =>
  new Promise((resolve) => {
    const dialog = at("confirm");
    const mine = ++questions;
    const closed = () => {
      // The end of the question before may be told when the next one stands already.
      if (mine === questions && dialog.open) return;
      dialog.removeEventListener("close", closed);
      resolve(mine === questions && dialog.returnValue === "yes");
    };
    at("confirm-title").textContent = title;
    at("confirm-text").textContent = text;
    at("confirm-yes").textContent = yes;
    dialog.returnValue = "no";
    dialog.addEventListener("close", closed);
    dialog.showModal();
  });
