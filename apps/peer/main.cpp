#include "common/process.hpp"
#include "peer/run.hpp"

import shoal.base;

int main(int argc, char** argv) {
  using namespace shoal::apps;
  prepare_streams();
  return guarded("shoal-peer", [&] {
    const auto command = parse_peer(inputs_of(argc, argv));
    return command ? static_cast<int>(run_peer(*command)) : say("shoal-peer", command.error());
  });
}
