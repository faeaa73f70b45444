# Shared by the scripts beside it: one virtual environment in .venv, installed once per change of the requirements.
# Usage: . scripts/lib.sh; ensure_venv "extra,extra"; then $PY is its Python.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PY=.venv/bin/python

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "error: Python 3.11 or newer is needed"
    say "hint: on Debian or Ubuntu: apt-get install python3 python3-venv; or set PYTHON=/path/to/python"
    exit 1
}

# Debian and Ubuntu ship the venv module in a package of its own.
need_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    local package
    package=$("$1" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the system package $package"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } >/dev/null
    else
        say "error: Python's venv module is missing"
        say "hint: sudo apt-get install $package"
        exit 1
    fi
}

# ensure_venv EXTRAS: an editable install of the project with these extras, at the versions of constraints.txt.
ensure_venv() {
    local wanted stamp=".venv/.installed-${1//,/-}" python
    wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d ' ' -f 1)
    [ -x "$PY" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    if ! "$PY" -m pip --version >/dev/null 2>&1; then  # none yet, or one that was interrupted
        python=$(find_python)
        need_venv_module "$python"
        say "making a virtual environment in .venv"
        "$python" -m venv --clear .venv
    fi
    say "installing swashplate[$1] (once)"
    "$PY" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$1]" >&2
    printf '%s\n' "$wanted" >"$stamp"
}
