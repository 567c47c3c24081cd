#!/usr/bin/env bash
# Runs a command in the directory of every Go module of the repository, the root first. A failure does not stop the
# others; the exit status is 1 when any failed.
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
while read -r file; do
	module=$(dirname "$file")
	echo "$module: $*"
	(cd "$module" && "$@") </dev/null || { echo "$module: failed: $*"; status=1; }
done < <(find . -name go.mod -not -path '*/testdata/*' -not -path './.cache/*' | awk '{print length, $0}' | sort -n | cut -d' ' -f2-)
exit $status
