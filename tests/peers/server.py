"""A recording WebSocket server on the Python library `websockets`.

It appends each message to its log with one write(2) before it acts on it or answers a later Ping,
so that the log survives kill -9 and says truly what this server had confirmed. `server.mjs` is its twin on Node's `ws`: same options,
same commands, same log.

Log, one record each: a line of JSON; a "msg" record is followed by its `len` bytes and a newline.
  {"t":"dial", "at":ns, "path", "headers":[[name, value], ...]}      a request came, taken or not
  {"t":"conn", "at":ns, "conn":id, "headers", "path", "sub", "ext"}  it was answered with 101
  {"t":"msg",  "conn":id, "op":1|2, "len":n} + bytes                 a message was read
  {"t":"sent", "conn":id, "k":k}                                     message k is about to be sent
  {"t":"end",  "conn":id, "how", "k":k}                              we end it; k messages were sent
  {"t":"closed", "conn":id, "code", "reason"}                        it is over; the peer's Close

An echo is `<conn> <k> ` and the message; a push is `<conn> <k> push <len> ` and the pattern.

Commands on stdin, a line each; one JSON line on stdout answers when it is done:
  close CODE [REASON] | rst | fin | mute | unmute | refuse STATUS | accept | push COUNT SIZE
  half SIZE | handshake-delay MS | ack-upto N | delay MS | count
The end of stdin ends the server.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import time

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.datastructures import Headers

DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
PATTERN = b"0123456789abcdefghijklmnopqrstuvwxyz"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", required=True)
    parser.add_argument("--name", default="py")
    parser.add_argument("--echo", choices=["named", "plain", "off"], default="named")
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--subprotocol", default="", help="those it speaks, by comma")
    parser.add_argument("--processed", action="store_true")
    parser.add_argument("--ack-upto", type=int, default=1 << 62)
    parser.add_argument("--delay", type=float, default=0, help="ms before a message is acted on")
    parser.add_argument("--handshake-delay", type=float, default=0, help="ms before the 101")
    parser.add_argument("--refuse", type=int, default=0, help="status for every upgrade")
    parser.add_argument("--cert", help="PEM: then it speaks TLS")
    parser.add_argument("--key", help="PEM")
    parser.add_argument("--header", action="append", default=[], help="NAME=VALUE on the 101")
    return parser.parse_args()


class Log:
    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record, payload=None):
        line = json.dumps(record).encode() + b"\n"
        if payload is not None:
            line += payload + b"\n"
        # One call: a reader, or a death in the next instruction, sees all of it or nothing.
        os.write(self.fd, line)


class Connection:
    """One client connection and the count of what it was sent."""

    def __init__(self, socket, id_, next_):
        self.ws = socket
        self.id = id_
        self.first = next_
        self.received = 0
        self.sent = 0
        self.ending = False
        self.opcode = 0
        self.parts = []
        # A push and an echo must not swap places between taking their number and being written.
        self.sending = asyncio.Lock()

    @property
    def tcp(self):
        return self.ws.transport.get_extra_info("socket")


class Server:
    def __init__(self, options):
        self.options = options
        self.log = Log(options.log)
        self.live = {}
        self.born = 0
        self.messages = 0

    async def on_request(self, _connection, request):
        self.log.write({
            "t": "dial", "at": time.monotonic_ns(), "path": request.path,
            "headers": list(request.headers.raw_items()),
        })
        if self.options.handshake_delay:
            await asyncio.sleep(self.options.handshake_delay / 1000)
        if self.options.refuse:
            body = b"refused by " + self.options.name.encode()
            headers = Headers({"Content-Length": str(len(body)), "Location": "/elsewhere"})
            return Response(self.options.refuse, "Refused", headers, body)
        return None

    async def on_response(self, ws, request, response):
        if response.status_code != 101:
            return response
        if self.options.processed:
            response.headers["X-Wsteady-Confirm"] = "processed"
        for pair in self.options.header:
            name, _, value = pair.partition("=")
            response.headers[name] = value
        self.adopt(ws, request, response)
        return response

    def adopt(self, ws, request, response):
        """Before the 101 leaves, so that no message can come ahead of this record."""
        self.born += 1
        name = f"{self.options.name}-{os.getpid()}-{self.born}"
        connection = Connection(ws, name, int(request.headers.get("X-Wsteady-Next", 0)))
        self.log.write({
            "t": "conn", "at": time.monotonic_ns(), "conn": name,
            "headers": list(request.headers.raw_items()), "path": request.path,
            "sub": response.headers.get("Sec-WebSocket-Protocol"),
            "ext": response.headers.get("Sec-WebSocket-Extensions"),
        })
        self.live[ws] = connection
        # The library answers a Ping before the application sees the messages ahead of it. Its
        # Pong confirms them, so they are logged here, where it cannot have left yet.
        parsed = ws.protocol.events_received

        def log_then_give():
            events = parsed()
            for event in events:
                if isinstance(event, Frame) and event.opcode in DATA:
                    self.log_frame(connection, event)
            return events

        ws.protocol.events_received = log_then_give

    def log_frame(self, connection, frame):
        if frame.opcode is not Opcode.CONT:
            connection.opcode = int(frame.opcode)
            connection.parts = []
        connection.parts.append(bytes(frame.data))
        if frame.fin:
            raw = b"".join(connection.parts)
            self.messages += 1
            self.log.write(
                {"t": "msg", "conn": connection.id, "op": connection.opcode, "len": len(raw)}, raw
            )

    def choose(self, _connection, offered):
        spoken = self.options.subprotocol.split(",")
        return next((one for one in offered if one in spoken), None)

    async def on_connection(self, ws):
        connection = self.live[ws]
        try:
            while True:
                await self.on_message(connection, await ws.recv())
        except (ConnectionClosed, RuntimeError, OSError):
            pass
        finally:
            del self.live[ws]
            got = ws.protocol.close_rcvd
            self.log.write({
                "t": "closed", "conn": connection.id,
                "code": got and got.code, "reason": got and got.reason,
            })

    async def on_message(self, connection, message):
        text = isinstance(message, str)
        connection.received += 1
        if self.options.delay:
            await asyncio.sleep(self.options.delay / 1000)
        if self.options.echo != "off":
            await self.send(connection, message.encode() if text else message, text)
        dealt_with = connection.first + connection.received
        if self.options.processed and dealt_with <= self.options.ack_upto:
            await connection.ws.pong(b"wsteady:%d" % dealt_with)

    async def send(self, connection, raw, text):
        async with connection.sending:
            if connection.ending:
                return
            number = connection.sent
            connection.sent += 1
            self.log.write({"t": "sent", "conn": connection.id, "k": number})
            if self.options.echo != "plain":
                raw = b"%s %d " % (connection.id.encode(), number) + raw
            await connection.ws.send(raw.decode() if text else raw)

    async def obey(self, line):
        verb, *words = line.split()
        every = list(self.live.values())
        if verb == "close":
            await asyncio.gather(*(self.end(one, "close") for one in every))
            reason = " ".join(words[1:])
            for one in every:
                asyncio.create_task(one.ws.close(int(words[0]), reason))
        elif verb == "rst":
            for one in every:
                # A linger of zero turns close() into a reset. It may be closed by now.
                with contextlib.suppress(OSError, AttributeError):
                    one.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.ws.transport.abort()
        elif verb == "fin":
            await asyncio.gather(*(self.end(one, "fin") for one in every))
            for one in every:
                # It may have been reset by now.
                with contextlib.suppress(OSError):
                    if self.options.cert:
                        # The last word of TLS; asyncio has no half-closed end behind it.
                        one.ws.transport.close()
                    else:
                        one.ws.transport.write_eof()
        elif verb in ("mute", "unmute"):
            for one in every:
                transport = one.ws.transport
                transport.pause_reading() if verb == "mute" else transport.resume_reading()
        elif verb in ("refuse", "accept"):
            self.options.refuse = int(words[0]) if words else 0
        elif verb == "push":
            for one in every:
                asyncio.create_task(self.push(one, int(words[0]), int(words[1])))
        elif verb == "half":
            for one in every:
                whole = Frame(Opcode.TEXT, b"h" * int(words[0])).serialize(mask=False)
                one.ws.transport.write(whole[: len(whole) // 2])
                one.ending = True
        elif verb in ("handshake-delay", "ack-upto", "delay"):
            setattr(self.options, verb.replace("-", "_"), int(words[0]))
        elif verb != "count":
            raise ValueError(f"unknown command {verb}")
        return {"did": verb, "live": len(self.live), "born": self.born, "messages": self.messages}

    async def end(self, connection, how):
        # Under the lock no echo is half way, so that the count in the record is exact.
        async with connection.sending:
            connection.ending = True
            # Whom the proxy has left, which we have not noticed yet, gets nothing any more.
            tcp = connection.tcp
            if tcp is None:
                return
            with contextlib.suppress(OSError):
                if tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
                    return
            self.log.write(
                {"t": "end", "conn": connection.id, "how": how, "k": connection.sent}
            )

    async def push(self, connection, count, size):
        body = b"push %d " % size + (PATTERN * (size // len(PATTERN) + 1))[:size]
        for _ in range(count):
            try:
                await self.send(connection, body, True)
            except ConnectionClosed:
                return


# tcp_info(7): the first byte, and what it is while neither side has ended.
ESTABLISHED = 1


async def main():
    options = arguments()
    server = Server(options)
    seal = None
    if options.cert:
        seal = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        seal.load_cert_chain(options.cert, options.key)
    async with serve(
        server.on_connection, options.host, options.port,
        process_request=server.on_request, process_response=server.on_response,
        select_subprotocol=server.choose, compression="deflate" if options.deflate else None,
        # No ping of its own and no queue limit: only what a test orders may stop the reading.
        ping_interval=None, max_size=None, max_queue=None, backlog=4096, ssl=seal,
    ) as listener:
        print(listener.sockets[0].getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            print(json.dumps(await server.obey(line.decode().strip())), flush=True)
        os._exit(0)


asyncio.run(main())
