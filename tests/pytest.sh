#!/bin/sh
# Finds a pytest, and runs it: sh tests/pytest.sh -k greet
# Sought in this order: the environment's python3, the system's, a virtual environment in build/.
# Without one: Debian's package, if it can be installed without asking; else that environment.
#     sh tests/pytest.sh --find     no more than that: `make test` asks before it compiles
set -u
cd "$(dirname "$0")/.." || exit 1

export PYTHONDONTWRITEBYTECODE=1
build=${BUILD:-build}
venv=$build/venv

say() { printf 'make test: %s\n' "$*" >&2; }

fits() { "$1" -c 'import sys, pytest; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1; }

find_pytest() {
    for python in python3 /usr/bin/python3 "$venv/bin/python"; do
        fits "$python" && return
    done
    return 1
}

# Says what it is about to do, and does it as root: as we are, or with a sudo that does not ask.
install_package() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then root=; else sudo -n true 2>/dev/null && root='sudo -n' || return 1; fi
    say "there is no pytest here: installing Debian's package (${root:+sudo }apt-get install" \
        "python3-pytest)"
    get="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=60"
    $get install python3-pytest >/dev/null 2>&1 && return
    $get update >/dev/null 2>&1 && $get install python3-pytest >/dev/null 2>&1
}

# No index, no network: give up at once rather than try again for minutes.
make_venv() {
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' \
            2>/dev/null || continue
        say "there is no pytest here: making a virtual environment for it ($venv)"
        rm -rf "$venv"
        "$python" -m venv "$venv" >/dev/null 2>&1 || continue
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --retries 0 --timeout 10 pytest >/dev/null 2>&1 && return
    done
    rm -rf "$venv"
    return 1
}

# Advice that works where it is given: a package manager first, as pip and venv are often missing.
advice() {
    if command -v sudo >/dev/null; then root='sudo '; else root='(as root) '; fi
    if command -v apt-get >/dev/null; then
        echo "${root}apt-get update && ${root#(as root) }apt-get install python3-pytest"
    elif command -v dnf >/dev/null; then
        echo "${root}dnf install python3-pytest"
    elif command -v pacman >/dev/null; then
        echo "${root}pacman -S python-pytest"
    else
        echo "the package that your system has for it (python3-pytest, python-pytest, py3-pytest)"
    fi
}

if ! find_pytest; then
    { install_package || make_venv; } </dev/null
    if ! find_pytest; then
        say "pytest is missing, for a Python of 3.9 or later; to install it: $(advice)"
        exit 1
    fi
fi
[ "${1-}" = --find ] && exit

# All there is: in parts, at the same time.
[ $# = 0 ] && [ -z "${STAGE:-}${SERVER:-}" ] && exec "$python" -m tests.parts

# All tests, unless the words name files of their own.
tests=tests
for word; do
    [ -e "${word%%::*}" ] && tests=
done
exec "$python" -m pytest $tests "$@"
