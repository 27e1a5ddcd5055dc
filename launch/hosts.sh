#!/usr/bin/env bash
# A run on a plain list of hosts, by ssh: one process per host, with all of its accelerators.
#
#   launch/hosts.sh "alpha beta gamma" simclr /shared/runs/simclr --config.batch_size=4096
#
# Every host has ssl_jax at the same place (by default, this checkout with its .venv) and sees WORKDIR, which is on a
# file system that they share. Keys must let ssh in without a password. When a process ends badly the others end too;
# the same command goes on from the newest checkpoint.
#
#   RETRIES   how many times to give it again by itself: 0
#   PAUSE     seconds before that: 30
#   SSL_JAX   the program on every host: .venv/bin/ssl-jax of this checkout
#   PORT      on the first host, where the others come to: 52731
#   SSH       in place of ssh
set -euo pipefail

read -r -a hosts <<<"${1:-}"
if [ $# -lt 3 ] || [ "${#hosts[@]}" = 0 ]; then
  printf 'usage: launch/hosts.sh "HOST HOST ..." CONFIG WORKDIR [--config.FIELD=VALUE ...]\n' >&2
  exit 2
fi
config=$2 workdir=$3
shift 3
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
command=${SSL_JAX:-$root/.venv/bin/ssl-jax}
port=${PORT:-52731}
ssh=${SSH:-ssh} # one word; options go to ~/.ssh/config

# quoted WORD...: as the shell on the other side reads it back
quoted() { printf '%q ' "$@"; }

fifos=$(mktemp -d)
pids=() held=() stopping=
stop() { # the run hears that its input has ended, saves and stops
  stopping=yes
  [ "${#held[@]}" = 0 ] || kill "${held[@]}" 2>/dev/null || true
}
trap stop INT TERM
trap 'stop; rm -rf -- "$fifos"' EXIT

# On the other side: the run, and one who waits for the end of the input (this script's, or the connection's).
# shellcheck disable=SC2016 # expanded there
remote='"$@" & run=$!; { cat <&3; kill -TERM "$run"; } >/dev/null 2>&1 & wait "$run"'

attempt() {
  local i host status=0 line
  pids=() held=()
  for i in "${!hosts[@]}"; do
    host=${hosts[$i]}
    line=$(quoted bash -c "$remote" ssl-jax "$command" pretrain "--config=$config" "--workdir=$workdir" "$@" \
      "--coordinator=${hosts[0]#*@}:$port" "--processes=${#hosts[@]}" "--process=$i")
    [ -p "$fifos/$i" ] || mkfifo "$fifos/$i"
    sleep 2147483647 >"$fifos/$i" &
    held+=($!)
    "$ssh" "$host" "$line 3<&0" <"$fifos/$i" > >(sed -u "s/^/$host: /") 2> >(sed -u "s/^/$host: /" >&2) &
    pids+=($!)
  done
  for i in "${!pids[@]}"; do
    wait "${pids[$i]}" || status=$?
    while kill -0 "${pids[$i]}" 2>/dev/null; do # a signal ended the waiting, not the process
      wait "${pids[$i]}" || status=$?
    done
  done
  kill "${held[@]}" 2>/dev/null || true
  return "$status"
}

for ((try = 0; ; try++)); do
  status=0
  attempt "$@" || status=$?
  if [ "$status" = 0 ] || [ -n "$stopping" ] || [ "$try" -ge "${RETRIES:-0}" ]; then exit "$status"; fi
  printf 'Ended with status %s; starting again (%s of %s).\n' "$status" "$((try + 1))" "${RETRIES:-0}" >&2
  sleep "${PAUSE:-30}" &
  held=($!) # so that a signal ends it
  wait "$!" || true
  [ -z "$stopping" ] || exit "$status"
done
