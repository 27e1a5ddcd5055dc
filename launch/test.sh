#!/usr/bin/env bash
# Everything that has to pass: style, types, tests. Arguments go to pytest: launch/test.sh tests/report -k escaped
set -euo pipefail

# shellcheck source=launch/_environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

install_package test
find_fashion_mnist || say "warning: Fashion-MNIST is not here and could not be fetched; the tests that need it will fail."

cd -- "$root"
export PATH="$venv/bin:$PATH"
status=0
ruff check || status=$?
ruff format --check || status=$?
mypy || status=$?
if [ "$status" != 0 ]; then say "error: the style or type checks above failed; the tests run all the same"; fi
pytest "$@" || exit $?
exit "$status"
