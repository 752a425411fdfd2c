#!/bin/sh
# Stands in for OpenNebula's downloader.sh while oneconvert hands a finished image over: the image lies on this host,
# verified and complete, and is moved to the target, which costs nothing on the same file system.
# Usage: downloader.sh [options of the original] FROM TO|-
set -e

# This is seat/datastore/downloader.sh in the workspace.
workspace=${0%/*}/../..

while [ $# -gt 2 ]; do
    shift
done

if [ "$2" = "-" ]; then
    exec cat -- "$1"
fi

# Claimed before it is there: whoever cleans up after a failure must know of a half-made copy, too.
printf '%s\n' "$2" >> "$workspace/claims"
exec mv -f -- "$1" "$2" 2> "$workspace/reason"
