/* What to make of it */

const isUsable = (server) =>
  server.state === "enabled" && server.healthy && server.breaker === "closed" && server.weight > 0;

/** Losses that an operator wanted. */
const PLANNED = new Set(["moved"]);

/** Whether a server was lost or not reached lately, and no session has come back to it since. */
const isSuspect = (server) => {
  const last = (name, wanted = () => true) =>
    state.news.findLast((one) => one.name === name && one.server === server.id && wanted(one))?.ms || 0;
  const bad = Math.max(state.failures.get(server.id)?.grew || 0, last("held", (one) => !PLANNED.has(one.reason)));
  return bad > last("resumed") && now() - bad < SUSPECT;
};

const conditions = (server) => {
  const found = [];
  if (server.breaker === "open") found.push(["breaker open", "bad"]);
  if (!server.healthy) found.push(["unhealthy", "bad"]);
  if (!found.length && isSuspect(server)) found.push(["failing", "bad"]);
  if (server.state !== "enabled") found.push([server.state, "warn"]);
  if (server.weight === 0) found.push(["weight 0", "warn"]);
  return found.length ? found : [["up", "good"]];
};

const worst = (moods) => ["bad", "warn"].find((mood) => moods.includes(mood)) || "good";

const moodOf = (server) => worst(conditions(server).map(([, mood]) => mood));

const deadPools = () => {
  const pools = new Map();
  for (const server of state.servers) {
    pools.set(server.pool, (pools.get(server.pool) || 0) + (isUsable(server) ? 1 : 0));
  }
  return [...pools].filter(([, usable]) => !usable).map(([pool]) => pool);
};

/** One sentence for the whole, and the reasons. */
const verdict = () => {
  const age = Math.round((performance.now() - state.heard) / 1000);
  if (!state.stats) {
    const title = state.linked ? "Counting …" : `No connection: ${state.why || "connecting"}`;
    return { mood: state.linked || !state.why ? "wait" : "bad", title, reasons: [] };
  }
  if (!state.linked || age > 3) {
    const title = "No connection to wsteady";
    return { mood: "bad", title, reasons: [`What stands below is ${age} s old.`, state.why || "Nothing comes any more."] };
  }
  if (state.silent) {
    return { mood: "bad", title: "A loop does not answer", reasons: ["Its sessions stand still. What stands below is what was known before."] };
  }
  const { messages, recent } = state.stats;
  const found = [];
  for (const pool of deadPools()) found.push(["bad", `Pool ${pool} has no usable server.`]);
  for (const server of state.servers) {
    const down = conditions(server).filter(([, mood]) => mood !== "good");
    if (down.length) found.push(["warn", `Server ${server.id}: ${down.map(([what]) => what).join(", ")}.`]);
  }
  if (state.stats.draining) found.push(["warn", "wsteady is draining: it was told to stop."]);
  if (state.stats.paused) found.push(["warn", "New clients are turned away (503): accepting is paused."]);
  const unconfirmed = state.rows.slice(-60).reduce((sum, row) => sum + row.unconfirmed, 0);
  if (unconfirmed) found.push(["bad", `${plural(unconfirmed, "message", "messages")} ended unconfirmed in the last minute.`]);
  const memory = state.stats.buffer_bytes / state.stats.memory_limit_bytes;
  if (memory > 0.8) found.push([memory > 0.95 ? "bad" : "warn", `Journals and queues take ${percent(memory)} of their memory.`]);
  if (recent.busy > 0.9) found.push(["warn", `A loop is busy ${percent(recent.busy)} of its time.`]);
  const held = messages.sessions_held;
  // Red is for what clients notice, or soon will: a server that others stand in for is amber.
  const mood = held ? "bad" : worst(found.map(([each]) => each));
  // One that sessions have just lost may well be chosen again; but nobody would say that it serves.
  const serving = state.servers.filter((server) => isUsable(server) && !isSuspect(server)).length;
  const service = `${serving} of ${plural(state.servers.length, "server", "servers")} in service`;
  let title = `All well: ${service}, no session waits`;
  if (held) title = `${plural(held, "session is", "sessions are")} held: without a server, waiting for one`;
  else if (mood !== "good") title = `Every session has a server; ${service}`;
  return { mood, title, reasons: found.map(([, text]) => text) };
};

/* Drawing */

const drawVerdict = () => {
  const { mood, title, reasons } = verdict();
  setMood(at("verdict"), mood);
  if (at("verdict-title").textContent !== title) {
    at("verdict-title").textContent = title;
    document.title = mood === "bad" ? "⚠ wsteady" : "wsteady";
  }
  // Spoken only when the picture turns, not with every number.
  if (mood !== "wait" && at("spoken").dataset.mood !== mood) {
    at("spoken").dataset.mood = mood;
    at("spoken").textContent = [title, ...reasons].join(". ");
  }
  const list = at("verdict-list");
  const shown = reasons.length > 8 ? [...reasons.slice(0, 7), `and ${reasons.length - 7} more`] : reasons;
  if ([...list.children].map((node) => node.textContent).join("\n") !== shown.join("\n")) {
    list.replaceChildren(...shown.map((text) => make("li", text)));
  }
  const link = state.linked && performance.now() - state.heard < 3500;
  setMood(at("link"), link ? "good" : state.heard ? "bad" : "wait");
  setText(at("link-text"), link ? "Live" : state.heard ? "Not connected" : "Connecting …");
};

const drawNumbers = () => {
  const { stats } = state;
  if (!stats) return;
  setText(at("version"), `${stats.version}, up ${time(stats.uptime_seconds)}`);
  const { messages, recent, requests } = stats;
  const memory = stats.buffer_bytes / stats.memory_limit_bytes;
  const facts = [
    ["Sessions", count(stats.sessions.active + messages.sessions_held), `${count(stats.connections.active)} client connections`],
    ["Held", count(messages.sessions_held), "without a server now", messages.sessions_held ? "bad" : ""],
    ["Failovers", count(messages.failovers), `${plural(messages.replayed, "message", "messages")} sent again`],
    ["Up", rate(recent.up_per_second), "messages per second"],
    ["Down", rate(recent.down_per_second), "messages per second"],
    ["Relay", time(recent.relay_p99), `99 % · median ${time(recent.relay_p50)}`],
    ["Not confirmed yet", count(messages.journaled), "messages in journals"],
    ["Ended unconfirmed", count(messages.unconfirmed), "messages since the start", recent.unconfirmed ? "bad" : ""],
    ["Memory", percent(memory), `${bytes(stats.buffer_bytes)} of ${bytes(stats.memory_limit_bytes)}`, memory > 0.8 ? "bad" : ""],
    ["Busiest loop", percent(recent.busy), `of ${plural(stats.loops.length, "loop", "loops")}`, recent.busy > 0.9 ? "warn" : ""],
  ];
  if (requests.started) {
    facts.push(["Requests", rate(recent.requests_per_second), `per second · 99 % ${time(recent.request_p99)} · ${count(requests.failed)} failed`]);
  }
  pairs(at("numbers"), facts);
};
