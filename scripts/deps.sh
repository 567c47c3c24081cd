#!/usr/bin/env bash
# Installs what the tests need and is missing: Postgres, PgBouncer, a C compiler (for the race detector), and Chromium
# when there are browser tests. On Debian and its kin through apt-get, with sudo when not root; elsewhere it says what to
# install. No server is left running: the tests start their own.
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
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

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
