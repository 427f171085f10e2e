// The conforming echo server behind which Autobahn's cases run: npm ws, and nothing recorded.
// Usage: echo.mjs [--deflate]. It prints its port and lives until its stdin ends.
import { WebSocketServer } from "ws";

// 0 lifts ws's caps on fragments and buffered chunks: with its defaults cases 9.3 and 9.4 fail.
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  perMessageDeflate: process.argv.includes("--deflate"),
  maxPayload: 0,
  maxFragments: 0,
  maxBufferedChunks: 0,
});
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => {
  // Breaking the protocol is what the cases do: ws closes with the right code by itself.
  socket.on("error", () => {});
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});
process.stdin.on("end", () => process.exit(0)).resume();
