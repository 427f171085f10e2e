"""N echoes, one after the other, over one connection through a proxy that is started here with one
loop and stopped at the end. Usage: echoes.py N COMMAND...; the environment's SIZE is a message's.
"""

import base64
import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

ACCEPT = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"


def exactly(sock, count):
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def head(sock):
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += exactly(sock, 1)
    return data


def frame(sock):
    first, length = exactly(sock, 2)
    masked, length = length & 0x80, length & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", exactly(sock, 2))
    elif length == 127:
        (length,) = struct.unpack(">Q", exactly(sock, 8))
    key = exactly(sock, 4) if masked else bytes(4)
    payload = exactly(sock, length)
    if any(key):
        repeated = (key * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(length)
    return first & 0x0F, payload


def encode(opcode, payload, masked):
    length, bit = len(payload), 0x80 if masked else 0
    # A mask of zeros masks nothing.
    key = bytes(4) if masked else b""
    if length < 126:
        return bytes([0x80 | opcode, bit | length]) + key + payload
    if length < 1 << 16:
        return struct.pack(">BBH", 0x80 | opcode, bit | 126, length) + key + payload
    return struct.pack(">BBQ", 0x80 | opcode, bit | 127, length) + key + payload


def serve(listener):
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = re.search(rb"(?i)sec-websocket-key: (\S+)", head(sock)).group(1)
    magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    sock.sendall(ACCEPT % base64.b64encode(hashlib.sha1(key + magic).digest()))
    try:
        while True:
            opcode, payload = frame(sock)
            sock.sendall(encode({9: 10}.get(opcode, opcode), payload, False))
    except (EOFError, OSError):
        pass


def main():
    count, command = int(sys.argv[1]), sys.argv[2:]
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    if os.path.basename(command[-1]) == "pass_valve":
        command += [url]
    else:
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--loops", "1", "--backend", url]
    proxy = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    port = None
    for line in proxy.stdout:
        found = re.search(r"listening.*127\.0\.0\.1:(\d+)", line)
        if found and "admin" not in line:
            port = int(found.group(1))
            break
    if port is None:
        sys.exit("the proxy has not started")
    threading.Thread(target=proxy.stdout.read, daemon=True).start()
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head(sock)
    message = encode(2, b"x" * int(os.environ.get("SIZE", "64")), True)
    for _ in range(count):
        sock.sendall(message)
        while frame(sock)[0] != 2:
            pass
    sock.close()
    if os.path.basename(command[-2]) == "pass_valve":
        proxy.stdin.close()
    else:
        proxy.send_signal(signal.SIGTERM)
    proxy.wait()


main()
