module;

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

module shoal.bundle;

namespace shoal {

struct Places::State {
  explicit State(std::size_t most) : left(most) {}

  std::mutex mutex;
  std::size_t left;
  std::map<const void*, std::size_t> taken;

  bool take(const void* whose) {
    const std::lock_guard lock(mutex);
    const auto has = taken.find(whose);
    if ((has == taken.end() ? 0 : has->second) >= left) return false;
    ++taken[whose];
    --left;
    return true;
  }
  void give_back(const void* whose) {
    const std::lock_guard lock(mutex);
    ++left;
    if (const auto has = taken.find(whose); --has->second == 0) taken.erase(has);
  }
};

Places::Places(std::size_t most) : state_(std::make_shared<State>(most)) {}

std::shared_ptr<void> Places::take(const void* whose) {
  if (!state_->take(whose)) return nullptr;
  return {state_.get(), [state = state_, whose](void*) { state->give_back(whose); }};
}

}  // namespace shoal
