#!/usr/bin/env bash
#
# An import step by step with public tools, as OpenNebula's fs driver does it: one after the other, except that the
# download runs through the checksum and the decompressor.
# serial.sh URL RESULT MD5 TARGET [UNPACKER]. UNPACKER: a command that decompresses standard input, or "tar" for an
# archive with one disk. Everything is written beside RESULT.

set -euo pipefail

readonly url=$1 result=$2 md5=$3 target=$4 unpacker=${5:-cat}

die() {
    printf '%s\n' "$1" >&2
    exit 1
}

fetch() {
    local hasher
    mkfifo -- "$result.pipe"
    openssl dgst -md5 -r <"$result.pipe" >"$result.md5" &
    hasher=$!
    # shellcheck disable=SC2086  # a command and its options
    curl --fail -sS -L -- "$url" | tee -- "$result.pipe" | $1 >"$result"
    wait "$hasher"
    [[ $(cut -d ' ' -f 1 <"$result.md5") == "$md5" ]] || die "the checksum of $url is not $md5"
    rm -- "$result.pipe" "$result.md5"
}

format() {
    qemu-img info --output=json -- "$result" | sed -n 's/^    "format": "\(.*\)",$/\1/p'
}

if [[ $unpacker == tar ]]; then
    fetch cat
    mv -- "$result" "$result.tar"
    mkdir -- "$result.members"
    tar -xf "$result.tar" -C "$result.members"
    rm -- "$result.tar"
    mv -- "$result.members"/*.vmdk "$result"
    rm -r -- "$result.members"
else
    fetch "$unpacker"
fi
if [[ $(format) != "$target" ]]; then
    qemu-img convert -O "$target" -- "$result" "$result.tmp"
    mv -- "$result.tmp" "$result"
fi
fallocate -d -- "$result"
[[ $(format) == "$target" ]] || die "the result is not $target"
