#!/bin/sh
# Writes the generated files of this directory anew: sh k8s/generate.sh (needs `extproc` on the PATH).
set -eu
cd "$(dirname "$0")"
extproc manifests -f examples/qwq-32b/pool.yaml --inline --part router --output base
extproc manifests -f examples/qwq-32b/pool.yaml --inline --base base --output envoy-gateway
extproc manifests -f examples/qwq-32b/pool.yaml --for ai-gateway --base base --output inference-pool
extproc manifests -f examples/qwq-32b/pool.yaml --for istio --base base --output inference-pool-istio
extproc manifests -f examples/canary/router.yaml --gateway inference-gateway --port 8081 --base base --output examples/canary/router
extproc manifests -f examples/mirror/router.yaml --gateway inference-gateway --port 8081 --base base --output examples/mirror/router
