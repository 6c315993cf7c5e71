# shoal_room(NAME USES room... LINKS target...): the library of one room.
# modules/NAME.cppm is its interface (with modules/NAME-PART.cppm as partitions), src/NAME/*.cpp its implementation.
function(shoal_room name)
  cmake_parse_arguments(ARG "" "" "USES;LINKS" ${ARGN})
  set(target shoal_${name})
  file(GLOB interfaces CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/modules/${name}.cppm ${PROJECT_SOURCE_DIR}/modules/${name}-*.cppm)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp)
  add_library(${target} STATIC)
  target_sources(${target}
    PUBLIC FILE_SET CXX_MODULES BASE_DIRS ${PROJECT_SOURCE_DIR}/modules FILES ${interfaces}
    PRIVATE ${sources})
  list(TRANSFORM ARG_USES PREPEND shoal::)
  target_link_libraries(${target} PUBLIC ${ARG_USES} ${ARG_LINKS} PRIVATE shoal_warnings)
  add_library(shoal::${name} ALIAS ${target})
endfunction()

# shoal_often_run(target...): code in loops over bytes and messages is made faster in the builds with sanitizers, too, where all else is compiled faster.
function(shoal_often_run)
  foreach(target ${ARGN})
    target_compile_options(${target} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1>)
  endforeach()
endfunction()

# shoal_seldom_run(target...): code that nobody waits for is compiled faster instead of made faster.
function(shoal_seldom_run)
  foreach(target ${ARGN})
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endforeach()
endfunction()

# shoal_app(NAME DIR USES room... LINKS target...): one command, from DIR/*.cpp. Its *options.cpp, state.cpp and nodes.cpp are libraries of their own.
function(shoal_app name dir)
  cmake_parse_arguments(ARG "" "" "USES;LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${dir}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "(options|state|nodes)\\.cpp$")
  add_executable(${name} ${sources})
  list(TRANSFORM ARG_USES PREPEND shoal::)
  target_link_libraries(${name} PRIVATE ${ARG_USES} ${ARG_LINKS} shoal_allocator shoal_warnings)
  shoal_seldom_run(${name})
  install(TARGETS ${name} RUNTIME)
endfunction()
