#!/usr/bin/env bash
# make gpu-test: the tests that need a GPU, on a GPU host. Uses a build of the cuda preset, or the
# folder given as first argument (a bundle's or build's bin/).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-build/cuda/bin}
[ -x "$bin/fathomd" ] || {
  echo "gpu_test: no fathomd in $bin (cmake --preset cuda && ninja -C build/cuda)" >&2
  exit 1
}
command -v nvidia-smi >/dev/null || { echo "gpu_test: this host has no NVIDIA driver" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
if [ -x "$bin/cuda_ops_test" ]; then "$bin/cuda_ops_test"; fi
if [ -x "$bin/cuda_step_test" ]; then "$bin/cuda_step_test"; fi
python3 tests/gpu/compare_devices.py --bin "$bin/fathomd" --seconds "${GPU_TEST_SECONDS:-45}"
