# shellcheck shell=bash
# Shared by quickstart.sh and test.sh, which source it: the virtual environment, and the data for the examples.
#
#   SSL_JAX_VENV       where the virtual environment lives; .venv in the repository if unset
#   SSL_JAX_PYTHON     the Python to make it with; else the first of python3, python3.12, ... that is new enough
#   SSL_JAX_NEWEST     1 for the newest packages that are allowed, in place of those in constraints.txt
#   FASHION_MNIST_DIR  folder with the four files of Fashion-MNIST; else Debian's package is used or fetched

unset CDPATH # or cd would print where it goes
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${SSL_JAX_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

debian_fashion_mnist=/usr/share/datasets/fashion-mnist

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Python 3.11 or newer. Each candidate is run, because a name on PATH may be a shim for a version that is not there.
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${SSL_JAX_PYTHON:-}" ]; then
    new_enough "$SSL_JAX_PYTHON" || fail "SSL_JAX_PYTHON=$SSL_JAX_PYTHON is no Python 3.11 or newer"
    printf '%s\n' "$SSL_JAX_PYTHON"
    return
  fi
  for candidate in python3 python3.12 python3.13 python3.11 python3.14 python; do
    if have "$candidate" && new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  have python3 || fail "there is no python3 on PATH; ssl_jax needs Python 3.11 or newer (Debian: apt-get install python3 python3-venv)"
  fail "ssl_jax needs Python 3.11 or newer, and python3 is $(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null || echo broken); install a newer one, or name it: SSL_JAX_PYTHON=/path/to/python3.12 $0"
}

# Makes $venv, whatever of venv, pip and virtualenv this Python has: Debian splits them into packages.
make_venv() {
  local python
  python=$(find_python) || exit 1
  if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A -- "$venv")" ]; then
    fail "$venv exists and is no virtual environment; move it away, or set SSL_JAX_VENV to another place"
  fi
  if [ -e "$venv/pyvenv.cfg" ] && [ ! -e "$venv/ssl_jax.stamp" ] && [ "$venv" != "$root/.venv" ]; then # not ours to clear
    fail "the virtual environment $venv has no working Python 3.11 or newer; move it away, or set SSL_JAX_VENV to another place"
  fi
  made=yes
  say "Making a virtual environment in $venv with $("$python" --version 2>&1)"
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv --clear -- "$venv"
  elif "$python" -c 'import pip, venv' 2>/dev/null; then
    say "This Python has no ensurepip (Debian: python3-venv), so its own pip puts pip there."
    "$python" -m venv --clear --without-pip -- "$venv"
    "$python" -m pip --quiet --python "$venv/bin/python" install pip || no_packages
  elif "$python" -c 'import virtualenv' 2>/dev/null; then
    "$python" -m virtualenv --quiet --clear -- "$venv"
  else
    fail "this Python cannot make virtual environments; on Debian or Ubuntu run: apt-get install python3-venv"
  fi
}

no_packages() {
  fail "pip could not install the packages; its messages are above. It needs access to a package index the first time" \
    "(set PIP_INDEX_URL or PIP_PROXY if yours is not the public one), and some 1.5 GB of disk. If it has not the versions" \
    "of launch/constraints.txt, set SSL_JAX_NEWEST=1."
}

# Whether to install the versions that the tests passed with: what is released tomorrow breaks no installation. Only for
# the Python they are for, and never in an environment that somebody else has filled.
tested_versions() {
  [ "${SSL_JAX_NEWEST:-}" != 1 ] && { [ -n "${made:-}" ] || [ "$venv" = "$root/.venv" ]; } &&
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'
}

# What an installation depends on: the declared packages, their versions, the interpreter and the two places.
installation() {
  "$venv/bin/python" -I - "$root" "$venv" <<'PYTHON'
import hashlib, os, pathlib, sys

root, venv = sys.argv[1:]
files = "pyproject.toml", "setup.py", "launch/constraints.txt"
text = b"".join(pathlib.Path(root, file).read_bytes() for file in files).decode()
newest = os.environ.get("SSL_JAX_NEWEST", "")
print(hashlib.sha256("\n".join((text, newest, sys.version, sys.base_prefix, root, venv)).encode()).hexdigest())
PYTHON
}

# install_package EXTRA: makes the environment and installs the repository in it, if that was not done before.
# EXTRA is "core" for no optional dependencies, or the name of a group in pyproject.toml.
install_package() {
  local extra=$1 stamp=$venv/ssl_jax.stamp target=. options=(--quiet --disable-pip-version-check) now
  if ! new_enough "$venv/bin/python"; then make_venv; fi
  now=$(installation)
  if [ -f "$stamp" ] && grep -q -e "^$now $extra\$" -- "$stamp"; then return; fi
  if [ "$extra" = core ] && [ -f "$stamp" ] && grep -q -e "^$now " -- "$stamp"; then return; fi
  if [ "$extra" != core ]; then target=".[$extra]"; fi
  if tested_versions; then options+=(--constraint launch/constraints.txt); fi
  say "Installing ssl_jax ($extra) and what it needs; this takes a minute or two, the first time only"
  (cd -- "$root" && "$venv/bin/python" -m pip install "${options[@]}" --editable "$target") || no_packages
  if [ -f "$stamp" ] && ! grep -q -e "^$now " -- "$stamp"; then rm -f -- "$stamp"; fi
  printf '%s %s\n' "$now" "$extra" >>"$stamp"
}

# apt_install PACKAGE...: needs root, or a sudo that does not ask; quiet, and false where that is not so.
apt_install() {
  local run=()
  have apt-get || return 1
  if [ "$(id -u)" != 0 ]; then
    have sudo && sudo -n true >/dev/null 2>&1 || return 1
    run=(sudo -n)
  fi
  run+=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120)
  say "Installing with apt-get: $*"
  "${run[@]}" install -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return
  "${run[@]}" update </dev/null >/dev/null 2>&1 || true # the lists of packages may be missing or old
  "${run[@]}" install -y --no-install-recommends "$@" </dev/null >/dev/null
}

has_fashion_mnist() {
  local name
  for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    [ -f "$1/$name-ubyte.gz" ] || [ -f "$1/$name-ubyte" ] || return 1
  done
}

# Finds Fashion-MNIST or fetches Debian's package of it (30 MB), and exports FASHION_MNIST_DIR. False if it cannot.
find_fashion_mnist() {
  local unpacked=$root/.cache/fashion-mnist place=$debian_fashion_mnist package
  if [ -n "${FASHION_MNIST_DIR:-}" ]; then
    has_fashion_mnist "$FASHION_MNIST_DIR" || fail "FASHION_MNIST_DIR=$FASHION_MNIST_DIR does not hold the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
    FASHION_MNIST_DIR=$(cd -- "$FASHION_MNIST_DIR" && pwd)
    export FASHION_MNIST_DIR
    return
  fi
  for FASHION_MNIST_DIR in "$place" "$unpacked$place"; do
    export FASHION_MNIST_DIR
    has_fashion_mnist "$FASHION_MNIST_DIR" && return
  done
  FASHION_MNIST_DIR=$place
  if [ "$(id -u)" = 0 ]; then
    apt_install dataset-fashion-mnist && has_fashion_mnist "$place" && return
  fi
  if have apt-get && have dpkg-deb; then # needs no root and changes nothing outside of the repository
    say "Downloading Debian's package dataset-fashion-mnist into $unpacked"
    mkdir -p -- "$unpacked"
    (cd -- "$unpacked" && apt-get -qq download dataset-fashion-mnist </dev/null) || true
    for package in "$unpacked"/*.deb; do
      [ -f "$package" ] && dpkg-deb -x "$package" "$unpacked" && rm -f -- "$package"
    done
    FASHION_MNIST_DIR=$unpacked$place
    has_fashion_mnist "$FASHION_MNIST_DIR" && return
  fi
  FASHION_MNIST_DIR=$place
  if [ "$(id -u)" != 0 ]; then # last: with sudo it changes the machine
    apt_install dataset-fashion-mnist && has_fashion_mnist "$place" && return
  fi
  unset FASHION_MNIST_DIR
  return 1
}
