# Sourced by quickstart.sh and run_tests.sh: makes .venv on the first call and sets PYTHON to its interpreter.
# HAT_VENV names another folder.

venv=${HAT_VENV:-$PWD/.venv}
stamp=$venv/.hat-installed
wanted=$(cat setup.py constraints.txt | cksum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ] ||
    ! "$venv/bin/python" -c 'import configargparse' 2>/dev/null; then # gone, or another version by now
    base=${PYTHON:-python3}
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "Python 3.10 or newer is needed, $base is older; set PYTHON to a newer one" >&2
        exit 2
    }
    echo "installing into $venv (a few minutes on the first run)"
    "$base" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable '.[all]'
    echo "$wanted" >"$stamp"
fi
PYTHON=$venv/bin/python
export PYTHON
