#!/bin/sh
# Finds a pytest, and runs it: sh tests/pytest.sh -k greet
# The environment's python3, the system's, a virtual environment under build/, Debian's package.
set -u
cd "$(dirname "$0")/.." || exit 1

export PYTHONDONTWRITEBYTECODE=1
venv=build/venv

fits() { "$1" -c 'import sys, pytest; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1; }

find_pytest() {
    for python in python3 /usr/bin/python3 $venv/bin/python; do
        fits $python && return
    done
    return 1
}

# No index, no network: give up at once rather than try again for minutes.
make_venv() {
    for python in python3 /usr/bin/python3; do
        rm -rf $venv
        $python -m venv $venv >/dev/null 2>&1 || continue
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
            --retries 0 --timeout 10 pytest >/dev/null 2>&1 && return
    done
    rm -rf $venv
    return 1
}

install_package() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y python3-pytest >/dev/null 2>&1 && return
    apt-get update -qq >/dev/null 2>&1 && apt-get install -qq -y python3-pytest >/dev/null 2>&1
}

if ! find_pytest; then
    echo "there is no pytest yet: trying to get one" >&2
    { make_venv || install_package; } </dev/null
    if ! find_pytest; then
        echo "the tests need pytest: install it (apt-get install python3-pytest, or pip install" \
             "pytest) for a Python of 3.9 or later" >&2
        exit 1
    fi
fi

# All there is, in parts at the same time: most of it is waiting. The matrix goes to the background,
# and is shown when the rest is done.
if [ $# = 0 ] && [ -z "${STAGE:-}${SERVER:-}" ]; then
    mkdir -p build/tests
    parts=
    for stages in 1-3 4-5 6; do
        $python -m pytest tests/test_matrix.py --stage=$stages >build/tests/stages-$stages.txt 2>&1 &
        parts="$parts $!"
    done
    trap 'kill $parts 2>/dev/null; exit 130' INT TERM
    $python -m pytest tests --ignore=tests/test_matrix.py
    status=$?
    for part in $parts; do wait "$part" || status=$?; done
    cat build/tests/stages-*.txt
    exit $status
fi

# All tests, unless the words name files of their own.
tests=tests
for word; do
    [ -e "${word%%::*}" ] && tests=
done
exec $python -m pytest $tests "$@"
