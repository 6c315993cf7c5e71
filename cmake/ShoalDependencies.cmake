# What shoal stands on, and how all of it is compiled. Everything here comes from the system's packages.
find_package(Threads REQUIRED)
find_package(Boost 1.83 REQUIRED CONFIG)
find_package(fmt REQUIRED CONFIG)
find_package(spdlog REQUIRED CONFIG)
find_package(tl-expected REQUIRED CONFIG)
find_package(OpenSSL 3 REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(SQLiteCpp REQUIRED CONFIG)
find_package(CLI11 REQUIRED CONFIG)
find_package(tomlplusplus REQUIRED CONFIG)
find_package(nlohmann_json REQUIRED CONFIG)

# libedit comes without a CMake package of its own. On macOS the one of Homebrew is newer than the system's.
find_path(SHOAL_EDITLINE_INCLUDE histedit.h HINTS /opt/homebrew/opt/libedit/include /usr/local/opt/libedit/include REQUIRED)
find_library(SHOAL_EDITLINE_LIBRARY edit HINTS /opt/homebrew/opt/libedit/lib /usr/local/opt/libedit/lib REQUIRED)
add_library(shoal_editline INTERFACE)
target_include_directories(shoal_editline SYSTEM INTERFACE ${SHOAL_EDITLINE_INCLUDE})
target_link_libraries(shoal_editline INTERFACE ${SHOAL_EDITLINE_LIBRARY})

# utf8proc, by its files: not every version has a CMake package.
find_path(SHOAL_UTF8PROC_INCLUDE utf8proc.h HINTS /opt/homebrew/opt/utf8proc/include /usr/local/opt/utf8proc/include REQUIRED)
find_library(SHOAL_UTF8PROC_LIBRARY utf8proc HINTS /opt/homebrew/opt/utf8proc/lib /usr/local/opt/utf8proc/lib REQUIRED)
add_library(shoal_utf8proc INTERFACE)
target_include_directories(shoal_utf8proc SYSTEM INTERFACE ${SHOAL_UTF8PROC_INCLUDE})
target_link_libraries(shoal_utf8proc INTERFACE ${SHOAL_UTF8PROC_LIBRARY})

# Programs allocate with jemalloc: docs/decisions/0016. Sanitizers bring their own allocator, and macOS's is kept.
add_library(shoal_allocator INTERFACE)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND NOT SHOAL_SANITIZE)
  find_library(SHOAL_JEMALLOC_LIBRARY jemalloc REQUIRED)
  target_link_libraries(shoal_allocator INTERFACE ${SHOAL_JEMALLOC_LIBRARY})
  target_sources(shoal_allocator INTERFACE ${PROJECT_SOURCE_DIR}/apps/common/allocator.cpp)
endif()

add_library(shoal_flags INTERFACE)
target_compile_definitions(shoal_flags INTERFACE
  SHOAL_VERSION="${PROJECT_VERSION}")
if(SHOAL_SANITIZE)
  target_compile_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(shoal_flags INTERFACE -fsanitize=${SHOAL_SANITIZE})
endif()
if(SHOAL_FUZZ)
  target_compile_options(shoal_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
# Modules are shared between targets, so the flags that change code have to be the same everywhere.
link_libraries(shoal_flags Threads::Threads)

# Warnings are for our own code: a private usage requirement of each room and app.
add_library(shoal_warnings INTERFACE)
target_compile_options(shoal_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor -Wold-style-cast
  $<$<BOOL:${SHOAL_WERROR}>:-Werror>)

# Asio is compiled once, here, and only declared elsewhere: it halves the time that each unit takes.
file(WRITE ${CMAKE_BINARY_DIR}/generated/asio.cpp "#include <boost/asio/impl/src.hpp>\n")
add_library(shoal_asio STATIC ${CMAKE_BINARY_DIR}/generated/asio.cpp)
set_target_properties(shoal_asio PROPERTIES CXX_SCAN_FOR_MODULES OFF)
target_compile_definitions(shoal_asio PUBLIC
  BOOST_ASIO_SEPARATE_COMPILATION BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_DISABLE_BOOST_COROUTINE)
# Asio counts references with std::atomic_thread_fence, which the thread sanitizer does not understand: it tells of a race where
# the last of several threads lets go of a strand. Boost's own counter, its alternative, does without.
if(SHOAL_SANITIZE MATCHES "thread")
  target_compile_definitions(shoal_asio PUBLIC BOOST_ASIO_DISABLE_STD_ATOMIC)
endif()
target_link_libraries(shoal_asio PUBLIC Boost::headers)
