#!/usr/bin/env bash
# Build the environment: through uv when it is installed, through pip when it is not or when uv fails.
# Reads PYTHON (interpreter), VENV (folder), EXTRAS (comma list).
set -euo pipefail

target=".[${EXTRAS}]"
options=(-c constraints.txt -e "$target")

# uv reads none of pip's settings; a torch wheel on this machine is found only through them
find_links=${PIP_FIND_LINKS:-$("$PYTHON" -m pip config get global.find-links 2>/dev/null || true)}

with_uv() {
    command -v uv >/dev/null || return 1
    [ -z "$find_links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "$find_links" | tr -s ' \n' ',')}"
    { [ -x "$VENV/bin/python" ] || uv venv --quiet --seed --python "$PYTHON" "$VENV"; } &&
        uv pip install --quiet --python "$VENV/bin/python" "${options[@]}"
}

with_pip() {
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install -qq "${options[@]}"
}

echo "building the environment in $VENV (once, a few minutes)"
if with_uv; then
    echo "environment ready (uv)"
else
    with_pip
    echo "environment ready (pip)"
fi
