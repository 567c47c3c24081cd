#!/usr/bin/env bash
# Compares the exported API with that of the last tag. Until 1.0 it may change, but what no longer compiles has to be in the
# CHANGELOG: the comparison fails when it has changed and the CHANGELOG has not.
set -euo pipefail
cd "$(dirname "$0")/.."

apidiff='golang.org/x/exp/cmd/apidiff@v0.0.0-20261113113407-e3970619a1a4'
module=$(go list -m)
if ! tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
	echo 'api: there is no tag yet to compare with'
	exit 0
fi
dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/then" 2>/dev/null; rm -rf "$dir"' EXIT
git worktree add --quiet --detach "$dir/then" "$tag"
(cd "$dir/then" && go run "$apidiff" -m -w "$dir/then.export" "$module")
go run "$apidiff" -m -w "$dir/now.export" "$module"
changes=$(go run "$apidiff" -m -incompatible "$dir/then.export" "$dir/now.export" | grep -v '/internal/' || true)
if [ -z "$changes" ]; then
	echo "api: what compiled with $tag still does"
	exit 0
fi
printf 'api: since %s\n%s\n' "$tag" "$changes"
if git diff --quiet "$tag" -- CHANGELOG.md; then
	echo 'api: say in CHANGELOG.md what that means for an application'
	exit 1
fi
