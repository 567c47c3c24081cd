#!/usr/bin/env bash
# Shows that a storm can fail: under each build tag that removes an invariant it has to report what comes of that. Arguments
# go to every storm.
set -euo pipefail
cd "$(dirname "$0")/../storm"

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
status=0
while IFS="|" read -r invariant on breach; do
	go build -tags "tenement_break_$invariant" -o "$bin/storm" .
	for setup in $on; do
		# Another storm is tried when the weather was too good: what a race brings about, it need not bring about each time.
		found=
		for seed in 1 2 3; do
			code=0
			"$bin/storm" -on "$setup" -seed "$seed" "$@" >"$bin/out" 2>&1 </dev/null || code=$?
			if [ "$code" -ne 0 ] && found=$(grep -m1 -E "^ +$breach" "$bin/out"); then break; fi
		done
		if [ -n "$found" ]; then
			echo "without $invariant, on $setup, seed $seed: ${found:0:200}"
		else
			echo "without $invariant, on $setup: nothing of that was reported ($breach)"
			cat "$bin/out"
			status=1
		fi
	done
done <<'INVARIANTS'
check|postgres|wrong:
stamp|postgres sqlite|wrong:
ledger|postgres sqlite|wrong: .* migration [0-9]+: its
queue|sqlite|hung: .* were overtaken
INVARIANTS
exit $status
