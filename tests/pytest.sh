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

# All there is: the matrix, and at the same time, shown when the matrix is done, the rest. (Most of
# the matrix is waiting, most of the rest is compiling.)
if [ $# = 0 ] && [ -z "${STAGE:-}${SERVER:-}" ]; then
    rest=build/tests-beside-the-matrix.txt
    mkdir -p build
    $python -m pytest tests --ignore=tests/test_matrix.py >$rest 2>&1 &
    trap 'kill $! 2>/dev/null; exit 130' INT TERM
    $python -m pytest tests/test_matrix.py
    status=$?
    wait $! || status=$?
    cat $rest
    exit $status
fi

# All tests, unless the words name files of their own.
tests=tests
for word; do
    [ -e "${word%%::*}" ] && tests=
done
exec $python -m pytest $tests "$@"
