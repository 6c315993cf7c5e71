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

# configure PRESET: quiet when nothing went wrong. A build folder that is there already is only brought up to date by the build.
configure() {
  local build=$ROOT/build/$1 log
  if [ -f "$build/build.ninja" ] && [ "$build/CMakeCache.txt" -nt "$ROOT/CMakePresets.json" ]; then return 0; fi
  note "configuring $1"
  log=$(mktemp)
  if ! (cd "$ROOT" && cmake --preset "$1") > "$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    die "cannot configure preset $1"
  fi
  rm -f "$log"
  # A configuration in which nothing changed leaves the cache's time alone.
  touch "$build/CMakeCache.txt"
}
