# shellcheck shell=sh
# Sourced by the scripts beside it; plain sh. Expects ROOT, the checkout's folder.

say() { printf '%s\n' "$*"; }
fail() { say "$0: $*" >&2; exit 1; }

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

# apt_install PACKAGE...: as root on Debian or Ubuntu install them, elsewhere say what is missing and return 1.
apt_install() {
    if ! can_apt; then
        say "missing here: $* (install with your system's package manager)"
        return 1
    fi
    say "installing with apt-get: $*"
    _log=$(mktemp)
    # RUNLEVEL=1 keeps the packages' services (sshd, docker) from being started now. A machine that has just been
    # started may be installing updates by itself: its lock is waited for.
    _patient="-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300"
    # shellcheck disable=SC2086  # several words
    if { [ -n "${APT_UPDATED-}" ] || apt-get $_patient update -qq || true; } >"$_log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get $_patient install -qq -y --no-install-recommends "$@" \
            >>"$_log" 2>&1 </dev/null; then
        APT_UPDATED=1
        rm -f "$_log"
        return 0
    fi
    say "apt-get failed:"
    tail -n 15 "$_log"
    rm -f "$_log"
    return 1
}

# find_python: set PYTHON to an interpreter of 3.10 or newer that can make a venv; return 1 when there is none.
find_python() {
    for PYTHON in python3 python3.13 python3.12 python3.11 python3.10; do
        "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && return 0
    done
    PYTHON=
    return 1
}

need_python() {
    find_python && return 0
    apt_install python3 python3-venv || fail "Python 3.10 or newer with venv is needed"
    find_python || fail "no Python of 3.10 or newer with venv among python3, python3.13 ... python3.10"
}

# install_into VENV PIP-ARGUMENTS...: by uv when it can be had (seconds), else by pip (a minute).
install_into() {
    _venv=$1
    shift
    if [ -x "$_venv/bin/uv" ] || "$_venv/bin/python" -m pip install -q --disable-pip-version-check uv </dev/null 2>/dev/null; then
        (
            settings=$("$_venv/bin/python" "$ROOT/tests/support/packages.py" uv) && eval "$settings"
            "$_venv/bin/uv" pip install -q --python "$_venv/bin/python" "$@" </dev/null
        ) && return 0
        say "uv could not install this; trying pip"
    fi
    "$_venv/bin/python" -m pip install -q --disable-pip-version-check "$@" </dev/null
}

# test_venv: make .test-venv with the package, what its tests need and the checkers, unless it is up to date.
test_venv() {
    VENV=$ROOT/.test-venv
    need_python
    _want=$("$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)' | cat - "$ROOT/pyproject.toml" "$ROOT/scripts/constraints.txt" | cksum)
    _want="$_want $ROOT"
    [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/stamp" 2>/dev/null)" = "$_want" ] && return 0
    say "making .test-venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$VENV"
    install_into "$VENV" -c "$ROOT/scripts/constraints.txt" -e "${ROOT}[dev]"
    printf %s "$_want" >"$VENV/stamp"
}
