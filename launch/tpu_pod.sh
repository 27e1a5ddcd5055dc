#!/usr/bin/env bash
# A run on a Cloud TPU slice, through a queued resource: waits for the slice, installs, and trains on all workers.
#
#   ZONE=us-central2-b SETUP='mountpoint -q /mnt || sudo mount -o nolock 10.0.0.2:/share /mnt' \
#     launch/tpu_pod.sh simclr /mnt/runs/simclr --config.data_dir=/mnt/data
#
# WORKDIR is on a file system that all workers share, such as Filestore by NFS; SETUP mounts it, on every worker and at
# every start, so also where it is mounted already. The workers get the last commit of this checkout. When the slice is
# taken away (SPOT=yes), it is asked for again, and the run goes on from its newest checkpoint. The slice is deleted at
# the end, and not when you interrupt: `launch/tpu_pod.sh delete` does that.
#
#   ZONE      where; must be set
#   NAME      of the request and the slice: ssl-jax
#   TYPE      of the slice, as Google Cloud names it: v4-32; v5litepod-256, v5p-512, v6e-256, ...
#   RUNTIME   software of its machines; by TYPE, as /tpu/docs/runtimes of Google Cloud's documentation says
#   SPOT      yes for a slice that may be taken away
#   SETUP     what to run on every worker before each start
#   PAUSE     seconds between two looks at a slice that is not there: 30
set -euo pipefail

name=${NAME:-ssl-jax}
zone=${ZONE:?set ZONE, such as ZONE=us-central2-b}
type=${TYPE:-v4-32}
case $type in
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v6e-*) version=v2-alpha-tpuv6e ;;
  *) version=tpu-ubuntu2204-base ;;
esac
version=${RUNTIME:-$version}
setup=${SETUP:-true}
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
tpus=(gcloud compute tpus)

say() { printf '%s\n' "$*" >&2; }
# state: of the request; nothing where there is none, and `unknown` where gcloud could not tell (no network, no login)
state() {
  local said
  if said=$("${tpus[@]}" queued-resources describe "$name" --zone="$zone" --format='value(state.state)' 2>"$scratch/error"); then
    printf '%s' "$said"
  elif ! grep -q NOT_FOUND "$scratch/error"; then
    cat -- "$scratch/error" >&2
    printf unknown
  fi
}
delete() { "${tpus[@]}" queued-resources delete "$name" --zone="$zone" --force --quiet; }
on_all() { "${tpus[@]}" tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

if [ "${1:-}" = delete ]; then delete; exit; fi
if [ $# -lt 2 ]; then
  say "usage: ZONE=ZONE [NAME=ssl-jax] [TYPE=v4-32] [SPOT=yes] launch/tpu_pod.sh CONFIG WORKDIR [--config.FIELD=VALUE ...]"
  exit 2
fi
run=$(printf '%q ' .venv/bin/ssl-jax pretrain "--config=$1" "--workdir=$2" "${@:3}")
install='rm -rf ssl_jax && mkdir ssl_jax && tar -xf ssl_jax.tar -C ssl_jax
python3.11 -c "import ensurepip, venv" 2>/dev/null || { sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv; }
[ -x .venv/bin/pip ] || python3.11 -m venv .venv
.venv/bin/pip install -q "jax[tpu]" ./ssl_jax'

prepare() {
  git -C "$root" archive --format=tar -o "$scratch/ssl_jax.tar" HEAD
  "${tpus[@]}" tpu-vm scp "$scratch/ssl_jax.tar" "$name:" --zone="$zone" --worker=all && on_all "$install" && on_all "$setup"
}
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

ask() {
  local spot=()
  [ -z "${SPOT:-}" ] || spot=(--spot)
  say "Asking for a $type in $zone"
  "${tpus[@]}" queued-resources create "$name" --node-id="$name" --zone="$zone" \
    --accelerator-type="$type" --runtime-version="$version" ${spot[@]+"${spot[@]}"} # to bash 3.2 an empty one is unbound
}

now=$(state)
[ "$now" != unknown ] || exit 1 # gcloud has said why; later on it may pass
while true; do
  case $now in
    ACTIVE)
      if prepare && on_all "$run"; then break; fi
      if [ "$(state)" = ACTIVE ]; then
        say "The run ended with an error, and the slice is still there: see above, mend it, and give the same command."
        exit 1
      fi
      ;;
    '') ask ;;
    FAILED | SUSPENDED) if delete; then ask; else sleep "${PAUSE:-30}"; fi ;;
    *) sleep "${PAUSE:-30}" ;; # it waits, is being taken away, or is unknown
  esac
  now=$(state)
done
say "The run is complete; deleting the slice."
delete
