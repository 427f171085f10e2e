/* News */

const GROUP = 2500;
/** What all loops tell in a second at most; counters are exact. */
const TOLD_MAX = 100;

/** Events of one kind about one server that came together are one line. */
const groups = () => {
  const found = [];
  for (const one of state.news) {
    const key = one.name === "server" ? `${one.server} ${one.change} ${one.to}` : `${one.name} ${one.server} ${one.reason || ""}`;
    const group = found.findLast((group) => one.ms - group.until > GROUP || group.key === key);
    if (group && group.key === key && one.ms - group.until <= GROUP) {
      group.all.push(one);
      group.until = one.ms;
    } else {
      found.push({ key, until: one.ms, all: [one] });
    }
  }
  return found.slice(-60).reverse();
};

const several = (group) => {
  const share = TOLD_MAX / (state.stats?.loops.length || 1);
  return `${group.length < share ? "" : "at least "}${plural(group.length, "session", "sessions")}`;
};

const capital = (text) => text[0].toUpperCase() + text.slice(1);

const REASONS = {
  fin: "its connections ended",
  reset: "connections reset",
  protocol: "it broke the protocol",
  close: "it closed with an abnormal code",
  silent: "it no longer answers pings",
  refused: "connections refused",
  timeout: "timed out",
  exhausted: "no port or descriptor was left",
  hold: "no server in time",
};

const SAYINGS = {
  held(group) {
    const { server, reason } = group[0];
    if (PLANNED.has(reason)) return ["warn", `${capital(several(group))} moved away from ${server}.`];
    return ["bad", `${server || "A server"} lost (${REASONS[reason] || reason}): ${several(group)} held.`];
  },
  resumed(group) {
    const times = group.map((one) => one.held_seconds);
    const again = group.reduce((sum, one) => sum + one.replayed, 0);
    // The proxy's clock has whole milliseconds.
    const within = `within ${time(Math.max(0.001, ...times))}`;
    return ["good", `${capital(several(group))} resumed at ${group[0].server} ${within}; ${plural(again, "message", "messages")} sent again.`];
  },
  ended(group) {
    const lost = group.reduce((sum, one) => sum + one.unconfirmed, 0);
    return ["bad", `${capital(several(group))} ended (${REASONS[group[0].reason] || group[0].reason}), ${plural(lost, "message", "messages")} unconfirmed.`];
  },
  server([{ server, change, to }]) {
    const bad = to === "open" || to === false;
    const good = to === "closed" || to === true || to === "enabled";
    const said = { healthy: to ? " is healthy" : " is unhealthy", joined: " has come", state: ` is ${to}` }[change] || `: ${change} ${to}`;
    return [bad ? "bad" : good ? "good" : "warn", `Server ${server}${said}.`];
  },
};

const drawNews = () => {
  if (state.newsDrawn === state.news.at(-1)) return;
  state.newsDrawn = state.news.at(-1);
  const lines = groups().map(({ all }) => {
    const [mood, text] = (SAYINGS[all[0].name] || (() => ["", all[0].name]))(all);
    const line = make("li");
    const when = make("time", clock(new Date(all[0].ms)));
    when.dateTime = all[0].time;
    when.title = all[0].time;
    const said = make("span", text);
    if (all.length === 1 && all[0].session) said.append(" ", linkTo(all[0].session));
    line.append(when, said);
    setMood(line, mood);
    return line;
  });
  at("news").replaceChildren(...lines);
  at("no-news").hidden = lines.length > 0;
};
