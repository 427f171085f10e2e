"""A chat as an HTTP API behind wsteady: python3 chat.py 8000"""
import os, sys, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WSTEADY = os.environ.get("WSTEADY", "http://127.0.0.1:8080")
here = {}  # ClientId -> key of its last message

class Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # wsteady keeps connections
    wbufsize = -1  # head and body leave as one packet

    def call(self):
        client = self.path.split("?")[0][1:]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.command == "POST":
            key = self.headers["Idempotency-Key"]
            if key is None or here.get(client) != key:  # otherwise it is a repeat
                for other in [one for one in list(here) if one != client]:
                    push(other, client.encode() + b": " + body)
                here[client] = key
        elif self.command == "GET":
            here[client] = None
        else:
            here.pop(client, None)
        answer = b"" if self.command == "POST" else b"ok"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = call

def push(client, text):
    kind = {"Content-Type": "text/plain; charset=utf-8"}
    try:
        urllib.request.urlopen(urllib.request.Request(f"{WSTEADY}/{client}", text, kind), timeout=5).close()
    except OSError as why:  # it has left, say
        print(f"no push to {client}: {why}", file=sys.stderr)

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Chat).serve_forever()
