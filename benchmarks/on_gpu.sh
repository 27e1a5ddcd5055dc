#!/usr/bin/env bash
# What a machine with one GPU can tell, the most telling first, in three parts of at most ten minutes:
#
#   benchmarks/on_gpu.sh first OUT     # the card, SimCLR's step beside PyTorch's, the contrastive loss
#   benchmarks/on_gpu.sh second OUT    # equality, what --deterministic costs, augmentation
#   benchmarks/on_gpu.sh tests OUT     # tests/one_gpu.txt on the GPU, and meanwhile the whole suite on the processor
#   python -m benchmarks.gpu page --out=OUT --write    # docs/benchmarks/gpu.md
#
# Figures are OUT/*.json, written row by row; logs are OUT/*.txt. For a machine without network, elsewhere before:
#
#   benchmarks/on_gpu.sh wheels DIR    # what ssl_jax needs besides JAX, flax, PyTorch and what they bring along
#
#   PYTHON             that has JAX with CUDA; python3 if unset
#   WHEELS             folder of wheels to install first, into a temporary folder
#   LIMIT              seconds of a part in all; 560 if unset
#   FASHION_MNIST_DIR  folder with the four files, for the tests that need them
set -euo pipefail

unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
limit=${LIMIT:-560}
# What most machines with JAX, flax, optax, orbax and PyTorch lack.
packages=(
  ml-collections tensorboardX jaxtyping importlib-resources # the core; next, what it brings along to read prepared data
  tensorflow-datasets array-record dm-tree docstring-parser googleapis-common-protos immutabledict simple-parsing
  tensorflow-metadata termcolor toml
  beartype hypothesis pycocotools simplejpeg # the tests
  lightly lightly-utils                      # the peer
)
as_source=(promise) # has no wheel, and is pure Python

say() { printf '%s\n' "$*" >&2; }

wheels() {
  local -a options
  for version in 2_28 2_27 2_24 2_17; do options+=(--platform "manylinux_${version}_x86_64"); done
  "$python" -m pip download -q --no-deps --python-version 3.12 --implementation cp --only-binary=:all: \
    "${options[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$1" "${packages[@]}"
  "$python" -m pip wheel -q --no-deps --wheel-dir "$1" "${as_source[@]}"
  du -sh -- "$1" >&2
}

# Installs what was carried along, and makes `import ssl_jax.configs` work.
prepare() {
  scratch=$(mktemp -d)
  trap 'rm -rf -- "$scratch"; if [ -n "${linked:-}" ]; then rm -f -- ssl_jax/configs; fi' EXIT
  if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" "$WHEELS"/*.whl
    export PYTHONPATH=$scratch/site${PYTHONPATH:+:$PYTHONPATH}
  fi
  export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
  if ! "$python" -c 'import ssl_jax.configs' 2>/dev/null; then # not installed
    ln -s ../configs ssl_jax/configs
    linked=yes
  fi
  "$python" -c 'import jax; print(jax.__version__, jax.devices())'
}

# part NAME SHARE: a part of the benchmarks within a share of the time, in percent; the others go on if it fails.
part() {
  "$python" -m benchmarks.gpu "$1" --out="$out" --seconds=$((limit * $2 / 100)) || say "error: $1 failed, see above"
}

# tests FILE ARGUMENTS: a stop by SIGINT lets pytest say what had failed by then.
tests() {
  local log=$1
  shift
  timeout --signal=INT --kill-after=30 $((limit - 40)) "$python" -m pytest -vv --tb=short "$@" >"$log" 2>&1 || true
  say "$log: $(tail -n 1 -- "$log")"
}

on_gpu() {
  local -a arguments
  mapfile -t arguments < <(grep -v '^#' tests/one_gpu.txt)
  # Several processes share the card. The same bits every time, and quick compilation, as on processors.
  export SSL_JAX_TEST_PLATFORM=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false SSL_JAX_TEST_CACHE=$scratch/gpu
  export XLA_FLAGS="--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0 ${XLA_FLAGS:-}"
  tests "$out/tests-gpu.txt" -n 6 -W default "${arguments[@]}"
}

on_processor() {
  export CUDA_VISIBLE_DEVICES='' SSL_JAX_TEST_CACHE=$scratch/processor
  tests "$out/tests-processor.txt" -n 9
}

case ${1:-} in
wheels)
  wheels "${2:?the folder to put wheels into}"
  exit
  ;;
first | second | tests) out=${2:?the folder for figures} ;;
*)
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
  ;;
esac
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd)
prepare
case $1 in
first)
  part machine 8
  part steps 60
  part ntxent 30
  ;;
second)
  part equality 50
  part deterministic 25
  part augmentation 22
  ;;
tests)
  on_gpu &
  on_processor &
  wait
  ;;
esac
