#!/bin/sh
# Stands in for OpenNebula's downloader.sh while oneconvert hands a finished image over: the image lies on this host,
# verified and complete, and is moved to the target, which costs nothing on the same file system.
# Usage: downloader.sh [options of the original] FROM TO|-
set -e

while [ $# -gt 2 ]; do
    shift
done

if [ "$2" = "-" ]; then
    exec cat -- "$1"
fi

# Told before it is there: whoever cleans up after a failure must know of a half-made copy, too.
echo "$2" >> "${0%/*}/targets"
exec mv -f -- "$1" "$2"
