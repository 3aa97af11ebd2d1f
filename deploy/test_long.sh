#!/usr/bin/env bash
# make test-long: what takes too long for every change. Slow tests, every sanitizer check, fuzzing.
#
#   FUZZ_SECONDS (60)  for each fuzz target
set -euo pipefail
cd "$(dirname "$0")/.."

readonly JOBS=${JOBS:-$(nproc)}
readonly FUZZ_SECONDS=${FUZZ_SECONDS:-60}

build() {
  local preset=$1
  shift
  mkdir -p build
  cmake --preset "$preset" >"build/$preset.log" 2>&1 || { cat "build/$preset.log"; exit 1; }
  ninja -C "build/$preset" -j "$JOBS" "$@"
}

slow_tests() {
  build release
  ctest --test-dir build/release --output-on-failure -L slow
}

full_sanitizers() {
  build asan-full
  ctest --test-dir build/asan-full --output-on-failure -j "$JOBS" -L 'unit|e2e|fuzz' \
    -LE 'slow|gpu|nosan'
}

# New inputs go to build/, findings too: a finding is fixed and its input added to the corpus.
fuzz() {
  build fuzz fuzzers
  local name corpus found=build/fuzz/found
  mkdir -p "$found"
  while read -r name corpus; do
    echo "fuzzing $name for $FUZZ_SECONDS s"
    mkdir -p "$found/$name"
    "build/fuzz/bin/$name" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 \
      -artifact_prefix="$found/$name-" -print_final_stats=0 -verbosity=0 "$found/$name" "$corpus"
  done <build/fuzz/fuzzers.txt
}

slow_tests
full_sanitizers
fuzz
echo "test-long passed in $SECONDS s"
