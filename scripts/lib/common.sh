# shellcheck shell=bash
# What the scripts share; sourced, not run. Works in the bash 3.2 that macOS has.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

note() {
  echo "${0##*/}: $*" >&2
}

# Where the macos-* presets find their compiler (SHOAL_LLVM) and CMake the packages that Homebrew does not link.
use_homebrew() {
  if [ "$(uname -s)" != Darwin ] || ! command -v brew > /dev/null; then return 0; fi
  local prefix
  prefix=$(brew --prefix)
  export SHOAL_LLVM=${SHOAL_LLVM:-$prefix/opt/llvm@19}
  export CMAKE_PREFIX_PATH=${CMAKE_PREFIX_PATH:-$prefix/opt/openssl@3:$prefix/opt/sqlite:$prefix}
}

default_preset() {
  case $(uname -s) in
    Darwin) echo macos-release ;;
    *) echo linux-release ;;
  esac
}

# folder_of PRESET: where it is built. linux-portable shares all but a few units with linux-release, and so its folder.
folder_of() {
  case $1 in
    linux-portable) echo "$ROOT/build/linux-release" ;;
    *) echo "$ROOT/build/$1" ;;
  esac
}

# configure PRESET: quiet when nothing went wrong. A folder that was configured so since the presets changed is left to the build, which
# configures again by itself where it has to.
configure() {
  local folder log
  folder=$(folder_of "$1")
  if [ -f "$folder/build.ninja" ] && [ "$folder/.configured" -nt "$ROOT/CMakePresets.json" ] && [ "$(cat "$folder/.configured")" = "$1" ]; then
    return 0
  fi
  note "configuring $1"
  log=$(mktemp)
  if ! (cd "$ROOT" && cmake --preset "$1") > "$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    die "cannot configure $1"
  fi
  rm -f "$log"
  echo "$1" > "$folder/.configured"
}

# build PRESET [TARGET...]: one line when there was nothing to do.
build() {
  local preset=$1
  shift
  note "building $preset"
  if [ $# = 0 ]; then
    (cd "$ROOT" && cmake --build --preset "$preset") >&2
  else
    (cd "$ROOT" && cmake --build --preset "$preset" --target "$@") >&2
  fi
}

all_presets() {
  case $(uname -s) in
    Darwin) echo macos-release ;;
    *) echo linux-release linux-asan linux-tsan linux-portable ;;
  esac
}

jobs_at_once() {
  getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2
}

# usage SCRIPT: the comment at its head.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

usage_error() {
  echo "${0##*/}: $*" >&2
  exit 2
}
