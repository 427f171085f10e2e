/* What is known */

const HISTORY = 900;
const NEWS = 500;
/** How long a failure makes a server suspicious, in ms. */
const SUSPECT = 30_000;

const state = {
  stats: null,
  servers: [],
  rows: [],
  news: [],
  silent: false,
  heard: 0,
  linked: false,
  lastId: "",
  /** By server: how many failures it has had, and when they last began to grow. */
  failures: new Map(),
};

/** By wsteady's clock, in ms. */
const now = () => (state.stats ? state.stats.recent.time : Date.now());

const remember = {
  history({ columns, rows }) {
    state.rows = rows.map((row) => Object.fromEntries(columns.map((name, index) => [name, row[index]])));
  },
  stats(stats) {
    state.stats = stats;
    state.silent = false;
    // The first one is the last of the history.
    if (state.rows.at(-1)?.time !== stats.recent.time) state.rows.push(stats.recent);
    state.rows.splice(0, state.rows.length - HISTORY);
  },
  servers({ servers }) {
    for (const server of servers) {
      const seen = state.failures.get(server.id) || { count: server.failures_total, grew: 0 };
      // It was somewhere between this look and the one before.
      if (server.failures_total > seen.count) seen.grew = state.rows.at(-2)?.time || now();
      seen.count = server.failures_total;
      state.failures.set(server.id, seen);
    }
    state.servers = servers;
  },
  silent() {
    state.silent = true;
  },
  news(name, data) {
    state.news.push({ name, ...data, ms: Date.parse(data.time) });
    state.news.splice(0, state.news.length - NEWS);
  },
};

/* The stream: EventSource can't send a token */

let retry = 2000;

const take = (block) => {
  let name = "message";
  let data = "";
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const field = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") name = value;
    if (field === "data") data += value;
    if (field === "id") state.lastId = value;
    if (field === "retry") retry = Number(value);
  }
  if (!data) return;
  const known = ["history", "stats", "servers", "silent"].includes(name);
  if (known) remember[name](JSON.parse(data));
  else remember.news(name, JSON.parse(data));
};

const listen = async () => {
  const init = { headers: headers(), cache: "no-store" };
  if (state.lastId) init.headers["Last-Event-ID"] = state.lastId;
  const answer = await fetch("/v1/events", init);
  if (!answer.ok) throw await refusal(answer);
  at("content").hidden = false;
  refresh();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("wsteady ended the stream");
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    blocks.forEach(take);
    state.heard = performance.now();
    state.linked = true;
    draw();
  }
};

const stay = async () => {
  for (;;) {
    try {
      await listen();
    } catch (error) {
      state.linked = false;
      state.why = error.message;
      // The page begins anew with a token.
      if (error.status === 401) return wantToken();
    }
    at("content").hidden = false;
    draw();
    await new Promise((resolve) => setTimeout(resolve, retry));
  }
};

const wantToken = () => {
  at("token-error").textContent = sessionStorage.getItem(TOKEN) ? "That token is not accepted." : "";
  at("content").hidden = true;
  at("token-form").hidden = false;
  at("token").focus();
};

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, at("token").value.trim());
  location.reload();
});
