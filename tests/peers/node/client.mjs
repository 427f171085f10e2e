// A client on Node's `ws`: the twin of ../client.py, which says what it sends and prints.
import { parseArgs } from "node:util";
import WebSocket from "ws";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: "string", default: "60" },
    every: { type: "string", default: "20" },
    deflate: { type: "boolean", default: false },
    subprotocol: { type: "string", default: "" },
  },
});
const count = Number(options.count);
const body = (number) => `${number} ` + ["a", "é", "€", "𝄞"][number % 4].repeat((number * 37) % 1400);

const subprotocols = options.subprotocol ? options.subprotocol.split(",") : [];
const ws = new WebSocket(positionals[0], subprotocols, {
  perMessageDeflate: options.deflate ? { threshold: 0 } : false,
});
const seen = new Set();
const result = { wrong: 0, repeats: 0, closed: null, servers: [] };
let sent = 0;

ws.on("open", () => {
  const timer = setInterval(() => {
    if (sent === count || ws.readyState !== ws.OPEN) return clearInterval(timer);
    const text = body(sent);
    ws.send(sent % 2 ? text : Buffer.from(text));
    sent += 1;
  }, Number(options.every));
});
ws.on("message", (data, binary) => {
  const [conn, , ...words] = data.toString().split(" ");
  const rest = words.join(" ");
  const number = Number.parseInt(rest, 10);
  if (!result.servers.includes(conn)) result.servers.push(conn);
  if (rest !== body(number) || binary === Boolean(number % 2)) result.wrong += 1;
  const repeat = seen.has(number);
  if (repeat) result.repeats += 1;
  seen.add(number);
  // Once: an echo may come twice across a failover.
  if (!repeat && seen.size === count / 2) console.log("half");
  if (seen.size === count) finish();
});
ws.on("error", (error) => console.error(String(error)));
ws.on("close", (code) => {
  result.closed = code;
  finish();
});
// As long as the longest outage that a test makes, and some more.
setTimeout(finish, 40_000).unref();

function finish() {
  const missing = [...Array(count).keys()].filter((number) => !seen.has(number));
  const rest = { missing, sub: ws.protocol || null, ext: ws.extensions || null };
  console.log(JSON.stringify({ ...result, ...rest }));
  process.exit(0);
}
