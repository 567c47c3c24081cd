#!/usr/bin/env bash
# Installs what the tests need and is missing: Postgres, PgBouncer, a C compiler (for the race detector), and Chromium
# when there are browser tests. On Debian and its kin through apt-get, with sudo when not root; elsewhere it says what to
# install. No server is left running: the tests start their own. Where the PgBouncer that is installed is too old for
# prepared statements, as Debian 12's is, a newer one is put into bin/, for the tests alone.
set -euo pipefail
cd "$(dirname "$0")/.."

# A function of the same name would be found too, hence have_… below.
have() { command -v "$1" >/dev/null 2>&1; }

have_postgres() {
	have initdb && return
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
	have pg_config && [ -x "$(pg_config --bindir)/initdb" ]
}
have_pgbouncer() { have pgbouncer || [ -x /usr/sbin/pgbouncer ] || [ -x /usr/local/sbin/pgbouncer ]; }
have_compiler() {
	echo '#include <stdlib.h>' | "${CC:-cc}" -E - >/dev/null 2>&1 || echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1
}
have_browser() { have chromium || have chromium-browser || have google-chrome; }
browser_tests() {
	find . -name go.mod -not -path './.cache/*' -exec grep -lE 'chromedp|go-rod|playwright' {} + | grep -q .
}

missing=()
have_postgres || missing+=(postgresql)
have_pgbouncer || missing+=(pgbouncer)
have_compiler || missing+=(gcc libc6-dev)
if browser_tests && ! have_browser; then missing+=(chromium); fi

# PgBouncer knows prepared statements since 1.21. Without a newer one the tests of them are skipped, and say so.
newer_pgbouncer() {
	local at version
	for at in pgbouncer /usr/sbin/pgbouncer /usr/local/sbin/pgbouncer; do
		version=$("$at" --version 2>/dev/null | sed -n 's/^PgBouncer \(version \)\?\([0-9.]*\).*/\2/pI') || true
		if [ -n "$version" ]; then
			[ "$(printf '1.21\n%s\n' "$version" | sort -V | head -1)" = 1.21 ] && return
			break
		fi
	done
	scripts/debian.sh bin/debian-13 trixie pgbouncer && return
	echo "PgBouncer ${version:-} is installed, and a newer one cannot be fetched: the tests through one that knows prepared" \
		'statements (1.21 or newer) will be skipped. Install one to have them run.' >&2
}

if [ ${#missing[@]} -eq 0 ]; then
	newer_pgbouncer
	exit 0
fi

if ! have apt-get; then
	echo "missing: ${missing[*]} (as Debian calls them): install them and put their programs on the PATH," >&2
	echo 'for example with brew install postgresql pgbouncer, or dnf install postgresql-server pgbouncer' >&2
	exit 1
fi
root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! have sudo; then
		echo "missing: ${missing[*]}: run, as root: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	root=(sudo)
fi
apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null; }

echo "installing ${missing[*]}"
apt update
if [[ " ${missing[*]} " == *' postgresql '* ]]; then
	# Debian makes a cluster and starts it when the server's package arrives, unless this says no.
	conf=/etc/postgresql-common/createcluster.conf
	apt install --no-install-recommends -y postgresql-common
	if [ -f $conf ] && ! grep -qE '^ *create_main_cluster' $conf; then
		echo 'create_main_cluster = false' | "${root[@]}" tee -a $conf >/dev/null
	fi
fi
apt install --no-install-recommends -y "${missing[@]}"
if [[ " ${missing[*]} " == *' pgbouncer '* ]] && [ -d /run/systemd/system ]; then
	"${root[@]}" systemctl disable --now pgbouncer >/dev/null 2>&1 || true
fi

have_postgres && have_pgbouncer && have_compiler || { echo "still missing after installing ${missing[*]}" >&2; exit 1; }
newer_pgbouncer
