// A recording WebSocket server on Node's `ws`: the twin of ../server.py, where options, commands
// and the log's records are described. Both must behave alike; the tests take either.
import { createServer } from "node:http";
import { createServer as createSealed } from "node:https";
import { openSync, readFileSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";

const text = { type: "string" };
const flag = { type: "boolean", default: false };
const { values: options } = parseArgs({
  options: {
    host: { ...text, default: "127.0.0.1" },
    port: { ...text, default: "0" },
    log: text,
    name: { ...text, default: "node" },
    echo: { ...text, default: "named" },
    deflate: flag,
    subprotocol: { ...text, default: "" },
    processed: flag,
    "ack-upto": { ...text, default: String(2 ** 52) },
    delay: { ...text, default: "0" },
    "handshake-delay": { ...text, default: "0" },
    refuse: { ...text, default: "0" },
    cert: text,
    key: text,
    header: { ...text, multiple: true, default: [] },
  },
});
const PATTERN = "0123456789abcdefghijklmnopqrstuvwxyz";
const log = openSync(options.log, "a");
const live = new Map();
let born = 0;
let messages = 0;

// One write(2) per record: whoever reads the log, or dies next, sees all of it or nothing.
function record(entry, payload) {
  const line = Buffer.from(JSON.stringify(entry) + "\n");
  writeSync(log, payload ? Buffer.concat([line, payload, Buffer.from("\n")]) : line);
}

const now = () => Number(process.hrtime.bigint());
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function pairs(raw) {
  const headers = [];
  for (let i = 0; i < raw.length; i += 2) headers.push([raw[i], raw[i + 1]]);
  return headers;
}

const spoken = options.subprotocol.split(",");
const wss = new WebSocketServer({
  noServer: true,
  perMessageDeflate: options.deflate ? { threshold: 0 } : false,
  handleProtocols: (offered) => [...offered].find((one) => spoken.includes(one)) ?? false,
  maxPayload: 0,
  maxFragments: 0,
  maxBufferedChunks: 0,
});
wss.on("headers", (headers) => {
  if (options.processed) headers.push("X-Wsteady-Confirm: processed");
  for (const pair of options.header) headers.push(pair.replace("=", ": "));
});

const decline = (_request, response) => response.writeHead(426).end();
const http = options.cert
  ? createSealed({ cert: readFileSync(options.cert), key: readFileSync(options.key) }, decline)
  : createServer(decline);
http.on("upgrade", async (request, socket, head) => {
  const headers = pairs(request.rawHeaders);
  record({ t: "dial", at: now(), path: request.url, headers });
  socket.on("error", () => {});
  if (Number(options["handshake-delay"])) await wait(Number(options["handshake-delay"]));
  if (Number(options.refuse)) {
    const body = `refused by ${options.name}`;
    socket.end(
      `HTTP/1.1 ${options.refuse} Refused\r\nContent-Length: ${body.length}\r\n` +
        `Location: /elsewhere\r\nConnection: close\r\n\r\n${body}`,
    );
    return;
  }
  wss.handleUpgrade(request, socket, head, (ws) => adopt(ws, request, headers));
});

function adopt(ws, request, headers) {
  born += 1;
  const connection = {
    ws,
    id: `${options.name}-${process.pid}-${born}`,
    first: Number(request.headers["x-wsteady-next"] ?? 0),
    received: 0,
    sent: 0,
    ending: false,
  };
  record({
    t: "conn",
    at: now(),
    conn: connection.id,
    headers,
    path: request.url,
    sub: ws.protocol || null,
    ext: ws.extensions || null,
  });
  live.set(connection.id, connection);
  ws.on("error", () => {});
  ws.on("message", (data, binary) => take(connection, data, binary));
  ws.on("close", (code, reason) => {
    live.delete(connection.id);
    const given = code === 1006 ? null : code;
    record({ t: "closed", conn: connection.id, code: given, reason: reason.toString() });
  });
}

async function take(connection, data, binary) {
  record({ t: "msg", conn: connection.id, op: binary ? 2 : 1, len: data.length }, data);
  messages += 1;
  connection.received += 1;
  const dealtWith = connection.first + connection.received;
  if (Number(options.delay)) await wait(Number(options.delay));
  if (options.echo !== "off") send(connection, data, binary);
  if (options.processed && dealtWith <= Number(options["ack-upto"])) {
    connection.ws.pong(`wsteady:${dealtWith}`);
  }
}

function send(connection, data, binary) {
  if (connection.ending || connection.ws.readyState !== connection.ws.OPEN) return;
  const k = connection.sent++;
  record({ t: "sent", conn: connection.id, k });
  const named = Buffer.concat([Buffer.from(`${connection.id} ${k} `), data]);
  connection.ws.send(options.echo === "plain" ? data : named, { binary });
}

function end(connection, how) {
  connection.ending = true;
  record({ t: "end", conn: connection.id, how, k: connection.sent });
}

function firstHalf(size) {
  const head = Buffer.from([0x81, 127, 0, 0, 0, 0, 0, 0, 0, 0]);
  head.writeUInt32BE(size, 6);
  return Buffer.concat([head, Buffer.alloc(Math.floor(size / 2), "h")]);
}

const verbs = {
  close: (one, [code, ...reason]) => {
    end(one, "close");
    one.ws.close(Number(code), reason.join(" "));
  },
  // A sealed socket can't be reset, but the one below it can.
  rst: (one) => (one.ws._socket._parent ?? one.ws._socket).resetAndDestroy(),
  fin: (one) => {
    end(one, "fin");
    one.ws._socket.end();
  },
  mute: (one) => one.ws._socket.pause(),
  unmute: (one) => one.ws._socket.resume(),
  half: (one, [size]) => {
    one.ending = true;
    one.ws._socket.write(firstHalf(Number(size)));
  },
  push: (one, [count, size]) => {
    const filling = PATTERN.repeat(Math.ceil(size / PATTERN.length)).slice(0, size);
    const body = Buffer.from(`push ${size} ${filling}`);
    for (let i = 0; i < count; i += 1) send(one, body, false);
  },
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [verb, ...words] = line.split(" ");
    if (verb in verbs) for (const one of [...live.values()]) verbs[verb](one, words);
    else if (verb === "refuse") options.refuse = words[0];
    else if (verb === "accept") options.refuse = "0";
    else if (verb in options) options[verb] = words[0];
    else if (verb !== "count") throw new Error(`unknown command ${verb}`);
    console.log(JSON.stringify({ did: verb, live: live.size, born, messages }));
  })
  .on("close", () => process.exit(0));
http.listen(Number(options.port), options.host, 4096, () => console.log(http.address().port));
