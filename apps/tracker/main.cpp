#include "common/process.hpp"
#include "tracker/run.hpp"

import shoal.base;

int main(int argc, char** argv) {
  using namespace shoal::apps;
  prepare_streams();
  return guarded("shoal-tracker", [&] {
    const auto command = parse_tracker(inputs_of(argc, argv));
    return command ? static_cast<int>(run_tracker(*command)) : say("shoal-tracker", command.error());
  });
}
