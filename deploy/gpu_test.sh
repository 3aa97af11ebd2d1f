#!/usr/bin/env bash
# make gpu-test: the tests that need a GPU, on a GPU host. In a checkout it uses a build of the cuda
# preset; in an unpacked bundle with fathom-gpu-tests unpacked over it, the bundle's programs.
#
#   deploy/gpu_test.sh [--seconds SECONDS_OF_LOAD] [--sanitize] [BIN_FOLDER]
#
# --sanitize also runs the op table under compute-sanitizer's four tools (of the CUDA toolkit).
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "gpu_test: $*" >&2; exit 1; }

seconds=45
bin=
sanitize=0
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) [ $# -ge 2 ] || fail "--seconds needs a number"; seconds=$2; shift 2 ;;
    --sanitize) sanitize=1; shift ;;
    -*) fail "unknown argument '$1' (--seconds, --sanitize)" ;;
    *) bin=$1; shift ;;
  esac
done
if [ -z "$bin" ]; then
  bin=bin
  [ -d "$bin" ] || bin=build/cuda/bin
fi
list=$bin/../gpu_tests.txt
[ -x "$bin/fathomd" ] || fail "no fathomd in $bin (cmake --preset cuda && ninja -C build/cuda)"
[ -f "$list" ] || fail "no $list: unpack fathom-gpu-tests.tar.xz over the bundle"
command -v nvidia-smi >/dev/null || fail "this host has no NVIDIA driver"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

failed=()

# sanitize TOOL: the op table under it, as several processes side by side (the CPU's side and the
# tool's own work take most of the time). Our kernels alone, each in a shape that is done with soon.
sanitize() {
  local tool=$1 shards=$((($(nproc) + 1) / 2)) logs pids=() good=0
  logs=$(mktemp -d)
  for ((i = 0; i < shards; i++)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i compute-sanitizer --tool "$tool" \
      --error-exitcode 1 "$bin/cuda_ops_test" --gtest_filter='-*_library:*_again' \
      >"$logs/$i" 2>&1 &
    pids+=($!)
  done
  for i in "${!pids[@]}"; do
    wait "${pids[$i]}" || { good=1; tail -n 40 "$logs/$i"; }
  done
  grep -h 'SUMMARY' "$logs"/* | sort | uniq -c
  rm -r "$logs"
  return "$good"
}

while read -r kind name; do
  [ "$kind" = test ] || continue
  echo "== $name"
  "$bin/$name" || failed+=("$name")
done <"$list"
echo "== cuda_ops_test on the kernels of every architecture"
"$bin/cuda_ops_test" --neutral || failed+=(cuda_ops_test_neutral)
echo "== step workspace against the memory plan"
times=$(mktemp)
"$bin/step_bench" --strict 1 --rounds 1 --seconds 0.1 --json "$times" \
  v2-lite:fp8 64x1024,p8192,64x1024+p4096 v3-slice:fp8 p8192 || failed+=(step_workspace)
"$bin/step_bench" --strict 1 --rounds 1 --seconds 0.1 --json "$times" --fp8-cache 1 \
  v2-lite:fp8 p4096+8192 llama-8b:fp8 256x1024,p8192 || failed+=(step_workspace_fp8_cache)
rm "$times"
if [ "$sanitize" = 1 ]; then
  command -v compute-sanitizer >/dev/null || fail "--sanitize needs compute-sanitizer on the PATH"
  for tool in memcheck racecheck initcheck synccheck; do
    echo "== cuda_ops_test under $tool"
    sanitize "$tool" || failed+=("$tool")
  done
fi
echo "== tiny checkpoints through the server"
E2E_FATHOMD=$(realpath "$bin/fathomd") python3 tests/e2e/families.py --device cuda ||
  failed+=(families)
echo "== demo model's figures"
python3 deploy/demo-model/tools/eval.py --bin "$bin" --device cuda --against cpu || failed+=(eval)
echo "== compare_devices"
python3 tests/gpu/compare_devices.py --bin "$bin/fathomd" --seconds "$seconds" ||
  failed+=(compare_devices)
echo "== test_runtime"
python3 tests/gpu/test_runtime.py --bin "$bin" --seconds "$seconds" || failed+=(test_runtime)
echo "== load_test, 256 clients over TLS with certificates"
E2E_FATHOMD=$(realpath "$bin/fathomd") E2E_ARGS="--device=cuda" \
  python3 tests/e2e/load_test.py --mtls --any-tokens --clients 256 --seconds "$seconds" ||
  failed+=(load_test)
[ "${#failed[@]}" = 0 ] || fail "failed: ${failed[*]}"
echo "gpu_test: passed in $SECONDS s"
