/* Charts */

const WIDE = 600;
const HIGH = 112;
const FOOT = 14;

const draft = (tag, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
};

const CHARTS = [
  {
    title: "Messages per second",
    lines: [["up", "up", (row) => row.up_per_second], ["down", "down", (row) => row.down_per_second]],
    words: rate,
    least: 10,
  },
  {
    title: "Sessions held, and failovers",
    bars: [["held", "held at the moment", (row) => row.held], ["bad", "failovers in the second", (row) => row.failovers]],
    words: count,
    least: 4,
  },
  {
    title: "Relay latency",
    lines: [["up", "median", (row) => row.relay_p50], ["down", "99 %", (row) => row.relay_p99]],
    words: time,
    least: 1e-3,
  },
  {
    title: "Request latency",
    lines: [["up", "median", (row) => row.request_p50], ["down", "99 %", (row) => row.request_p99]],
    words: time,
    least: 1e-2,
    wanted: (rows) => rows.some((row) => row.request_p50 !== null),
  },
  {
    title: "Memory of journals and queues",
    lines: [["up", "in use", (row) => row.buffer_bytes]],
    words: bytes,
    bound: () => state.stats.memory_limit_bytes,
  },
  {
    title: "Busiest loop",
    lines: [["up", "of its time", (row) => row.busy]],
    words: percent,
    bound: () => 1,
    note: () => state.stats.recent.loops_busy.map((share, index) => `loop ${index}: ${percent(share)}`).join(", "),
  },
];

/** The next round number above. */
const ceiling = (value) => {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
};

const figureOf = (chart) => {
  if (chart.figure) return chart.figure;
  chart.figure = make("figure");
  const caption = make("figcaption");
  caption.append(make("h3", chart.title));
  chart.figures = seriesOf(chart).map(([kind, name]) => {
    const key = make("span");
    const value = make("b");
    key.append(make("i", undefined, kind), `${name} `, value);
    caption.append(key);
    return value;
  });
  chart.aside = make("span");
  caption.append(chart.aside);
  chart.svg = draft("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img" });
  chart.figure.append(caption, chart.svg);
  at("charts").append(chart.figure);
  return chart.figure;
};

const seriesOf = (chart) => [...(chart.lines || []), ...(chart.bars || [])];

/** Where a moment and a value lie in a chart's picture. */
const scaleOf = (chart, rows, from, until) => {
  const values = seriesOf(chart).flatMap(([, , of]) => rows.map(of)).filter((value) => value !== null);
  const top = chart.bound ? chart.bound() : ceiling(Math.max(chart.least, ...values));
  const wide = chart.svg.clientWidth || WIDE;
  const high = HIGH - FOOT;
  const x = (ms) => ((ms - from) / (until - from)) * wide;
  const y = (value) => high - (Math.min(value, top) / top) * (high - 4);
  return { top, wide, high, x, y };
};

const axes = (chart, { top, wide, y }, from, until) => [
  ...[0, 0.5, 1].map((part) => draft("line", { class: "grid", x1: 0, x2: wide, y1: y(top * part), y2: y(top * part) })),
  ...(chart.bound ? [draft("line", { class: "bound", x1: 0, x2: wide, y1: y(top), y2: y(top) })] : []),
  draft("text", { x: 2, y: 16 }, chart.words(top)),
  draft("text", { x: 2, y: HIGH - 2 }, clock(new Date(from))),
  draft("text", { x: wide - 2, y: HIGH - 2, "text-anchor": "end" }, clock(new Date(until))),
];

const bar = (kind, row, { high, x }, top) => {
  const width = Math.max(2, x(row.time) - x(row.time - row.seconds * 1000));
  return draft("rect", { class: kind, x: x(row.time) - width, y: top, width, height: high - top });
};

const drawChart = (chart, rows, from, until) => {
  const figure = figureOf(chart);
  figure.hidden = Boolean(chart.wanted && !chart.wanted(rows));
  if (figure.hidden) return;
  const scale = scaleOf(chart, rows, from, until);
  const { x, y } = scale;
  chart.svg.setAttribute("viewBox", `0 0 ${scale.wide} ${HIGH}`);
  chart.svg.replaceChildren(
    // Outages stand behind every chart: what else changed then is seen at once.
    ...rows.filter((row) => row.held).map((row) => bar("outage", row, scale, 0)),
    ...axes(chart, scale, from, until),
    ...(chart.bars || []).flatMap(([kind, , of]) => rows.filter(of).map((row) => bar(kind, row, scale, y(of(row))))),
    ...(chart.lines || []).flatMap(([kind, , of]) => strokes(kind, rows, of, x, y)),
  );
  say(chart, rows);
};

/** The same in words. */
const say = (chart, rows) => {
  const latest = rows.at(-1);
  const spoken = seriesOf(chart).map(([, name, of], index) => {
    const now = chart.words(of(latest));
    setText(chart.figures[index], now);
    return `${name} now ${now}, at most ${chart.words(Math.max(0, ...rows.map(of)))}`;
  });
  setText(chart.aside, chart.note ? chart.note() : "");
  chart.svg.setAttribute("aria-label", `${chart.title}: ${spoken.join("; ")}`);
};

/** A line for each stretch without a gap: a second in which nothing was measured, or none came. */
const strokes = (kind, rows, of, x, y) => {
  const stretches = [[]];
  let last = 0;
  for (const row of rows) {
    if (of(row) === null || row.time - last > 3000) stretches.push([]);
    if (of(row) !== null) stretches.at(-1).push(`${x(row.time).toFixed(1)},${y(of(row)).toFixed(1)}`);
    last = row.time;
  }
  return stretches
    .filter((points) => points.length)
    .map((points) => (points.length === 1 ? [points[0], points[0].replace(/^[^,]+/, (left) => Number(left) + 1.5)] : points))
    .map((points) => draft("polyline", { class: kind, points: points.join(" ") }));
};

const drawCharts = () => {
  if (!state.stats || !state.rows.length) return;
  const span = Number(at("window").value) * 1000;
  const until = state.rows.at(-1).time;
  const rows = state.rows.filter((row) => row.time > until - span);
  CHARTS.forEach((chart) => drawChart(chart, rows, until - span, until));
};

at("window").addEventListener("change", drawCharts);
