#!/usr/bin/env bash
# From a bare machine to a report: installs ssl_jax in a virtual environment, pre-trains on Fashion-MNIST, evaluates.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/quickstart.sh [--fast] [WORKDIR]

Installs ssl_jax in a virtual environment (.venv in the repository), pre-trains a small network on Fashion-MNIST
without labels, compares its features with raw pixels and with a random network, and writes WORKDIR/report.html.
Needs Python 3.11 or newer and, the first time, a network. WORKDIR is runs/CONFIG where it is not given: runs/quickstart,
or runs/quickstart-test with --fast.

  --fast             a run of seconds on scikit-learn's digits, to see that everything works; its figures mean nothing

Environment:
  QUICKSTART_CONFIG  another config than `quickstart`; for example quickstart:test (what --fast does)
  FASHION_MNIST_DIR  folder with the four files of Fashion-MNIST, where Debian's package is not installed
  SSL_JAX_VENV       another place for the virtual environment
  SSL_JAX_PYTHON     the Python to make it with
TEXT
}

config=${QUICKSTART_CONFIG:-quickstart}
workdir=
while [ $# -gt 0 ]; do
  case $1 in
    --fast) config=quickstart:test ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; printf 'error: unknown option %s\n' "$1" >&2; exit 2 ;;
    *) [ -z "$workdir" ] || { usage >&2; printf 'error: more than one WORKDIR\n' >&2; exit 2; }; workdir=$1 ;;
  esac
  shift
done

# shellcheck source=launch/_environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# Large arrays come and go in every step; in huge pages that costs far fewer page faults (glibc 2.35 or newer).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

install_package core
options=() # for the config
if [ "$config" = quickstart ]; then # the others need no data, or know their own
  if ! find_fashion_mnist; then
    config=quickstart:digits
    say "
************************************************************************************************
WARNING: Fashion-MNIST is neither installed here nor could it be fetched. THIS RUN USES OTHER DATA:
scikit-learn's digits, 1,797 images of 8 x 8 pixels. It shows that everything works; its figures
are not those of the documentation. For those, install Debian's package dataset-fashion-mnist, or
set FASHION_MNIST_DIR to a folder with the four files of Fashion-MNIST, and run this again.
************************************************************************************************
"
  elif [ "$FASHION_MNIST_DIR" != "$debian_fashion_mnist" ]; then
    options=(--config.data_dir="$FASHION_MNIST_DIR")
  fi
fi

workdir=${workdir:-runs/${config//:/-}} # a folder holds the run of one config
"$venv/bin/ssl-jax" pretrain --config="$config" ${options[@]+"${options[@]}"} --workdir="$workdir" --noreport # evaluate writes it
"$venv/bin/ssl-jax" evaluate --workdir="$workdir" --protocol=knn,linear
workdir=$(cd -- "$workdir" && pwd)
if [ "$config" = quickstart:digits ]; then say "Note: trained on scikit-learn's digits, not on Fashion-MNIST (see the warning above)."; fi
[ -f "$workdir/report.html" ] || fail "the run left no report in $workdir"
go_on=". $(printf %q "$venv/bin/activate")"
if [ "${FASHION_MNIST_DIR:-$debian_fashion_mnist}" != "$debian_fashion_mnist" ]; then
  go_on+=" && export FASHION_MNIST_DIR=$(printf %q "$FASHION_MNIST_DIR")"
fi
say "To go on with the command ssl-jax in your shell: $go_on"
printf 'The report: %s\n' "$workdir/report.html"
