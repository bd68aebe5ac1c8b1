# Third-party code as imported targets nl::<name>. Their headers are SYSTEM: no warnings from them.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

# nl_dependency(<name> <pkg-config module with optional version>...) defines nl::<name>.
function(nl_dependency name)
    pkg_check_modules(NL_DEP_${name} QUIET IMPORTED_TARGET ${ARGN})
    if(NOT NL_DEP_${name}_FOUND)
        message(FATAL_ERROR "Missing: ${ARGN}. Run scripts/bootstrap, then configure again.")
    endif()
    add_library(nl_dep_${name} INTERFACE)
    target_link_libraries(nl_dep_${name} INTERFACE PkgConfig::NL_DEP_${name})
    add_library(nl::${name} ALIAS nl_dep_${name})
endfunction()

nl_dependency(protobufc libprotobuf-c>=1.4)
nl_dependency(uv libuv>=1.44)
nl_dependency(ssl openssl>=3.0)
nl_dependency(lz4 liblz4)
nl_dependency(jansson jansson)
nl_dependency(curl libcurl)
nl_dependency(microhttpd libmicrohttpd)
nl_dependency(xxhash libxxhash)
nl_dependency(cmocka cmocka)

# gRPC's pkg-config file names some eighty C++ libraries that libgrpc.so brings along by itself.
pkg_check_modules(NL_DEP_grpc QUIET grpc)
find_library(NL_GRPC_LIBRARY grpc)
find_library(NL_GPR_LIBRARY gpr)
if(NOT NL_DEP_grpc_FOUND OR NOT NL_GRPC_LIBRARY OR NOT NL_GPR_LIBRARY)
    message(FATAL_ERROR "Missing: grpc. Run scripts/bootstrap, then configure again.")
endif()
add_library(nl_dep_grpc INTERFACE)
target_link_libraries(nl_dep_grpc INTERFACE ${NL_GRPC_LIBRARY} ${NL_GPR_LIBRARY} Threads::Threads)
add_library(nl::grpc ALIAS nl_dep_grpc)

# libraft: the patched static build of scripts/build-raft; Debian's own packages are not safe.
set(NL_RAFT_PREFIX ${PROJECT_SOURCE_DIR}/.deps/raft CACHE PATH "Prefix made by scripts/build-raft")
if(EXISTS ${NL_RAFT_PREFIX}/stamp)
    # As a target, so that what it needs follows it on the linker's command line.
    add_library(nl_dep_raft STATIC IMPORTED GLOBAL)
    set_target_properties(nl_dep_raft PROPERTIES
        IMPORTED_LOCATION ${NL_RAFT_PREFIX}/lib/libraft.a)
    target_include_directories(nl_dep_raft SYSTEM INTERFACE ${NL_RAFT_PREFIX}/include)
    target_link_libraries(nl_dep_raft INTERFACE nl::uv nl::lz4)
    add_library(nl::raft ALIAS nl_dep_raft)
else()
    message(FATAL_ERROR "Missing: ${NL_RAFT_PREFIX}. Run scripts/bootstrap, then configure again.")
endif()

find_program(NL_PROTOC_C protoc-c)
find_program(NL_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
foreach(program IN ITEMS NL_PROTOC_C NL_PYTHON)
    if(NOT ${program})
        message(FATAL_ERROR "Missing: ${program}. Run scripts/bootstrap, then configure again.")
    endif()
endforeach()
