/* Sessions */

const PAGE = 50;
/** A page may come short, as loops look at so many sessions at a time. */
const TURNS_MAX = 40;
const pager = { after: "", next: null, busy: false };

const phaseMood = (phase) => (phase === "held" ? "bad" : phase === "open" ? "good" : "warn");

const sessionsPath = (after, limit) => {
  const wanted = { search: at("search-text").value.trim(), server: at("search-server").value, state: at("search-state").value, after };
  const params = Object.entries(wanted).filter(([, value]) => value);
  return `/v1/sessions?${new URLSearchParams([...params, ["limit", limit]])}`;
};

const sessionRow = (session) => {
  const row = make("tr");
  const id = make("th");
  id.scope = "row";
  id.append(linkTo(session.id));
  const phase = make("span");
  phase.append(badge(session.state, phaseMood(session.state)));
  const cells = [
    ["State", phase], ["Client", session.client], ["Path", session.path], ["Server", session.server],
    ["Opened", clock(new Date(session.opened))], ["Failovers", count(session.failovers), "number"],
    ["Up / down", `${count(session.messages_up)} / ${count(session.messages_down)}`, "number"],
    ["Journal", bytes(session.journal_bytes), "number"],
  ];
  row.append(id, ...cells.map(([label, value, kind]) => {
    const cell = make("td", undefined, kind);
    cell.dataset.label = label;
    cell.append(value instanceof Node ? value : make("span", value));
    return cell;
  }));
  setMood(row, session.state === "held" ? "bad" : "");
  return row;
};

const loadSessions = async () => {
  if (pager.busy) return;
  pager.busy = true;
  try {
    let rows = [];
    let next = pager.after;
    for (let turn = 0; turn < TURNS_MAX && next !== null && rows.length < PAGE; turn += 1) {
      const page = await ask("GET", sessionsPath(next, PAGE - rows.length));
      rows = rows.concat(page.sessions);
      next = page.next;
    }
    pager.next = next;
    at("sessions").tBodies[0].replaceChildren(...rows.map(sessionRow));
    const more = next === null ? "" : rows.length ? "; there may be more" : "; not all have been looked at yet: go on with the next page";
    at("sessions-note").textContent = `${plural(rows.length, "session", "sessions")} on this page${more}.`;
    at("next-page").disabled = next === null;
    at("first-page").disabled = !pager.after;
  } catch (error) {
    if (error.status === 401) wantToken();
    at("sessions-note").textContent = `The sessions can't be listed: ${error.message}`;
  } finally {
    pager.busy = false;
  }
};

const turnTo = (after) => {
  pager.after = after;
  loadSessions();
};
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  turnTo("");
});
at("search-server").addEventListener("change", () => turnTo(""));
at("search-state").addEventListener("change", () => turnTo(""));
at("first-page").addEventListener("click", () => turnTo(""));
at("next-page").addEventListener("click", () => turnTo(pager.next));

/* One session */

const leg = (title, lines, mood) => {
  const node = make("div", undefined, "leg");
  node.append(make("h3", title), ...lines.map((line) => make("p", line)));
  setMood(node, mood);
  return node;
};

const drawSession = (session) => {
  at("session-title").textContent = session.id;
  at("session-note").textContent = session.state === "held" ? "Held: it has no server and waits for one. Its client notices nothing." : `It is ${session.state}.`;
  const { client, upstream } = session.legs;
  const held = session.state === "held";
  const place = upstream
    ? [`${upstream.server} · ${upstream.url}`, upstream.connected ? "connected" : "not connected"]
    : [held ? "no server" : "calls go to any server of the pool"];
  at("session-legs").replaceChildren(
    leg("Client leg", [client.address, client.connected ? "connected" : "gone: the rest of the journal is delivered"], client.connected ? "" : "bad"),
    leg("Journal", [`${plural(session.unconfirmed, "message", "messages")} not confirmed`, bytes(session.journal_bytes)], ""),
    leg("Upstream leg", place, held ? "bad" : ""),
  );
  pairs(at("session-facts"), [
    ["State", session.state], ["Pool", session.pool || "–"], ["Path", session.path],
    ["Opened", new Date(session.opened).toLocaleString("en-GB")], ["Age", time(session.age_seconds)],
    ["Without a server for", time(session.waiting_seconds)], ["Failovers", count(session.failovers)],
    ["Messages up", count(session.messages_up)], ["of these confirmed", count(session.confirmed)],
    ["Messages down", count(session.messages_down)],
  ]);
};

const sessionId = () => decodeURIComponent((/^#session\/(.+)$/.exec(location.hash) || ["", ""])[1]);

const loadSession = async () => {
  const id = sessionId();
  try {
    const session = await ask("GET", `/v1/sessions/${encodeURIComponent(id)}`);
    if (id === sessionId()) drawSession(session);
    at("session-tools").hidden = false;
  } catch (error) {
    if (error.status === 401) wantToken();
    at("session-title").textContent = id;
    at("session-note").textContent = error.status === 404 ? "No such session: it is over, or never was." : error.message;
    at("session-tools").hidden = true;
  }
};

const sessionTools = () => {
  const path = () => `/v1/sessions/${encodeURIComponent(sessionId())}`;
  const move = button("Fail over…", "this session", async () => {
    const text = "It moves to another server; what this one has not confirmed is sent again.";
    if (await isMeant("Fail over this session?", text, "Fail over")) act("Fail over", "POST", `${path()}/failover`);
  });
  const abort = button("Abort…", "this session", async () => {
    const text = "Its client is disconnected, and what is in its journal is lost.";
    if (await isMeant("Abort this session?", text, "Abort")) act("Abort", "DELETE", path());
  });
  abort.className = "harsh";
  at("session-tools").append(move, abort);
};
