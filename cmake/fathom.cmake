# Build rules shared by every folder: one library per folder, one test program per group of files.
include_guard(GLOBAL)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# bin/ finds lib/ beside it, in the build tree as in a bundle. DT_RPATH, not DT_RUNPATH, so that it
# holds for the libraries that our libraries need, too.
set(CMAKE_BUILD_RPATH "$ORIGIN/../lib")
add_link_options(-Wl,--disable-new-dtags)

find_program(FATHOM_CCACHE ccache)
if(FATHOM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${FATHOM_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${FATHOM_CCACHE}")
endif()

# -march=x86-64-v3 (AVX2, FMA, F16C) is the floor of the CPU backend. Wider functions carry their
# instruction set as an attribute and are chosen when the ops are made (src/ops/cpu/instructions.h).
add_library(fathom_options INTERFACE)
target_compile_options(fathom_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-march=x86-64-v3;-fno-math-errno>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Werror>)
if(FATHOM_SANITIZER STREQUAL "address")
  # The checks left out cost most of the compile time; `full` keeps them.
  set(FATHOM_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-sanitize=vptr,null,alignment,object-size,nonnull-attribute,returns-nonnull-attribute
    -fno-omit-frame-pointer)
elseif(FATHOM_SANITIZER STREQUAL "full")
  set(FATHOM_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
elseif(FATHOM_SANITIZER STREQUAL "thread")
  set(FATHOM_SANITIZE_FLAGS -fsanitize=thread $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-tsan>
    -fno-omit-frame-pointer)
elseif(NOT FATHOM_SANITIZER STREQUAL "")
  message(FATAL_ERROR
    "FATHOM_SANITIZER must be address, full, thread or empty, not '${FATHOM_SANITIZER}'")
endif()
if(FATHOM_FUZZ)
  set(FATHOM_SANITIZE_FLAGS -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer)
endif()
if(FATHOM_SANITIZE_FLAGS)
  target_compile_options(fathom_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:${FATHOM_SANITIZE_FLAGS}>)
  target_link_options(fathom_options INTERFACE ${FATHOM_SANITIZE_FLAGS})
endif()

# What sanitized tests run under, and with which options.
set(FATHOM_SUPPRESSIONS "${PROJECT_SOURCE_DIR}/tests")
set(FATHOM_TEST_ENVIRONMENT
  "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1"
  "LSAN_OPTIONS=print_suppressions=0:suppressions=${FATHOM_SUPPRESSIONS}/lsan.supp"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=ignore_noninstrumented_modules=1:suppressions=${FATHOM_SUPPRESSIONS}/tsan.supp")
set(FATHOM_TEST_LAUNCHER)
if(FATHOM_SANITIZER STREQUAL "thread")
  # g++ 12's TSan cannot place its shadow where the kernel randomizes 32 bits of mmap.
  find_program(FATHOM_SETARCH setarch REQUIRED)
  set(FATHOM_TEST_LAUNCHER ${FATHOM_SETARCH} -R)
endif()

# fathom_module(NAME SOURCES a.cpp ... [DEPS folders] [LIBS third-party targets])
# makes the static library fathom_NAME. DEPS are checked by tests/tidy against the table of
# docs/architecture.md.
function(fathom_module name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_library(fathom_${name} STATIC ${arg_SOURCES})
  target_link_libraries(fathom_${name} PRIVATE fathom_options)
  target_link_libraries(fathom_${name} PUBLIC fathom_include Threads::Threads)
  foreach(dep IN LISTS arg_DEPS)
    target_link_libraries(fathom_${name} PUBLIC fathom_${dep})
  endforeach()
  target_link_libraries(fathom_${name} PUBLIC ${arg_LIBS})
endfunction()

# fathom_plugin(NAME SOURCES ... [DEPS ...] [LIBS ...]) makes lib/libfathom_NAME.so, opened with
# dlopen from ../lib of the program. It exports what its sources mark with default visibility.
function(fathom_plugin name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_library(fathom_${name} MODULE ${arg_SOURCES})
  set_target_properties(fathom_${name} PROPERTIES CXX_VISIBILITY_PRESET hidden
    BUILD_RPATH "$ORIGIN;/usr/local/cuda/lib64" BUILD_RPATH_USE_ORIGIN ON)
  target_link_libraries(fathom_${name} PRIVATE fathom_options fathom_include Threads::Threads)
  foreach(dep IN LISTS arg_DEPS)
    target_link_libraries(fathom_${name} PRIVATE fathom_${dep})
  endforeach()
  target_link_libraries(fathom_${name} PRIVATE ${arg_LIBS})
endfunction()

# fathom_program(NAME SOURCES ... DEPS ... LIBS ...) makes an executable in build/<preset>/bin.
function(fathom_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE fathom_options fathom_include Threads::Threads)
  foreach(dep IN LISTS arg_DEPS)
    target_link_libraries(${name} PRIVATE fathom_${dep})
  endforeach()
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
endfunction()

# fathom_register(NAME COMMAND words... [LABELS ...] [TIMEOUT seconds] [SERIAL]) registers a test
# that is no GoogleTest program (a script, a replay) with the labels and environment of the others.
# Labels: unit, e2e, fuzz, tidy, slow (make test-long), gpu (make gpu-test); the folder's name is
# added. SERIAL: no other test runs beside it.
function(fathom_register name)
  cmake_parse_arguments(arg "SERIAL" "TIMEOUT" "COMMAND;LABELS" ${ARGN})
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(FATHOM_SANITIZER)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 4")
  endif()
  cmake_path(GET CMAKE_CURRENT_SOURCE_DIR FILENAME folder)
  add_test(NAME ${name} COMMAND ${FATHOM_TEST_LAUNCHER} ${arg_COMMAND})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS};${folder}" TIMEOUT ${arg_TIMEOUT}
    RUN_SERIAL ${arg_SERIAL} ENVIRONMENT "${FATHOM_TEST_ENVIRONMENT}")
endfunction()

# fathom_test(NAME SOURCES ... DEPS ... [LIBS ...] [ARGS ...] [LABELS ...] [TIMEOUT s] [SERIAL])
# makes a GoogleTest program and registers it. `ninja tests_<folder>` builds a folder's tests.
function(fathom_test name)
  cmake_parse_arguments(arg "SERIAL" "TIMEOUT" "SOURCES;DEPS;LIBS;ARGS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE
    fathom_options fathom_include GTest::gtest_main Threads::Threads)
  foreach(dep IN LISTS arg_DEPS)
    target_link_libraries(${name} PRIVATE fathom_${dep})
  endforeach()
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
  target_compile_definitions(${name} PRIVATE FATHOM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  set(serial)
  if(arg_SERIAL)
    set(serial SERIAL)
  endif()
  fathom_register(${name} COMMAND $<TARGET_FILE:${name}> ${arg_ARGS} LABELS ${arg_LABELS}
    TIMEOUT ${arg_TIMEOUT} ${serial})
  cmake_path(GET CMAKE_CURRENT_SOURCE_DIR FILENAME folder)
  if(NOT TARGET tests_${folder})
    add_custom_target(tests_${folder})
  endif()
  add_dependencies(tests_${folder} ${name})
  if(gpu IN_LIST arg_LABELS)
    fathom_gpu_test(${name})
  endif()
endfunction()

# fathom_gpu_test(NAME [BENCHMARK] [DATA files or folders]): what `make bundle` packs for GPU hosts,
# which have no build tree. `ninja gpu_tests` builds the programs; deploy/gpu_test.sh runs those
# that are no benchmarks. A GoogleTest program with the label gpu is named already; call it again
# for its DATA, which it finds with tests/support/source_folder.h.
function(fathom_gpu_test name)
  cmake_parse_arguments(arg "BENCHMARK" "" "DATA" ${ARGN})
  if(NOT TARGET gpu_tests)
    add_custom_target(gpu_tests)
  endif()
  add_dependencies(gpu_tests ${name})
  if(arg_BENCHMARK)
    set_property(GLOBAL APPEND PROPERTY FATHOM_GPU_FILES "benchmark ${name}")
  else()
    set_property(GLOBAL APPEND PROPERTY FATHOM_GPU_FILES "test ${name}")
  endif()
  foreach(path IN LISTS arg_DATA)
    cmake_path(ABSOLUTE_PATH path NORMALIZE)
    cmake_path(RELATIVE_PATH path BASE_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_property(GLOBAL APPEND PROPERTY FATHOM_GPU_FILES "data ${path}")
  endforeach()
endfunction()

# Writes gpu_tests.txt beside bin/: a line for every program and every piece of data.
function(fathom_write_gpu_list)
  get_property(lines GLOBAL PROPERTY FATHOM_GPU_FILES)
  list(REMOVE_DUPLICATES lines)
  list(JOIN lines "\n" text)
  file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/gpu_tests.txt" CONTENT "${text}\n" @ONLY)
endfunction()

# fathom_fuzz(NAME SOURCES ... [DEPS ...] [LIBS ...] CORPUS folder): a libFuzzer entry point
# (LLVMFuzzerTestOneInput). With FATHOM_FUZZ (preset `fuzz`, clang) it becomes a fuzzer in bin/,
# built by `ninja fuzzers`; otherwise a program that replays the files of CORPUS, a test with label
# fuzz.
function(fathom_fuzz name)
  cmake_parse_arguments(arg "" "CORPUS" "SOURCES;DEPS;LIBS" ${ARGN})
  cmake_path(ABSOLUTE_PATH arg_CORPUS)
  if(FATHOM_FUZZ)
    add_executable(${name} ${arg_SOURCES})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    if(NOT TARGET fuzzers)
      add_custom_target(fuzzers)
    endif()
    add_dependencies(fuzzers ${name})
    file(APPEND "${CMAKE_BINARY_DIR}/fuzzers.txt" "${name} ${arg_CORPUS}\n")
  else()
    add_executable(${name} ${arg_SOURCES} "${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.cpp")
    fathom_register(${name} COMMAND $<TARGET_FILE:${name}> "${arg_CORPUS}" LABELS fuzz)
  endif()
  target_link_libraries(${name} PRIVATE fathom_options fathom_include Threads::Threads)
  foreach(dep IN LISTS arg_DEPS)
    target_link_libraries(${name} PRIVATE fathom_${dep})
  endforeach()
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
endfunction()
