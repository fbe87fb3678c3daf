# Helpers that every folder of csrc/ uses: common flags, one library, one test program per test file.

# Flags of all our code. Contraction is off because a clip's bits may not depend on which sums the compiler fuses;
# kernels that want FMA ask for it by name. The instruction set stays at the x86-64 baseline here: kernels for wider
# ones are compiled with flags of their own and chosen at run time.
add_library(gaitcrafter_flags INTERFACE)
target_compile_features(gaitcrafter_flags INTERFACE cxx_std_20)
target_compile_options(gaitcrafter_flags INTERFACE -ffp-contract=off -fno-math-errno -Wall -Wextra)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms on std::string concatenation (GCC bug 105651).
  target_compile_options(gaitcrafter_flags INTERFACE -Wno-restrict)
endif()
target_include_directories(gaitcrafter_flags INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
# The cache of packed weights tells builds apart by it (csrc/cache/build_id.h).
target_link_options(gaitcrafter_flags INTERFACE -Wl,--build-id=sha1)
if(GAITCRAFTER_SANITIZE)
  target_compile_options(gaitcrafter_flags INTERFACE "-fsanitize=${GAITCRAFTER_SANITIZE}" -fno-omit-frame-pointer
                                                     -fno-sanitize-recover=all)
  target_link_options(gaitcrafter_flags INTERFACE "-fsanitize=${GAITCRAFTER_SANITIZE}")
endif()

# gaitcrafter_sources(FILE...): adds sources of the calling folder to the core library.
function(gaitcrafter_sources)
  target_sources(gaitcrafter_core PRIVATE ${ARGN})
endfunction()

# gaitcrafter_test(NAME FILE...): one GoogleTest program linked with the core, registered with ctest as NAME.
function(gaitcrafter_test name)
  if(NOT GAITCRAFTER_TESTS)
    return()
  endif()
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE gaitcrafter_testing gaitcrafter_core GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE "GAITCRAFTER_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  add_test(NAME ${name} COMMAND ${name})
  # Tests leave nothing in the cache of whoever runs them; those of the cache name one of their own.
  set_tests_properties(${name} PROPERTIES ENVIRONMENT GAITCRAFTER_CACHE=off)
endfunction()
