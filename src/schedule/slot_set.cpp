module;

#include <bit>
#include <cassert>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

constexpr std::size_t kWordBits = 64;

constexpr std::size_t word_of(Slot slot) { return slot.value / kWordBits; }
constexpr std::uint64_t bit_of(Slot slot) { return std::uint64_t{1} << (slot.value % kWordBits); }

}  // namespace

void SlotSet::resize(std::size_t slots) {
  size_ = slots;
  words_.resize((slots + kWordBits - 1) / kWordBits);
  // A set that shrinks and grows again must not find old slots in its last word.
  if (slots % kWordBits != 0) words_.back() &= (std::uint64_t{1} << (slots % kWordBits)) - 1;
}

bool SlotSet::has(Slot slot) const { return slot.value < size_ && (words_[word_of(slot)] & bit_of(slot)) != 0; }

bool SlotSet::insert(Slot slot) {
  assert(slot.value < size_);
  const bool is_news = !has(slot);
  words_[word_of(slot)] |= bit_of(slot);
  return is_news;
}

bool SlotSet::erase(Slot slot) {
  if (!has(slot)) return false;
  words_[word_of(slot)] &= ~bit_of(slot);
  return true;
}

std::size_t SlotSet::count() const {
  std::size_t slots = 0;
  for (const std::uint64_t word : words_) slots += static_cast<std::size_t>(std::popcount(word));
  return slots;
}

}  // namespace shoal
