#include "tracker/run.hpp"

import shoal.base;

int main(int argc, char** argv) {
  using namespace shoal::apps;
  return guarded("shoal-tracker", [&] {
    const auto command = parse_tracker(inputs_of(argc, argv));
    return command ? static_cast<int>(run_tracker(*command)) : say(command.error());
  });
}
