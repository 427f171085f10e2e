"""Runs Autobahn's fuzzing client against one echo server, directly and through wsteady.

The direct run is the yardstick: a case fails here only if it passes without wsteady and not with
it. Cases that the echo server itself fails say nothing about a proxy and are only counted.

Usage: run.py [--all] [--binary FILE] [--cache DIR] [--out DIR] [--direct-only]
Exit: 0 all well, 1 a case was lost or something could not run.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORE = [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10)]

# Compression takes 216 cases and ten minutes. These 24 see each window setting (12.1 to 12.5,
# 13.1 to 13.7) with a small message, a large one and one that is sent in fragments.
DEFLATE_SOME = [
    "12.1.1", "12.1.9", "12.1.14", "12.2.2", "12.2.11", "12.3.3", "12.3.12", "12.4.4",
    "12.4.13", "12.5.5", "12.5.13", "13.1.1", "13.1.9", "13.2.2", "13.2.11", "13.3.3",
    "13.3.12", "13.4.4", "13.4.14", "13.5.5", "13.5.13", "13.6.6", "13.7.7", "13.7.13",
]
DEFLATE_ALL = ["12.*", "13.*"]

# What Autobahn calls a verdict that a conforming peer may get.
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
STALL_SECONDS = 1800


def main():
    options = arguments()
    out = pathlib.Path(options.out or tempfile.mkdtemp(prefix="wsteady-autobahn-"))
    out.mkdir(parents=True, exist_ok=True)
    with EchoServer() as echo:
        servers = [{"agent": "direct", "url": f"ws://127.0.0.1:{echo.port}"}]
        if options.direct_only:
            return judge(run_cases(options, out, servers))
        with Proxy(options.binary, echo.port, out) as proxy:
            servers.append({"agent": "wsteady", "url": f"ws://127.0.0.1:{proxy.port}"})
            verdicts = run_cases(options, out, servers)
            proxy.must_be_alive()
    return judge(verdicts)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="all 517 cases, some 20 minutes")
    parser.add_argument("--binary", default=ROOT / "target/debug/wsteady")
    parser.add_argument("--cache", default=default_cache())
    parser.add_argument("--out", help="where the reports and logs go; a new directory if not given")
    parser.add_argument("--direct-only", action="store_true", help="try the rig without wsteady")
    return parser.parse_args()


def default_cache():
    home = os.path.expanduser("~/.cache/wsteady-tests")
    return pathlib.Path(os.environ.get("WSTEADY_TEST_CACHE", home))


class EchoServer:
    """npm ws as a process; it ends when its stdin does."""

    def __enter__(self):
        script = ROOT / "tests/peers/node/echo.mjs"
        self.process = subprocess.Popen(
            ["node", script, "--deflate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)


class Proxy:
    """wsteady in front of the echo server, with its default limits."""

    def __init__(self, binary, echo_port, out):
        self.port, self.admin = free_ports(2)
        config = {
            "listen": [{"address": f"127.0.0.1:{self.port}"}],
            "admin": {"address": f"127.0.0.1:{self.admin}"},
            "loops": 1,
            "pools": {
                "echo": {
                    "kind": "websocket",
                    "servers": [{"url": f"ws://127.0.0.1:{echo_port}"}],
                }
            },
        }
        path = out / "wsteady.yaml"
        path.write_text(json.dumps(config, indent=1))
        self.log = out / "wsteady.log"
        self.command = [binary, "run", "--config", path]

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=2)
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        sys.exit(f"wsteady is not ready; its log: {self.log}")

    def must_be_alive(self):
        if self.process.poll() is not None or b"panicked" in self.log.read_bytes():
            sys.exit(f"wsteady died or panicked; its log: {self.log}")

    def __exit__(self, *_):
        # INT stops at once; a proxy that doesn't is the shutdown tests' concern, not this one's.
        self.process.send_signal(2)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def free_ports(count):
    """Ports that were free a moment ago, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_cases(options, out, servers):
    """Runs wstest over all servers, each by a process of its own: it uses one core, and most of the
    time. Gives {agent: {case: verdict}}."""
    cases = CORE + (DEFLATE_ALL if options.all else DEFLATE_SOME)
    found = list(pathlib.Path(options.cache).glob("autobahn-*/bin/wstest"))
    if not found:
        sys.exit("no Autobahn here; scripts/setup-tests installs it")
    started = time.monotonic()
    deadline = started + STALL_SECONDS * (2 if options.all else 1)
    runs = [Cases(found[0], out, server, cases) for server in servers]
    try:
        verdicts = {run.agent: run.verdicts(deadline) for run in runs}
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
    print(f"conformance: {time.monotonic() - started:.0f} s; reports in {out}")
    return verdicts


class Cases:
    """A fuzzing client at one server."""

    def __init__(self, wstest, out, server, cases):
        self.agent = server["agent"]
        self.reports = out / f"reports-{self.agent}"
        self.log = out / f"wstest-{self.agent}.log"
        spec = out / f"spec-{self.agent}.json"
        spec.write_text(
            json.dumps(
                {
                    "outdir": str(self.reports),
                    "servers": [server],
                    "cases": cases,
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [wstest, "-m", "fuzzingclient", "-s", spec],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def verdicts(self, deadline):
        """Waits for the end, and gives {case: verdict}."""
        try:
            status = self.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            sys.exit(f"wstest hangs at {self.agent}; its log: {self.log}")
        if status != 0:
            sys.exit(f"wstest failed at {self.agent}; its log: {self.log}")
        [rows] = json.loads((self.reports / "index.json").read_text()).values()
        return {case: (row["behavior"], row["behaviorClose"]) for case, row in rows.items()}


def judge(verdicts):
    """Prints one line per agent and every lost case; gives the exit code."""
    direct = verdicts["direct"]
    for agent, rows in verdicts.items():
        bad = [case for case, verdict in rows.items() if not passes(verdict)]
        print(f"conformance: {agent}: {len(rows) - len(bad)} of {len(rows)} cases pass", *by_number(bad))
    through = verdicts.get("wsteady")
    if through is None:
        return 0
    # A case that never ran would otherwise pass for silence.
    lost = [case for case in direct if passes(direct[case]) and not passes(through.get(case))]
    for case in by_number(lost):
        print(f"conformance: LOST {case}: {through.get(case)} where the server alone gets {direct[case]}")
    print(f"conformance: {len(lost)} cases fail that pass without wsteady")
    return 1 if lost or not direct else 0


def passes(verdict):
    return verdict is not None and all(part in GOOD for part in verdict)


def by_number(cases):
    return sorted(cases, key=lambda case: [int(part) for part in re.split(r"\.", case)])


if __name__ == "__main__":
    sys.exit(main())
