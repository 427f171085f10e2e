/* Servers: rows stay while their numbers change, so that the focus does */

const rowsById = new Map();

/** A button with what it is about in its spoken name. */
const button = (text, of, press) => {
  const node = make("button", text);
  node.type = "button";
  node.setAttribute("aria-label", `${text} ${of}`);
  node.addEventListener("click", () => {
    if (node.getAttribute("aria-disabled") !== "true") press();
  });
  return node;
};

/** What can be asked of one server. */
const serverOf = (id) => {
  const path = `/v1/servers/${encodeURIComponent(id)}`;
  const current = () => state.servers.find((server) => server.id === id);
  const isLast = () => {
    const { pool } = current();
    return isUsable(current()) && state.servers.filter((one) => one.pool === pool && isUsable(one)).length === 1;
  };
  return {
    id,
    current,
    isLast,
    sessions: (move) => plural(current().sessions, `session ${move}s`, `sessions ${move}`),
    warning: () => (isLast() ? ` It is the last usable server of pool ${current().pool}: its sessions are held until there is another one, then closed.` : ""),
    change: (what, fields) => act(`${what} ${id}`, "PATCH", path, fields),
    failOver: () => act(`Fail over ${id}`, "POST", `${path}/failover`),
    reset: () => act(`Reset breaker ${id}`, "POST", `${path}/reset`),
  };
};

const nameCell = ({ id }) => {
  const cell = make("th");
  cell.scope = "row";
  const place = make("small");
  cell.append(make("span", id), place);
  return { cell, update: (server) => setText(place, `${server.pool} · ${server.url}`) };
};

const conditionCell = () => {
  const cell = make("td");
  cell.dataset.label = "Condition";
  const box = make("span");
  cell.append(box);
  const update = (server) => {
    const found = conditions(server);
    const text = found.map(([what]) => what).join(" ");
    if (box.dataset.text === text) return;
    box.dataset.text = text;
    box.replaceChildren(...found.map(([what, mood]) => badge(what, mood)));
  };
  return { cell, update };
};

const numberCell = (label, of) => {
  const cell = make("td", undefined, "number");
  cell.dataset.label = label;
  const text = make("span");
  cell.append(text);
  return { cell, update: (server) => setText(text, count(of(server))) };
};

const weightCell = ({ id, current, change }) => {
  const cell = make("td", undefined, "number");
  cell.dataset.label = "Weight";
  const form = make("form");
  const input = make("input", undefined, "weight");
  Object.assign(input, { type: "number", min: 0, max: 65535, required: true });
  input.setAttribute("aria-label", `Weight of ${id}`);
  const set = make("button", "Set");
  set.setAttribute("aria-label", `Set the weight of ${id}`);
  set.hidden = true;
  input.addEventListener("input", () => (set.hidden = input.value === String(current().weight)));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!(await change("Weight of", { weight: Number(input.value) }))) return;
    input.focus();
    set.hidden = true;
  });
  form.append(input, set);
  cell.append(form);
  const update = (server) => {
    // Nobody's typing is overwritten.
    if (set.hidden && document.activeElement !== input) input.value = server.weight;
  };
  return { cell, update };
};

const actionsCell = ({ id, current, isLast, sessions, warning, change, failOver, reset }) => {
  const toggle = button("Disable", id, async () => {
    if (current().state !== "enabled") return change("Enable", { state: "enabled" });
    const text = `New sessions go elsewhere; those it has stay.${warning()}`;
    if (!isLast() || (await isMeant(`Disable ${id}?`, text, "Disable"))) change("Disable", { state: "disabled" });
  });
  const drain = button("Drain…", id, async () => {
    const text = `Its ${sessions("move")} to other servers, and no new ones come until you enable it.${warning()}`;
    if (await isMeant(`Drain ${id}?`, text, "Drain")) change("Drain", { state: "draining" });
  });
  const move = button("Fail over…", id, async () => {
    const text = `Its ${sessions("move")} now, and what it has not confirmed is sent again. It keeps taking new ones.${warning()}`;
    if (await isMeant(`Fail over ${id}?`, text, "Fail over")) failOver();
  });
  const close = button("Reset breaker", id, reset);
  drain.classList.add("harsh");
  move.classList.add("harsh");
  const tools = make("div", undefined, "tools");
  tools.append(toggle, drain, move, close);
  const cell = make("td", undefined, "wide");
  cell.append(tools);
  const update = (server) => {
    const word = server.state === "enabled" ? "Disable" : "Enable";
    setText(toggle, word);
    toggle.setAttribute("aria-label", `${word} ${id}`);
    drain.setAttribute("aria-disabled", String(server.state === "draining"));
    const closed = server.breaker === "closed";
    if (closed && document.activeElement === close) toggle.focus();
    close.hidden = closed;
  };
  return { cell, update };
};

const serverRow = (id) => {
  const server = serverOf(id);
  const cells = [
    nameCell(server),
    conditionCell(),
    numberCell("Sessions", (server) => server.sessions),
    numberCell("Failures", (server) => server.failures_total),
    weightCell(server),
    actionsCell(server),
  ];
  const row = make("tr");
  row.append(...cells.map(({ cell }) => cell));
  const update = (server) => {
    setMood(row, moodOf(server));
    cells.forEach((cell) => cell.update(server));
  };
  return { row, update };
};

const drawServers = () => {
  const body = at("servers").tBodies[0];
  const ids = new Set(state.servers.map((server) => server.id));
  for (const [id, { row }] of rowsById) {
    if (ids.has(id)) continue;
    row.remove();
    rowsById.delete(id);
  }
  for (const server of state.servers) {
    if (!rowsById.has(server.id)) {
      rowsById.set(server.id, serverRow(server.id));
      body.append(rowsById.get(server.id).row);
    }
    rowsById.get(server.id).update(server);
  }
  sortServers(body);
};

/** Many servers don't fit on a screen: those with trouble stand first, unless somebody is at it. */
const sortServers = (body) => {
  if (state.servers.length <= FEW || body.contains(document.activeElement)) return;
  const rank = { bad: 0, warn: 1, good: 2 };
  const order = [...state.servers].sort((a, b) => rank[moodOf(a)] - rank[moodOf(b)]);
  order.forEach((server, index) => {
    const { row } = rowsById.get(server.id);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index]);
  });
};

/** Servers that one looks over without a search. */
const FEW = 10;

/** The servers that sessions can be searched by. */
const drawChoices = () => {
  const ids = state.servers.map((server) => server.id);
  const select = at("search-server");
  if ([...select.options].slice(1).map((option) => option.value).join("\n") === ids.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...ids.map((id) => new Option(id, id)));
  select.value = ids.includes(chosen) ? chosen : "";
};
