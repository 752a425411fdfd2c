#!/usr/bin/env bash
#
# Installs oneconvert from this checkout on an OpenNebula front-end: ./install.sh --help

set -euo pipefail
umask 022
unset PYTHONPATH PYTHONHOME CDPATH

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly checkout

# Every action that oned, the marketplace driver or the VM driver runs in a datastore directory, besides cp. Other
# executables there are the native driver's helpers.
readonly delegated_actions=(
    rm mkfs stat clone monitor snap_delete snap_revert snap_flatten export restore increment_flatten
    backup backup_cancel ls
)

# Drivers that oneconvert has by itself where OpenNebula has none (vcenter from 7.0 on), and what they do besides cp.
readonly own_drivers=(vcenter)
readonly own_actions=(rm mkfs stat clone monitor snap_delete snap_revert snap_flatten export)

# Options.
task=install
drivers_wanted=""
packages=yes
demo_arguments=()

# Where things are; locate sets them.
root="" remotes="" lib="" bin="" config="" manifest="" oned_conf="" log=""

# What there is to install; choose_drivers sets them.
drivers=()
wrappers=()

# What the installation owns: "d PATH" for a directory that was not there before, "f PATH" for a file. Paths are
# relative to the root, parents come before their contents.
entries=()

# What a failure or a signal has to clean up.
work="" building="" half_written="" child="" undo=no

changed=no

usage() {
    cat <<'HELP'
Usage: ./install.sh [--drivers fs,ceph,...] [--no-packages]
       ./install.sh --uninstall
       ./install.sh --demo [URL] [--driver qcow2|raw|vmdk]

Without options: installs oneconvert on this OpenNebula front-end, or upgrades it, for every datastore driver found.
Run it as root; as oneadmin when OpenNebula is in a directory of its own and ONE_LOCATION names it.

  --drivers LIST   only for these datastore drivers, separated by commas; leaves the others as they are; vcenter may be
                   one of them where OpenNebula has no such driver any more, too
  --no-packages    do not install missing system packages
  --uninstall      remove all that was installed; a changed oneconvert.conf is saved in /var/tmp
  --demo           show an import, without OpenNebula and without installing; the rest goes to the demo
  -h, --help       this text

Nothing that belongs to OpenNebula is changed: the lines for oned.conf are printed, not written.
HELP
}

# --- Messages ---------------------------------------------------------------------------------------------------------

bold="" dim="" plain=""
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
fi

# say LABEL TEXT: one line of the report.
say() {
    printf '  %s%-10s%s %s\n' "$dim" "$1" "$plain" "$2"
}

title() {
    printf '%s%s%s\n' "$bold" "$1" "$plain"
}

die() {
    printf 'install.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

# show_log: the end of what the program that just failed had to say.
show_log() {
    tail -n 15 -- "$work/log" | sed 's/^/    /' >&2
}

# --- Clean-up ---------------------------------------------------------------------------------------------------------

# The previous installation keeps working because its venv is replaced by one rename, after the new one is complete.
clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [[ -n $child ]]; then
        kill -TERM -- "-$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    [[ -z $half_written ]] || rm -f -- "$half_written"
    [[ -z $building ]] || rm -rf -- "$building"
    [[ $undo == no ]] || remove_installation >/dev/null
    [[ -z $work ]] || rm -rf -- "$work"
    exit "$status"
}

make_work_directory() {
    work=$(mktemp -d)
}

# run_logged COMMAND...: in a session of its own, so that a signal can end it with everything it started. Its temporary
# files go to the work directory, which is removed.
run_logged() {
    local status=0
    TMPDIR=$work setsid "$@" >"$work/log" 2>&1 </dev/null 9<&- &
    child=$!
    wait "$child" || status=$?
    child=""
    return "$status"
}

# --- Options and places -----------------------------------------------------------------------------------------------

parse_options() {
    while (($#)); do
        case $1 in
            --drivers)
                drivers_wanted=${2:-}
                [[ $drivers_wanted == [a-zA-Z0-9]* ]] || die "--drivers needs a list, as in --drivers fs,ceph" 2
                shift
                ;;
            --drivers=?*) drivers_wanted=${1#*=} ;;
            --no-packages) packages=no ;;
            --uninstall) task=uninstall ;;
            --demo)
                task=demo
                demo_arguments=("${@:2}")
                return
                ;;
            -h | --help) task=help ;;
            *) die "unknown option '$1'; ./install.sh --help lists them" 2 ;;
        esac
        shift
    done
}

locate() {
    if [[ -n ${ONE_LOCATION:-} ]]; then
        [[ -d $ONE_LOCATION ]] || die "there is no OpenNebula here: ONE_LOCATION=$ONE_LOCATION is not a directory"
        root=$(cd -- "$ONE_LOCATION" && pwd)
        export ONE_LOCATION=$root
        remotes=$root/var/remotes lib=$root/lib/oneconvert bin=$root/bin/oneconvert
        oned_conf=$root/etc/oned.conf log=$root/var/oneconvert.log
    else
        remotes=/var/lib/one/remotes lib=/usr/lib/one/oneconvert bin=/usr/bin/oneconvert
        oned_conf=/etc/one/oned.conf log=/var/log/one/oneconvert.log
    fi
    config=$remotes/etc/oneconvert/oneconvert.conf
    manifest=$lib/manifest
    [[ -d $remotes/datastore ]] ||
        die "there is no OpenNebula here: no directory $remotes/datastore (ONE_LOCATION can name another place)"
}

# The lock is on a directory of OpenNebula, so that it leaves nothing behind.
take_lock() {
    exec 9<"$remotes/datastore"
    flock -n 9 || die "another install.sh is running"
}

check_writable() {
    local place
    for place in "$remotes/datastore" "$remotes/etc/oneconvert" "$lib" "${bin%/*}"; do
        while [[ -n $place && ! -e $place ]]; do
            place=${place%/*}
        done
        [[ -w ${place:-/} ]] || die "$place is not writable for $(id -un): run it as root"
    done
}

# --- System packages --------------------------------------------------------------------------------------------------

# find_python: prints a Python that can make the venv. The system's comes first: oneadmin can run it, which is not sure
# for one that root has in its home directory.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.{14..9}; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# missing_packages apt|dnf|other: what is missing, as packages of that manager or in plain words.
missing_packages() {
    local -A python=([apt]=python3-venv [dnf]=python3 [other]="Python 3.9 or newer with venv and ensurepip")
    local -A qemu=([apt]=qemu-utils [dnf]=qemu-img [other]=qemu-img)
    find_python >/dev/null || printf '%s\n' "${python[$1]}"
    command -v qemu-img >/dev/null || printf '%s\n' "${qemu[$1]}"
    [[ $task != demo ]] || command -v mkfs.ext4 >/dev/null || echo e2fsprogs
}

package_manager() {
    if command -v apt-get >/dev/null; then
        echo apt
    elif command -v dnf >/dev/null; then
        echo dnf
    else
        echo other
    fi
}

ensure_packages() {
    local manager missing words command=()
    manager=$(package_manager)
    mapfile -t missing < <(missing_packages "$manager")
    mapfile -t words < <(missing_packages other)
    ((${#missing[@]})) || return 0

    case $manager in
        apt) command=(apt-get install -y "${missing[@]}") ;;
        dnf) command=(dnf install -y "${missing[@]}") ;;
    esac
    if [[ $packages == no ]]; then
        find_python >/dev/null || die "missing: $(join ', ' "${words[@]}")"
        say packages "missing: $(join ', ' "${words[@]}"); imports will fail without it"
    elif [[ $manager == other ]]; then
        die "missing: $(join ', ' "${words[@]}"); install it and run this again"
    elif ((EUID)); then
        die "missing: $(join ', ' "${words[@]}"); install it with: sudo ${command[*]}"
    else
        install_packages "${command[@]}"
    fi
}

install_packages() {
    say packages "$*"
    export DEBIAN_FRONTEND=noninteractive
    if [[ $1 == apt-get ]]; then
        # A stale package list is no reason to stop: the installation itself decides.
        apt-get update >"$work/log" 2>&1 </dev/null || true
    fi
    if ! "$@" >"$work/log" 2>&1 </dev/null; then
        show_log
        die "this failed: $*"
    fi
    find_python >/dev/null ||
        die "python3 is too old; install 3.9 or newer beside it (AlmaLinux 8: dnf install python3.11)"
}

# join SEPARATOR WORD...
join() {
    local separator=$1 all=$2 word
    for word in "${@:3}"; do
        all+=$separator$word
    done
    printf '%s' "$all"
}

# --- Drivers ----------------------------------------------------------------------------------------------------------

native_drivers() {
    local cp name
    for cp in "$remotes"/datastore/*/cp; do
        name=${cp%/cp}
        name=${name##*/}
        if [[ -f $cp && -x $cp && $name != oneconvert* && $name =~ ^[A-Za-z0-9_.-]+$ ]]; then
            printf '%s\n' "$name"
        fi
    done
}

choose_drivers() {
    local native name
    mapfile -t native < <(native_drivers)
    ((${#native[@]})) || die "no datastore driver in $remotes/datastore has a cp: is this OpenNebula complete?"
    drivers=("${native[@]}")
    for name in "${own_drivers[@]}"; do
        # Once it was asked for it is upgraded with the others.
        if [[ " ${native[*]} " != *" $name "* && -e $remotes/datastore/oneconvert_$name/cp ]]; then
            drivers+=("$name")
        fi
    done
    if [[ -n $drivers_wanted ]]; then
        IFS=', ' read -r -a drivers <<<"$drivers_wanted"
        for name in "${drivers[@]}"; do
            [[ " ${native[*]} ${own_drivers[*]} " == *" $name "* ]] ||
                die "there is no datastore driver '$name' here; there is: $(join ', ' "${native[@]}")"
        done
    fi
    plan_wrappers
}

plan_wrappers() {
    local name action native wrapper
    for name in "${drivers[@]}"; do
        native=$remotes/datastore/$name
        wrapper=$remotes/datastore/oneconvert_$name
        wrappers+=("$wrapper/cp")
        if [[ ! -e $native/cp ]]; then
            wrappers+=("${own_actions[@]/#/$wrapper/}")
            continue
        fi
        for action in "${delegated_actions[@]}"; do
            [[ ! -f $native/$action || ! -x $native/$action ]] || wrappers+=("$wrapper/$action")
        done
    done
}

# is_ours FILE: an executable of oneconvert, of this or another version.
is_ours() {
    [[ -f $1 && ! -L $1 ]] && sed -n 2p -- "$1" | grep -q '^# oneconvert:'
}

is_our_link() {
    [[ -L $1 && $(readlink -- "$1") == */oneconvert/venv/bin/oneconvert ]]
}

# Before the first change: a file that somebody else put in our place is not overwritten.
refuse_foreign_files() {
    local target
    for target in "${wrappers[@]}"; do
        [[ ! -e $target && ! -L $target ]] || is_ours "$target" || die_foreign "$target"
    done
    [[ ! -e $bin && ! -L $bin ]] || is_our_link "$bin" || die_foreign "$bin"
}

die_foreign() {
    die "$1 is not from oneconvert; move it away first"
}

# --- The manifest, and files that are only touched when they change ---------------------------------------------------

load_manifest() {
    [[ ! -f $manifest ]] || mapfile -t entries <"$manifest"
}

# Replaced by rename: a half-written list would make --uninstall forget files.
save_manifest() {
    half_written=$manifest.new
    printf '%s\n' "${entries[@]}" >"$half_written"
    own "$half_written"
    mv -fT -- "$half_written" "$manifest"
    half_written=""
}

# remember d|f PATH: recorded before it is made, so that nothing can exist unrecorded.
remember() {
    local entry="$1 ${2#"$root"/}" known
    for known in "${entries[@]}"; do
        [[ $known != "$entry" ]] || return 0
    done
    entries+=("$entry")
    [[ ! -d $lib ]] || save_manifest
}

# own PATH: under remotes all belongs to the owner of remotes, elsewhere to the owner of the surrounding directory.
own() {
    local like=${1%/*}
    ((EUID == 0)) || return 0
    [[ $1 != "$remotes"/* ]] || like=$remotes
    chown -hR --reference="${like:-/}" -- "$1"
}

make_directory() {
    [[ ! -d $1 ]] || return 0
    make_directory "${1%/*}"
    remember d "$1"
    mkdir -- "$1"
    own "$1"
    changed=yes
}

# put_file SOURCE TARGET MODE
put_file() {
    local source=$1 target=$2 mode=$3
    remember f "$target"
    if cmp -s -- "$source" "$target" && [[ $(stat -c %a -- "$target") == "$mode" ]]; then
        return
    fi
    half_written=$(mktemp -- "${target%/*}/.oneconvert.XXXXXX")
    cat -- "$source" >"$half_written"
    chmod "$mode" -- "$half_written"
    own "$half_written"
    mv -fT -- "$half_written" "$target"
    half_written=""
    changed=yes
}

# --- The code: a venv per version, and a link to the current one ------------------------------------------------------

# stage_source: a copy of what gets installed, since building writes beside the source. Prints its digest.
stage_source() {
    mkdir -- "$work/stage"
    cp -R -- "$checkout/src" "$checkout/setup.cfg" "$checkout/pyproject.toml" "$work/stage"
    find "$work/stage" \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf -- {} +
    (
        cd -- "$work/stage"
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12
    )
    # The description of the package, no part of the code.
    local text
    for text in README.md LICENSE; do
        [[ ! -f $checkout/$text ]] || cp -- "$checkout/$text" "$work/stage"
    done
}

# is_healthy VENV DIGEST: complete, of this digest, and its packages fit together. -B: looking must not write.
is_healthy() {
    [[ -f $1/.oneconvert && $(<"$1/.oneconvert") == "$2" ]] || return 1
    runs "$1"
}

runs() {
    "$1/bin/python3" -I -B -c 'import oneconvert.cli.main' >"$work/log" 2>&1 &&
        "$1/bin/python3" -I -B -m pip check >"$work/log" 2>&1
}

# build_venv VENV DIGEST: made at its final place, because the programs in a venv name it.
build_venv() {
    local venv=$1 digest=$2 python extra
    local pip=("$venv/bin/python3" -I -m pip install --no-input --no-cache-dir --disable-pip-version-check)
    read -r -a extra <<<"${ONECONVERT_PIP_ARGS:-}"
    python=$(find_python)
    building=$venv
    rm -rf -- "$venv"
    if ! { run_logged "$python" -I -m venv "$venv" &&
        run_logged "${pip[@]}" --prefer-binary "${extra[@]}" "$work/stage" && runs "$venv"; }; then
        show_log
        die "the Python packages could not be installed; the installation is as it was before"
    fi
    printf '%s\n' "$digest" >"$venv/.oneconvert"
}

install_code() {
    local digest venv previous
    digest=$(stage_source)
    venv=$lib/venv-$digest
    previous=$(readlink -- "$lib/venv" || true)
    if [[ $previous == "${venv##*/}" ]] && is_healthy "$venv" "$digest"; then
        say code "$lib/venv (unchanged)"
        return
    fi
    make_directory "$lib"
    ((${#entries[@]} == 0)) || save_manifest
    if ! is_healthy "$venv" "$digest"; then
        say code "building $venv"
        build_venv "$venv" "$digest"
        own "$venv"
        building=""
    fi
    switch_venv "${venv##*/}" "$previous"
    say code "$lib/venv -> ${venv##*/}"
    changed=yes
}

# switch_venv NEW PREVIOUS: PREVIOUS stays, running imports use it.
switch_venv() {
    local new=$1 previous=$2 old
    half_written=$lib/venv.new
    ln -sfn -- "$new" "$half_written"
    own "$half_written"
    mv -fT -- "$half_written" "$lib/venv"
    half_written=""
    for old in "$lib"/venv-*; do
        [[ ${old##*/} == "$new" || ${old##*/} == "$previous" ]] || rm -rf -- "$old"
    done
}

# --- Install ----------------------------------------------------------------------------------------------------------

install_wrappers() {
    local target source native
    for target in "${wrappers[@]}"; do
        source=$checkout/remotes/datastore/oneconvert/delegate
        native=${target%/*}
        native=$remotes/datastore/${native##*/oneconvert_}/${target##*/}
        # Ours, or looked at before the native driver gets it, or without a native driver.
        if [[ ${target##*/} =~ ^(cp|stat)$ || ! -e $native ]]; then
            source=$checkout/remotes/datastore/oneconvert/cp
        fi
        make_directory "${target%/*}"
        put_file "$source" "$target" 755
    done
    say drivers "$(join ' ' "${drivers[@]/#/oneconvert_}")"
}

# What an earlier installation made for a native driver, or an action, that no longer exists.
remove_stale_wrappers() {
    local entry path kept=() wanted
    wanted=$(printf '%s\n' "${wrappers[@]}" "${wrappers[@]%/*}")
    for entry in "${entries[@]}"; do
        path=$root/${entry#? }
        if [[ $path != "$remotes"/datastore/* ]] || grep -qxF -- "$path" <<<"$wanted"; then
            kept+=("$entry")
        elif [[ $entry == f* ]]; then
            ! is_ours "$path" || rm -f -- "$path"
        fi
    done
    for entry in "${entries[@]}"; do
        path=$root/${entry#? }
        if [[ $entry == d* && $path == "$remotes"/datastore/* ]] && ! grep -qxF -- "$path" <<<"$wanted"; then
            if rmdir -- "$path" 2>/dev/null; then
                say removed "${path##*/}: its native driver is gone"
            elif [[ -d $path ]]; then
                say kept "$path: it holds files that are not from oneconvert"
                kept+=("$entry")
            fi
        fi
    done
    if ((${#kept[@]} != ${#entries[@]})); then
        entries=("${kept[@]}")
        save_manifest
        changed=yes
    fi
}

install_command() {
    local target
    make_directory "${bin%/*}"
    target=$(realpath --relative-to="${bin%/*}" -- "$lib")/venv/bin/oneconvert
    remember f "$bin"
    if [[ $(readlink -- "$bin" || true) != "$target" ]]; then
        half_written=$bin.new
        ln -sfn -- "$target" "$half_written"
        own "$half_written"
        mv -fT -- "$half_written" "$bin"
        half_written=""
        changed=yes
    fi
    say command "$bin"
}

# The administrator's changes win; the default that was installed last tells whether there are any.
install_config() {
    local default=$checkout/remotes/etc/oneconvert/oneconvert.conf installed_default=$lib/share/oneconvert.conf mode=644
    [[ ! -f $config ]] || mode=$(stat -c %a -- "$config")
    make_directory "${config%/*}"
    make_directory "${installed_default%/*}"
    if [[ ! -e $config ]] || cmp -s -- "$config" "$installed_default" || cmp -s -- "$config" "$default"; then
        put_file "$default" "$config" "$mode"
        say settings "$config"
    else
        say settings "$config (yours, kept; the new default is $installed_default)"
    fi
    put_file "$default" "$installed_default" 644
}

# A venv on a Python that only root can reach installs well and then fails in oned.
warn_unless_oned_can_run_it() {
    local ids
    ids=$(stat -c '--reuid=%u --regid=%g' -- "$remotes")
    ((EUID == 0)) || return 0
    # shellcheck disable=SC2086  # two options
    setpriv $ids --clear-groups "$lib/venv/bin/python3" -I -B -c '' 2>/dev/null ||
        say warning "$(stat -c %U -- "$remotes") cannot run $lib/venv/bin/python3: put it where that user can read"
}

print_next_steps() {
    local names example=${drivers[0]}
    names=$(join , "${drivers[@]}")
    [[ ",$names," != *,fs,* ]] || example=fs
    if [[ $changed == yes ]]; then
        title "Installed. What is left to do, on every front-end:"
    else
        title "Nothing to change: all of this was in place."
    fi
    printf '\n'
    "$lib/venv/bin/oneconvert" oned-conf --drivers "$names" 2>/dev/null ||
        printf '# Add the lines of %s to %s.\n' "$checkout/share/oned.conf/oneconvert.conf" "$oned_conf"
    cat <<NEXT

# Then restart OpenNebula while no image is LOCKED:   systemctl restart opennebula
# and switch a datastore:   onedatastore update <id>   with   DS_MAD="oneconvert_$example"
NEXT
}

install_all() {
    local version
    version=$(sed -n 's/^version *= *//p' -- "$checkout/setup.cfg")
    locate
    take_lock
    choose_drivers
    refuse_foreign_files
    check_writable
    title "oneconvert $version for OpenNebula $(cat -- "$remotes/VERSION" 2>/dev/null || echo "in $remotes")"
    ensure_packages
    load_manifest
    # A first installation that fails leaves nothing behind.
    [[ -L $lib/venv ]] || undo=yes
    install_code
    install_wrappers
    [[ -n $drivers_wanted ]] || remove_stale_wrappers
    install_command
    install_config
    undo=no
    warn_unless_oned_can_run_it
}

# --- Uninstall --------------------------------------------------------------------------------------------------------

# remove_file PATH: only what is still ours.
remove_file() {
    local saved
    [[ -e $1 || -L $1 ]] || return 0
    if [[ $1 == "$config" ]]; then
        if ! cmp -s -- "$1" "$lib/share/oneconvert.conf"; then
            saved=$(mktemp /var/tmp/oneconvert.conf.XXXXXX)
            cat -- "$1" >"$saved"
            say saved "your settings: $saved"
        fi
    elif ! is_ours "$1" && ! is_our_link "$1"; then
        say kept "$1: it is not from oneconvert"
        return
    fi
    rm -f -- "$1"
}

# The wrappers go before the code that they run, directories last and only when they are empty.
remove_installation() {
    local i path
    for ((i = ${#entries[@]} - 1; i >= 0; i--)); do
        path=$root/${entries[i]#? }
        [[ ${entries[i]} != f* || $path == "$lib"/* ]] || remove_file "$path"
    done
    rm -rf -- "$lib/venv" "$lib"/venv-* "$lib/share/oneconvert.conf" "$manifest"
    for ((i = ${#entries[@]} - 1; i >= 0; i--)); do
        path=$root/${entries[i]#? }
        if [[ ${entries[i]} == d* && -d $path ]]; then
            rmdir -- "$path" 2>/dev/null || say kept "$path: it is not empty"
        fi
    done
}

uninstall_oneconvert() {
    local count=0 entry
    locate
    take_lock
    if [[ ! -f $manifest ]]; then
        echo "oneconvert is not installed here: nothing to remove."
        return
    fi
    check_writable
    load_manifest
    for entry in "${entries[@]}"; do
        [[ $entry != "f "*/datastore/oneconvert_*/cp ]] || count=$((count + 1))
    done
    trap '' INT TERM HUP
    title "Removing oneconvert"
    remove_installation
    say removed "$count drivers, $lib, $bin"
    [[ ! -e $log ]] || say kept "$log: what the imports did"
    if grep -qs '^[^#]*oneconvert_' -- "$oned_conf"; then
        say "to do" "switch datastores that use oneconvert_ drivers back, and take these names out of $oned_conf"
    fi
}

# --- Demo -------------------------------------------------------------------------------------------------------------

# The demo is a real installation, in a directory of the checkout and behind a stand-in of the native driver.
run_demo() {
    export ONE_LOCATION=$checkout/.demo
    mkdir -p -- "$ONE_LOCATION/var/remotes" "$ONE_LOCATION/etc"
    cp -R -- "$checkout/share/demo/remotes/." "$ONE_LOCATION/var/remotes"
    install_all
    # exec runs no exit trap.
    rm -rf -- "$work"
    exec "$lib/venv/bin/python3" "$checkout/share/demo/demo.py" "${demo_arguments[@]}"
}

main() {
    parse_options "$@"
    if [[ $task == help ]]; then
        usage
        return
    fi
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    make_work_directory
    case $task in
        install)
            install_all
            print_next_steps
            ;;
        uninstall) uninstall_oneconvert ;;
        demo) run_demo ;;
    esac
}

main "$@"
