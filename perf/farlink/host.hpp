/// A host of the lab on Linux: a network namespace with a name, and the TUN device in it whose other end we hold.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace farlink {

/// What ends the program, as the one line that a person is told.
class Failed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor() { reset(); }
  int get() const { return fd_; }
  void reset();

 private:
  int release();
  int fd_ = -1;
};

/// Removes the namespaces that were made, when it is destroyed and also when this process dies in any other way: a process of its own does
/// it, and it sees our end by a pipe that is closed then.
class Keeper {
 public:
  /// Throws Failed. Comes before all that is opened, so that the other process has none of it.
  Keeper();
  Keeper(const Keeper&) = delete;
  ~Keeper();
  /// From now on the namespace is removed in the end.
  void keep(const std::string& name);

 private:
  Descriptor pipe_;
  pid_t process_ = -1;
};

/// What every host's device is called, within its namespace.
inline constexpr const char* kDevice = "far0";
inline constexpr std::size_t kMtu = 1500;
/// Hosts have 10.77.0.1 and so on.
inline constexpr std::uint32_t kNetwork = 0x0A4D0000;

/// Makes the namespace, with the address 10.77.0.`number` on a TUN device, up, and returns the device. Throws Failed, and where the name is
/// taken changes nothing.
Descriptor make_host(Keeper& keeper, const std::string& name, std::uint32_t number);

}  // namespace farlink
