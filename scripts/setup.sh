#!/usr/bin/env bash
# Make the virtual environment from the lock. Called by `make setup`, which gives PYTHON, UV, VENV.
set -euo pipefail
# Trust what this machine trusts, as pip does; a site may have a certificate authority of its own.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" UV_NATIVE_TLS="${UV_NATIVE_TLS:-1}" PIP_DISABLE_PIP_VERSION_CHECK=1
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "setup: Python 3.11 or later is needed; $PYTHON is $("$PYTHON" -V 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 2; }

if ! command -v "$UV" >/dev/null; then
  echo "setup: uv is absent; putting it into .uv"
  if "$PYTHON" -m venv .uv 2>/dev/null; then .uv/bin/python -m pip install --quiet 'uv>=0.9'
  elif "$PYTHON" -m pip install --quiet --target .uv 'uv>=0.9'; then :
  else echo "setup: this Python has neither venv nor pip; install uv (or python3-venv) and run again" >&2; exit 2
  fi
fi

echo "setup: installing the locked dependencies into $VENV"
"$UV" venv --quiet --allow-existing --seed --python "$PYTHON" "$VENV"
"$UV" pip install --quiet --python "$VENV/bin/python" --require-hashes -r requirements.lock
"$UV" pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation -e .
"$VENV/bin/python" scripts/install_torch.py
