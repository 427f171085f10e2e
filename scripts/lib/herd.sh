# What the scripts share that put many clients, the proxy and its servers on one machine; sourced by them.

source scripts/lib/awake.sh
say() { printf '%s\n' "$*" >&2; }
# Of all cores since the start, in ticks: what a hypervisor gave to others, and all.
ticks() { awk '/^cpu / { for (n = 2; n <= 9; n++) all += $n; print $9 + 0, all }' /proc/stat; }
stolen() { echo "$1 $(ticks)" | awk '{ printf "%.1f %%", ($3 - $1) * 100 / ($4 - $2) }'; }
at_start=$(ticks)
work=$(mktemp -d)
started=() keepers=() undo=()
cleanup() {
  local pid setting
  for pid in "${keepers[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rmdir /sys/fs/cgroup/{,cpu/}wsteady-aside 2>/dev/null || true
  for setting in "${undo[@]}"; do sysctl -qw "$setting" || say "undo by hand: sysctl -w '$setting'"; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# A kernel setting that must be at least so much: raised for the run and set back behind it.
at_least() {
  local name=$1 wanted=$2 now
  now=$(sysctl -n "$name" 2>/dev/null) || return 0
  [ "$now" -lt "$wanted" ] || return 0
  if [ $set_limits = yes ] && sysctl -qw "$name=$wanted" 2>/dev/null; then
    undo+=("$name=$now")
    say "$name: $now -> $wanted for this run; undone at its end (by hand: sysctl -w $name=$now)"
  else
    say "$name: $now is less than $wanted; sysctl -w $name=$wanted"
  fi
}

# As many descriptors as there may be; `descriptors` says how many those are.
raise_descriptors() {
  ulimit -n "$(ulimit -Hn)"
  descriptors=$(ulimit -n)
  [ "$descriptors" != unlimited ] && [ "$descriptors" -lt 1000000 ] || descriptors=1000000
  # A fifth is left free: the kernel deals clients out to loops by chance, and a loop has descriptors of its own.
  room=$((descriptors * 4 / 5))
}

# The kernel's limits for so many sockets of the proxy.
raise_limits() {
  local sockets=$1
  at_least net.core.somaxconn 65535
  at_least net.ipv4.tcp_max_syn_backlog 65535
  at_least net.core.netdev_max_backlog 16384
  at_least fs.file-max $((2 * sockets + 100000))
  at_least fs.epoll.max_user_watches $((2 * sockets + 100000))
  at_least net.netfilter.nf_conntrack_max $((sockets * 5 / 4))
}

# Ports that one address has to one other: the kernel looks long for a free one once half of its range is taken.
ports_each() {
  local low high
  read -r low high < <(sysctl -n net.ipv4.ip_local_port_range)
  echo $(((high - low) / 2))
}

# Builds what was not given: `wsteady` and `bench` are the programs then.
build() {
  local target=${CARGO_TARGET_DIR:-target}
  [ -n "$bench" ] || cargo build --quiet --release -p wsteady-bench
  : "${bench:=$target/release/wsteady-bench}"
  [ -n "$wsteady" ] || cargo build --quiet --release -p wsteady
  : "${wsteady:=$target/release/wsteady}"
}

# Starts a program. With `reaped=no` its parent never asks for its end: a process that is killed while others keep the machine
# busy takes seconds to end, and whoever reaps it spins in the kernel as long.
start() {
  if [ "${reaped:-yes}" = yes ]; then
    "$@" &
    started+=($!)
    return
  fi
  local told=$work/started.${#started[@]}
  { "$@" & echo $! >"$told.new"; mv "$told.new" "$told"; exec sleep infinity; } &
  keepers+=($!)
  until [ -e "$told" ]; do sleep 0.02; done
  started+=("$(cat "$told")")
}

# Starts a server; says its address.
serve() {
  local log=$work/server.${#started[@]}
  : >"$log"
  start "$bench" "$@" --listen 127.0.0.1:0 >"$log" 2>&1
  until grep -q 'listening on' "$log"; do
    kill -0 "${started[-1]}" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.02
  done
  address=$(sed -n 's/^listening on //p' "$log")
}

# Commands that take a process off the cores of others before it is killed: a machine that dies closes no sockets on those of
# others. It gets what they leave, on one core. A group of its own is idle as a whole: of seven idle threads each would get a
# turn before others, who then wait for 50 ms. Who can't have such a group has idle threads.
aside() {
  local pid=$1 group=/sys/fs/cgroup/cpu/wsteady-aside join
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    group=/sys/fs/cgroup/wsteady-aside
    echo +cpu 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
  fi
  join="chrt --idle -a -p 0 $pid"
  if mkdir -p "$group" 2>/dev/null && echo 1 2>/dev/null >"$group/cpu.idle"; then
    join="echo $pid >$group/cgroup.procs"
  fi
  echo "$join; taskset -a -c -p $(($(nproc) - 1)) $pid >/dev/null"
}

# A port nobody listens on, below the range from which outgoing connections take theirs.
free_port() {
  local port
  while :; do
    port=$((10000 + RANDOM % 20000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# Starts wsteady with the configuration in $work/proxy.yaml; `proxy` is its process. It listens on $port.
start_proxy() {
  "$wsteady" --config "$work/proxy.yaml" >"$work/proxy.log" 2>&1 &
  proxy=$!
  started+=("$proxy")
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 $proxy 2>/dev/null || { cat "$work/proxy.log" >&2; exit 1; }
    sleep 0.05
  done
}

# Where and when a report was made, as lines of Markdown.
circumstances() {
  local model
  model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
  cat <<TEXT
- Machine: $(nproc) x ${model:-unknown}, $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)
- Date: $(date -u +%Y-%m-%d\ %H:%M) UTC; load average at the end: $(cut -d' ' -f1-3 /proc/loadavg); stolen by a hypervisor: $(stolen "$at_start")
- Versions: $("$wsteady" --version | head -n 1) ($(git rev-parse --short HEAD 2>/dev/null || echo '?')), $("$bench" --version)
TEXT
}
