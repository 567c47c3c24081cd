#!/usr/bin/env bash
# Unpacks programs of another release of Debian, with all the libraries that they need, into a folder, and installs nothing:
#
#	scripts/debian.sh FOLDER RELEASE PACKAGE…      (scripts/debian.sh bin/debian-13 trixie pgbouncer)
#
# FOLDER/bin has a script for each program, which starts it with its own libraries. The packages come from the mirror that
# the machine's own apt sources name, through apt with lists of its own, so that the machine's apt stays as it is. Nothing
# is done when the folder has these packages already.
set -euo pipefail

folder=$1 release=$2
shift 2
wanted="$release $*"
if [ "$(cat "$folder/.wanted" 2>/dev/null || true)" = "$wanted" ]; then exit 0; fi

for program in apt-get apt-cache dpkg-deb; do
	command -v $program >/dev/null || { echo "there is no $program here" >&2; exit 1; }
done

# What this machine's apt knows to be Debian's own; security updates are elsewhere, and under another label. Before its
# first update apt knows nothing.
mirror_of_debian() {
	apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
		sed -n 's/^Debian|Debian|main|//p' | head -1
}
mirror=$(mirror_of_debian)
if [ -z "$mirror" ] && [ "$(id -u)" -eq 0 ]; then
	apt-get -qq update </dev/null || true
	mirror=$(mirror_of_debian)
fi
if [ -z "$mirror" ]; then
	echo "apt knows no mirror of Debian here (where there is one: apt-get update)" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,parts,debs,root}
: >"$work/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e $keyring ] || { echo "there is no $keyring (package debian-archive-keyring)" >&2; exit 1; }
echo "deb [signed-by=$keyring] $mirror $release main" >"$work/sources.list"
options=(-qq -o "Dir::State::lists=$work/lists" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
	-o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/parts" -o Acquire::Languages=none
	-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Sandbox::User=root -o Acquire::Retries=3)

echo "fetching $* of Debian $release"
apt-get "${options[@]}" update </dev/null

# The libraries that they need, and those that these need; what a package needs besides (scripts, locales) its program does
# without. llvm is for jit, which tests turn off.
packages=("$@")
new=("$@")
while [ ${#new[@]} -gt 0 ]; do
	mapfile -t needed < <(apt-cache "${options[@]}" depends --important "${new[@]}" |
		sed -n 's/^ *\(Pre\)\?Depends: \(lib[^<>]*\|zlib1g\)$/\2/p' | grep -v '^libllvm' | sort -u)
	new=()
	for library in "${needed[@]}"; do
		[[ " ${packages[*]} " == *" $library "* ]] || new+=("$library")
	done
	packages+=("${new[@]}")
done
(cd "$work/debs" && apt-get "${options[@]}" download "${packages[@]}" </dev/null)
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
rm -rf "$work"/root/usr/share/{doc,man,lintian,locale}

loader=$(cd "$work/root" && ls usr/lib/*-linux-gnu*/ld-linux*.so.* | head -1)
mkdir "$work/root/bin.new"
while read -r program; do
	# Postgres looks for its other programs, and for its files, from where it finds itself: so the script takes the program's
	# place there.
	name=${program##*/}
	mv "$program" "$program.elf"
	up=$(dirname "${program#"$work/root/"}" | sed 's,[^/]\+,..,g')
	cat >"$program" <<-SCRIPT
		#!/bin/sh
		root=\$(dirname "\$(readlink -f "\$0")")/$up
		exec "\$root/$loader" --library-path "\$root/${loader%/*}" --argv0 "\$0" "\$(readlink -f "\$0").elf" "\$@"
	SCRIPT
	chmod 755 "$program"
	ln -s "../${program#"$work/root/"}" "$work/root/bin.new/$name"
done < <(find "$work/root"/usr/{bin,sbin} "$work/root"/usr/lib/postgresql/*/bin -type f -perm -1 2>/dev/null |
	while read -r file; do [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] && echo "$file"; done)
# What a package has in /bin is a link to /usr/bin.
rm -rf "$work/root/bin" && mv "$work/root/bin.new" "$work/root/bin"

for program in pgbouncer postgres; do
	[ ! -e "$work/root/bin/$program" ] || "$work/root/bin/$program" --version >/dev/null
done
echo "$wanted" >"$work/root/.wanted"
chmod -R go+rX "$work/root" # servers run as another user
rm -rf "$folder" && mkdir -p "$(dirname "$folder")" && mv "$work/root" "$folder"
