#!/usr/bin/env bash
# make gpu-test: the tests that need a GPU, on a GPU host. In a checkout it uses a build of the cuda
# preset; in an unpacked bundle with fathom-gpu-tests unpacked over it, the bundle's programs.
#
#   deploy/gpu_test.sh [--seconds SECONDS_OF_LOAD] [--sanitize] [--only WORDS] [BIN_FOLDER]
#
# --sanitize also runs the op table under compute-sanitizer's four tools (of the CUDA toolkit).
# --only: parts whose names begin with one of the words, by commas.
#
# What measures neither time nor the device's memory runs side by side, as many processes as there
# are processors; what does, alone and after it. Every part runs whatever became of the others; the
# seconds and the outcome of each stand at the end.
set -uo pipefail
cd "$(dirname "$0")/.."

fail() { echo "gpu_test: $*" >&2; exit 1; }

seconds=45
bin=
sanitize=0
only=
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) [ $# -ge 2 ] || fail "--seconds needs a number"; seconds=$2; shift 2 ;;
    --only) [ $# -ge 2 ] || fail "--only needs words"; only=$2; shift 2 ;;
    --sanitize) sanitize=1; shift ;;
    -*) fail "unknown argument '$1' (--seconds, --sanitize, --only)" ;;
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
[ "$sanitize" = 0 ] || command -v compute-sanitizer >/dev/null ||
  fail "--sanitize needs compute-sanitizer on the PATH"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

E2E_FATHOMD=$(realpath "$bin/fathomd")
export E2E_FATHOMD
readonly side_seconds_max=420 # of a part beside others
readonly alone_seconds_max=$((seconds + 120))
at_once=$(nproc)
logs=$(mktemp -d)
started=()
ended=0
trap 'rm -rf "$logs"' EXIT

asked() {
  local word
  [ -n "$only" ] || return 0
  for word in ${only//,/ }; do [[ $1 != "$word"* ]] || return 0; done
  return 1
}

# record NAME BEGIN CODE: for the list at the end, and said at once, in case it never comes.
record() {
  printf '%s %s\n' "$((SECONDS - $2))" "$3" >"$logs/$1.end"
  echo "-- $1: code $3 after $((SECONDS - $2)) s"
}

# side NAME COMMAND...: beside the others, once there is room.
side() {
  local name=$1
  shift
  asked "$name" || return 0
  while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n || true; done
  started+=("$name")
  (
    begin=$SECONDS code=0
    timeout -k 5 "$side_seconds_max" "$@" >"$logs/$name" 2>&1 || code=$?
    record "$name" "$begin" "$code"
  ) &
}

# alone NAME COMMAND...: what it says is shown as it comes.
alone() {
  local name=$1 begin=$SECONDS code=0
  shift
  asked "$name" || return 0
  echo "== $name"
  started+=("$name")
  timeout -k 5 "$alone_seconds_max" "$@" || code=$?
  record "$name" "$begin" "$code"
  ended=${#started[@]}
}

code_of() { cut -d' ' -f2 "$logs/$1.end" 2>/dev/null || echo lost; }

# Waits for all that run side by side, and shows what they said: all of those that failed, of
# others what sums them up.
join() {
  local name
  wait
  for name in "${started[@]:$ended}"; do
    echo "== $name"
    if [ "$(code_of "$name")" = 0 ]; then
      grep -aE '\[  PASSED|SUMMARY|checkpoints equal|^(reference|native|drafts)' "$logs/$name" |
        cut -c1-200
    else
      grep -aE '\[  FAILED|SUMMARY|Race reported|Invalid ' "$logs/$name" | cut -c1-200 |
        sort | uniq -c | head -n 20
      tail -n 40 "$logs/$name" | cut -c1-300
    fi
  done
  ended=${#started[@]}
}

# sanitize TOOL COUNT: the product of many rows, and the op table on our kernels alone (racecheck
# would name cuBLASLt's), each in a shape that is done with soon, in COUNT processes. Each takes ops
# whole: a tool prepares every kernel anew in each process that runs it, and V2-Lite's experts take
# 5 GB of each that makes them.
sanitize() {
  local tool=$1 count=$2 i
  side "$tool.many" compute-sanitizer --tool "$tool" --error-exitcode 1 "$bin/cuda_many_test"
  for ((i = 0; i < count; i++)); do
    side "$tool.$i" env GTEST_TOTAL_SHARDS="$count" GTEST_SHARD_INDEX="$i" \
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$bin/cuda_ops_test" --threads 4 \
      --gtest_filter='-*_library:*_again'
  done
}

# Beside others a server takes a part of the device's memory.
readonly cache=1GiB
side families env E2E_ARGS="--kv-cache-memory-bytes=$cache" \
  python3 tests/e2e/families.py --device cuda
side packed env E2E_ARGS="--kv-cache-memory-bytes=$cache" \
  python3 tests/e2e/families.py --device cuda --packed
side eval env FATHOM_KV_CACHE_MEMORY_BYTES=$cache \
  python3 deploy/demo-model/tools/eval.py --bin "$bin" --device cuda --against cpu
if [ "$sanitize" = 1 ]; then
  sanitize racecheck 8
  sanitize initcheck 4
  sanitize memcheck 3
  sanitize synccheck 2
  # What our kernels leave to cuBLASLt, and what they leave in its workspace.
  side memcheck.library compute-sanitizer --tool memcheck --error-exitcode 1 \
    "$bin/cuda_ops_test" --threads 4 \
    --gtest_filter='*sample_native_library:*gated_linear_native_library'
fi
while read -r kind name; do
  [ "$kind" = test ] || continue
  side "$name" "$bin/$name"
done <"$list"
side neutral "$bin/cuda_ops_test" --neutral # the kernels of every architecture
join

json=$logs/step.json
alone workspace "$bin/step_bench" --strict 1 --rounds 1 --seconds 0.1 --json "$json" \
  v2-lite:fp8 64x1024,p8192,64x1024+p4096 v3-slice:fp8 p8192
alone workspace_fp8_cache "$bin/step_bench" --strict 1 --rounds 1 --seconds 0.1 --json "$json" \
  --fp8-cache 1 v2-lite:fp8 p4096+8192 llama-8b:fp8 256x1024,p8192
alone compare_devices python3 tests/gpu/compare_devices.py --bin "$bin/fathomd" --seconds "$seconds"
alone test_runtime python3 tests/gpu/test_runtime.py --bin "$bin" --seconds "$seconds"
alone load_test env E2E_ARGS=--device=cuda python3 tests/e2e/load_test.py --mtls --any-tokens \
  --clients 256 --seconds "$seconds"

failed=()
echo "== seconds"
for name in "${started[@]}"; do
  code=$(code_of "$name")
  read -r took _ <"$logs/$name.end" 2>/dev/null || took='?'
  case $code in
    0) outcome=passed ;;
    124 | 137) outcome="failed: cut off after its time" ;;
    *) outcome="failed ($code)" ;;
  esac
  printf '%6s  %s: %s\n' "$took" "$name" "$outcome"
  [ "$code" = 0 ] || failed+=("$name")
done
[ "${#started[@]}" -gt 0 ] || fail "no part is named $only"
[ "${#failed[@]}" = 0 ] || fail "failed, of $SECONDS s: ${failed[*]}"
echo "gpu_test: passed in $SECONDS s"
