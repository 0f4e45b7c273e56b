#!/usr/bin/env bash
# ESLint, prettier and `node --test` over the page's scripts; --fix corrects what ESLint and prettier can.
# The packages are installed on first use and when the lock file has changed.
set -euo pipefail
cd "$(dirname "$0")"

if ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a * 100 + +b < 2019 ? 1 : 0)' 2>/dev/null ||
  ! command -v npm >/dev/null; then
  found=$(node --version 2>/dev/null || echo none)
  problem="the checks of the page's JavaScript need npm and Node 20.19 or newer (found: $found)"
  [ -z "${CI:-}" ] || { echo "$problem" >&2; exit 1; }
  echo "skipped: $problem"
  exit 0
fi

installed=node_modules/.installed-lock.json
if ! cmp -s package-lock.json "$installed"; then
  npm ci
  cp package-lock.json "$installed"
fi

bin=$PWD/node_modules/.bin cache=$PWD/node_modules/.cache
lint=(--cache --cache-location "$cache/eslint/") layout=--check
[ "${1:-}" != --fix ] || { lint+=(--fix); layout=--write; }
(cd ../.. && "$bin/eslint" --config tests/web/eslint.config.js "${lint[@]}" api/web/static tests/web)
"$bin/prettier" --config .prettierrc --log-level warn --cache --cache-location "$cache/prettier" "$layout" \
  ../../api/web/static/*.js ./*.js package.json
node --disable-warning=MODULE_TYPELESS_PACKAGE_JSON --test --test-reporter=dot ./*.test.js
