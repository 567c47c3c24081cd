#!/usr/bin/env bash
# Runs the tests of every module with the race detector, and fails too when a test was skipped for want of Postgres or
# PgBouncer. The last line counts the tests; it is kept in .cache/test-summary. Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .cache
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Verbose, so that tests can be counted and what was skipped is seen; what merely passed is not shown. Two packages at
# a time, since they share one Postgres and the machine may be small.
status=0
scripts/each-module.sh go test -race -v -p 2 -timeout 20m "$@" ./... 2>&1 | tee "$log" |
	{ grep --line-buffered -vE '^ *(=== (RUN|PAUSE|CONT|NAME)|--- PASS)' || true; } || status=1

count() { grep -cE "^ *--- $1: " "$log" || true; }

# The reason stands before the line of the test. Where a newer PgBouncer than the one of Debian 12 could not be had,
# scripts/deps.sh has said so.
if grep -B1 -E '^ *--- SKIP: ' "$log" | grep -iE 'postgres|pgbouncer' | grep -vE -e '--- (SKIP|PASS|FAIL)|older than 1\.21'; then
	echo 'the tests above were skipped, though Postgres and PgBouncer must be there'
	status=1
fi
# A package that does not compile, or that dies, has no failed test.
broken=$(grep -cE '^FAIL.*\[(build|setup) failed\]|^panic: |^fatal error: ' "$log" || true)
if [ "$broken" -gt 0 ]; then status=1; fi

echo "$(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped" | tee .cache/test-summary
exit $status
