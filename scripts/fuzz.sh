#!/usr/bin/env bash
# Runs every fuzz target of every module for the given time each (10s unless told). An input that is interesting is made
# smaller for up to a minute unless told; a target that asks a server does nothing else then, and counts nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-10s}
status=0
while IFS=: read -r file target; do
	echo "$target in $file"
	(cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s .) </dev/null || status=1
done < <(grep -rE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+\(' . | sed -E 's/^([^:]+):func (Fuzz[A-Za-z0-9_]+).*/\1:\2/' | sort)
exit $status
