# Language level, optimisation, hardening and sanitizers, for every target of the tree.
# Warnings are not here: they are for hand-written code only (nl_warnings, NodelinkHelpers.cmake).

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release or Debug" FORCE)
endif()

# Asserts guard replicated state, so no build type turns them off.
set(CMAKE_C_FLAGS_RELEASE "-O2 -g -UNDEBUG")
set(CMAKE_C_FLAGS_DEBUG "-O0 -g")

add_compile_definitions(_GNU_SOURCE)
add_compile_options(-fno-omit-frame-pointer -fdiagnostics-color=auto)
include_directories(${PROJECT_SOURCE_DIR})

include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
add_link_options(-Wl,--as-needed)

if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NL_SANITIZE STREQUAL "")
    add_compile_options(-fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
    add_link_options(-Wl,-z,relro,-z,now)
endif()

if(NL_FAILPOINTS)
    add_compile_definitions(NL_FAILPOINTS=1)
endif()

if(NL_FUZZ AND NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "NL_FUZZ needs clang: cmake --preset fuzz")
endif()

if(NL_SANITIZE STREQUAL "address")
    set(_san -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(NL_SANITIZE STREQUAL "thread")
    set(_san -fsanitize=thread)
elseif(NL_SANITIZE)
    message(FATAL_ERROR "NL_SANITIZE is '${NL_SANITIZE}', not empty, address or thread")
endif()
if(NL_FUZZ)
    list(APPEND _san -fsanitize=fuzzer-no-link)
endif()
if(_san)
    # -O1: the stack traces stay readable and the tests three times as fast as with -O0.
    add_compile_options(-O1 ${_san})
    add_link_options(${_san})
endif()
