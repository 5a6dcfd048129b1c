#!/bin/sh
# Builds Lapwing, publishes real input from four servers, and lets a client find, categorise, follow and report them.
# Everything it starts ends with it; it writes to a temporary directory and to ./target alone.
set -eu
cd "$(dirname "$0")/.."

cargo build --release --quiet --target-dir target
PATH="$PWD/target/release:$PATH"
dir=$(mktemp -d)
servers=
# shellcheck disable=SC2086  # a list of pids
stop() {
    trap - EXIT INT TERM
    for pid in $servers; do kill "$pid" 2>/dev/null || :; done
    for pid in $servers; do wait "$pid" 2>/dev/null || :; done
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

log=/var/log/dpkg.log
[ -r "$log" ] || log=Cargo.lock

echo "== four servers: a log file, live system figures, a file over TCP alone, a file in shared memory alone"
server --name log --info-dir "$dir/info" --file "$log" --ring-size 64K & servers="$servers $!"
while sleep 0.2; do cat /proc/loadavg; done | server --name load --info-dir "$dir/info" --ring-size 64K & servers="$servers $!"
server --name changes --info-dir "$dir/info" --file CHANGELOG.md --no-shm & servers="$servers $!"
server --name lock --info-dir "$dir/info" --file Cargo.lock --no-socket & servers="$servers $!"
for name in log load changes lock; do
    while [ ! -e "$dir/info/$name.toml" ]; do
        for pid in $servers; do kill -0 "$pid" || exit 1; done
        sleep 0.05
    done
done

echo "== client ./info: who is there, over what, and the newest messages"
client "$dir/info" --last 2

echo "== client ./info --follow: fifteen messages as they come"
client "$dir/info" --follow --from latest:3 -n 15
