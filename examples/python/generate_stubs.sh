#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generates the Python stubs of spillway.v1 into a folder (default: beside this script).
# Needs: pip install grpcio-tools
set -eu
here=$(cd "$(dirname "$0")" && pwd)
proto=${SPILLWAY_PROTO:-$here/../../proto}
out=${1:-$here}
mkdir -p "$out"
python3 -m grpc_tools.protoc --proto_path="$proto" --python_out="$out" --grpc_python_out="$out" \
  spillway/v1/inference.proto spillway/v1/admin.proto google/rpc/status.proto google/rpc/error_details.proto
