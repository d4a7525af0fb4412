#!/bin/sh
# Makes .venv and installs one of the locked sets into it, every file checked against its hash.
#
#   sh deploy/setup.sh        what `make run` needs
#   sh deploy/setup.sh dev    what the tests and checks need as well
#
# Needs Python 3.11-3.13 and nothing else: where Debian left out venv, it is installed (root) or its pip is
# borrowed for this folder (anybody else). A copy of the lock file in .venv says what is installed, so a second call
# costs milliseconds.
set -eu
cd "$(dirname "$0")/.."

case "${1:-run}" in
  run) lock=requirements.lock ;;
  dev) lock=requirements-dev.lock ;;
  *) echo "usage: sh deploy/setup.sh [run|dev]" >&2; exit 2 ;;
esac
say() { echo "==> $*" >&2; }
fail() { echo "setup: $*" >&2; exit 1; }

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
  for candidate in python3.11 python3.12 python3.13 python3; do
    if usable "$candidate"; then command -v "$candidate"; return; fi
  done
  fail "needs Python 3.11, 3.12 or 3.13, and none is on the PATH. On Debian 12: apt-get install python3"
}

# Debian keeps the pip that venv would install in a package of its own, which anybody may download and unpack.
borrow_pip() {
  say "Python has no ensurepip and you are not root: borrowing Debian's pip for .venv"
  mkdir -p .venv/pip
  (cd .venv/pip && apt-get download -qq python3-pip-whl && dpkg -x python3-pip-whl_*.deb .) >&2 ||
    fail "cannot make a virtual environment. As root, once: apt-get update && apt-get install python3-venv"
}

make_venv() {
  python=$(find_python)
  say "Making .venv with $("$python" --version)"
  rm -rf .venv
  if "$python" -m venv .venv >/dev/null 2>&1; then return; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Python has no ensurepip: installing Debian's python3-venv"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "$(basename "$(readlink -f "$python")")-venv"; } >/dev/null || fail "apt-get install python3-venv failed"
    rm -rf .venv
    "$python" -m venv .venv
  else
    rm -rf .venv
    "$python" -m venv --without-pip .venv
    borrow_pip
  fi
}

pip() {
  borrowed=$(find .venv/pip/usr/share/python-wheels -name 'pip-*.whl' 2>/dev/null || true)
  PYTHONPATH="$borrowed" PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip "$@"
}

usable .venv/bin/python || make_venv
if cmp -s "$lock" ".venv/$lock"; then exit 0; fi
say "Installing $(grep -c '==' "$lock") packages from $lock (about half a minute, once)"
pip install -qq --require-hashes --no-deps --only-binary :all: -r "$lock" || fail "pip could not install $lock"
# The development set holds the other one whole, version for version.
cp requirements.lock .venv/
cp "$lock" .venv/
say "Ready"
