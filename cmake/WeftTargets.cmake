# Compile options shared by all our code, and the functions that declare a folder's library and its tests.

add_library(weft_options INTERFACE)
target_compile_options(weft_options INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wshadow;-Wno-unknown-pragmas>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow,-Wno-unknown-pragmas>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False alarms of GCC 12 about std::string concatenation and its own AVX-512 headers.
  target_compile_options(weft_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict;-Wno-maybe-uninitialized>)
endif()
if(WEFT_OPENMP)
  target_link_libraries(weft_options INTERFACE OpenMP::OpenMP_CXX)
endif()
if(WEFT_SANITIZE)
  # Half of the time that this takes to compile goes to checks of undefined behaviour. So the tests' own code has none,
  # and what the address sanitizer sees as a fault anyway (a null pointer, an object that is too small) is left to it.
  target_compile_options(weft_options INTERFACE
    -fsanitize=${WEFT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all
    -fno-sanitize=null,object-size,vptr,nonnull-attribute,returns-nonnull-attribute
    $<$<BOOL:$<TARGET_PROPERTY:WEFT_IS_TEST>>:-fno-sanitize=undefined>)
  target_link_options(weft_options INTERFACE -fsanitize=${WEFT_SANITIZE})
endif()
if(WEFT_FUZZ)
  target_compile_options(weft_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer
                                                -fno-sanitize-recover=all)
  target_link_options(weft_options INTERFACE -fsanitize=address,undefined)
endif()

# weft_library(NAME SOURCES … [PUBLIC targets …] [PRIVATE targets …])
function(weft_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC weft_options ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
endfunction()

# weft_test(NAME SOURCES … [DEPENDS targets …] [RANKS n …]): a GoogleTest binary, run alone or, with RANKS, once under
# mpirun for each number of ranks. Sources that bring their own main (tests/support/mpi_main.cpp) say so with OWN_MAIN.
function(weft_test name)
  cmake_parse_arguments(ARG "OWN_MAIN" "" "SOURCES;DEPENDS;RANKS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES WEFT_IS_TEST ON)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  # What tests compare is fast already; optimising the comparisons would take a third of the time to build.
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:$<IF:$<CONFIG:Release>,-O1,-O0>>)
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} weft_options weft_test_paths GTest::gmock)
  if(NOT ARG_OWN_MAIN)
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
  endif()
  # GoogleTest's TempDir(): not that of tests that run at the same time.
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/${name}_files/)
  file(MAKE_DIRECTORY ${folder})
  if(NOT ARG_RANKS)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 600 ENVIRONMENT TEST_TMPDIR=${folder})
  endif()
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${name}_ranks_${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe --bind-to none -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}_ranks_${ranks} PROPERTIES TIMEOUT 600 PROCESSORS 2 ENVIRONMENT TEST_TMPDIR=${folder})
  endforeach()
endfunction()

# weft_command_test(NAME SOURCES … [DEPENDS targets …] [HEAVY]): a test that starts the program, weft_binary().
# HEAVY ones run alone, and not under the sanitizers, where the same code runs on small models.
function(weft_command_test name)
  cmake_parse_arguments(ARG "HEAVY" "" "SOURCES;DEPENDS" ${ARGN})
  weft_test(${name} SOURCES ${ARG_SOURCES} DEPENDS ${ARG_DEPENDS} fmt::fmt nlohmann_json::nlohmann_json)
  add_dependencies(${name} weft)
  if(ARG_HEAVY)
    set_tests_properties(${name} PROPERTIES LABELS heavy PROCESSORS 2)
  endif()
endfunction()
