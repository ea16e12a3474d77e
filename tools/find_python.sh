#!/bin/sh
# Print a Python that can make an environment for force-stream, or say on stderr in one line why there is none.
# Each candidate is run, because a name may be there and not work: a pyenv shim, or the stub of macOS or Windows.
#
#     sh tools/find_python.sh [THE ONE TO TRY FIRST]

probe='
import sys
print("%d.%d.%d" % sys.version_info[:3])
if sys.version_info < (3, 12):
    sys.exit(3)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)
'
found='' old='' bare=''

try() {
    version=$("$1" -c "$probe" 2>/dev/null)
    case $? in
        0) found=$1 ;;
        3) old="$old${old:+, }$1 is $version" ;;
        4) bare=${bare:-"$1 ($version) has none; on Debian and Ubuntu: apt install python${version%.*}-venv"} ;;
    esac
    [ -n "$found" ]
}

search() {
    if [ -n "$1" ] && try "$1"; then return; fi
    for name in python3.14 python3.13 python3.12 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python; do
        try "$name" && return
    done
    name=$(uv python find --system '>=3.12' 2>/dev/null) && try "$name"
}

if search "${1:-}"; then
    echo "$found"
elif [ -n "$bare" ]; then
    echo "force-stream needs Python's venv module; $bare" >&2
    exit 1
else
    echo "force-stream needs Python 3.12 or newer; found: ${old:-none}. Try: make PYTHON=/path/to/python3.13 … or: uv python install 3.13" >&2
    exit 1
fi
