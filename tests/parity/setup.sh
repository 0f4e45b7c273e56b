#!/bin/sh
# Make the environments of the reference libraries under var/parity: they pin versions of their own, ours must not see them.
set -eu
cd "$(dirname "$0")/../.."
make_environment() {
    name=$1
    shift
    [ -e "var/parity/$name/ready" ] && return
    python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
    "$python" -m venv --clear "var/parity/$name"
    "var/parity/$name/bin/pip" install --quiet --disable-pip-version-check "$@"
    touch "var/parity/$name/ready"
}
make_environment torch 'torch>=2.11,<2.14' pytorch-forecasting==1.8.0 pytorch-optimizer==4.1.0 adabelief-pytorch==0.2.1
make_environment finance alphalens-reloaded==0.5.1 empyrical-reloaded==0.7.1 statsmodels==0.15.0
