module;

#include <boost/asio/execution_context.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;

namespace shoal::sim {

Loop::~Loop() {
  end();
  destroy();
}

void Loop::end() {
  // What is still suspended ends here, and may post once more while it does.
  is_ending_ = true;
  std::vector<Ready> ready = std::exchange(ready_, {});
  std::vector<Place> places = std::exchange(places_, {});
  ready.clear();
  places.clear();
  shutdown();
}

void Loop::ready(Job job) {
  if (is_ending_) return;
  ready_.push_back({std::move(job), next_number_++});
}

TimerId Loop::at(Nanoseconds due, Job job) {
  if (is_ending_) return {};
  std::uint32_t place = 0;
  if (free_.empty()) {
    place = static_cast<std::uint32_t>(places_.size());
    places_.emplace_back();
  } else {
    place = free_.back();
    free_.pop_back();
  }
  places_[place].job = std::move(job);
  due_.push_back({std::max(due, now_), next_number_++, place});
  std::push_heap(due_.begin(), due_.end());
  return {place, places_[place].use};
}

void Loop::cancel(TimerId timer) {
  if (timer.use == 0 || is_ending_ || places_[timer.place].use != timer.use) return;
  Job dropped = std::move(places_[timer.place].job);  // its place is free once its time has come
  ++places_[timer.place].use;
}

void Loop::release(std::uint32_t place) {
  if (places_[place].job) {
    ready_.push_back({std::move(places_[place].job), next_number_++});
    ++places_[place].use;
  }
  free_.push_back(place);
}

/// Makes everything ready that is due at the next moment at which anything is.
bool Loop::advance(Nanoseconds end) {
  while (ready_.empty()) {
    if (due_.empty() || due_.front().when > end) return false;
    now_ = due_.front().when;
    while (!due_.empty() && due_.front().when == now_) {
      std::pop_heap(due_.begin(), due_.end());
      const std::uint32_t place = due_.back().place;
      due_.pop_back();
      release(place);
    }
  }
  return true;
}

bool Loop::step(Nanoseconds end) {
  if (ready_.empty() && !advance(end)) return false;
  const std::size_t chosen = ready_.size() == 1 ? 0 : random_.below(ready_.size());
  Ready next = std::move(ready_[chosen]);
  if (chosen + 1 < ready_.size()) ready_[chosen] = std::move(ready_.back());
  ready_.pop_back();
  ++steps_;
  note(static_cast<std::uint64_t>(now_.count()) ^ next.number << 20);
  next.job();
  return true;
}

}  // namespace shoal::sim
