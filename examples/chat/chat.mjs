// A chat as an HTTP API behind wsteady: node chat.mjs 8000
import http from "node:http";

const wsteady = process.env.WSTEADY ?? "http://127.0.0.1:8080";
const here = new Map(); // ClientId -> key of its last message

const push = (client, text) => new Promise((done) => {
  const headers = { "Content-Type": "text/plain; charset=utf-8" };
  const options = { method: "POST", headers, agent: false, timeout: 5000 };
  const call = http.request(`${wsteady}/${client}`, options, (answer) => answer.resume().on("end", done));
  call.on("timeout", () => call.destroy()).on("error", done).end(text);
});

http.createServer(async (request, response) => {
  const client = request.url.split("?")[0].slice(1);
  const body = Buffer.concat(await request.toArray()).toString();
  if (request.method === "POST") {
    const key = request.headers["idempotency-key"] ?? Symbol();
    if (here.get(client) !== key) { // otherwise it is a repeat
      const others = [...here.keys()].filter((one) => one !== client);
      // Waited for: the next message comes after this answer, so no push overtakes another.
      await Promise.all(others.map((other) => push(other, `${client}: ${body}`)));
      here.set(client, key);
    }
    return response.end();
  }
  request.method === "GET" ? here.set(client, "") : here.delete(client);
  response.end("ok");
}).listen(Number(process.argv[2]), "127.0.0.1");
