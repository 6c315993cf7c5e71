/// How network namespaces and TUN devices are made, and removed whatever happens.
#include "host.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <string_view>
#include <utility>

namespace farlink {
namespace {

/// Packets that a host's device holds for us while we are busy with others: at 10 Gbit, 12 ms.
constexpr int kDeviceQueue = 10'000;

[[noreturn]] void fail(const std::string& what) { throw Failed(what + ": " + std::strerror(errno)); }

Descriptor open_file(const std::string& path, int flags) {
  Descriptor file(open(path.c_str(), flags | O_CLOEXEC));
  if (file.get() < 0) fail("cannot open " + path);
  return file;
}

std::string path_of(const std::string& space) { return "/run/netns/" + space; }

/// Runs `ip netns COMMAND NAME`, which also makes /run/netns what it has to be. True if it succeeded.
bool run_ip(const char* command, const std::string& name) {
  const pid_t child = fork();
  if (child == 0) {
    execlp("ip", "ip", "netns", command, name.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// This thread is in another network namespace for as long as it lives.
class Inside {
 public:
  explicit Inside(const std::string& space) : home_(open_file("/proc/self/ns/net", O_RDONLY)) {
    if (setns(open_file(path_of(space), O_RDONLY).get(), CLONE_NEWNET) != 0) fail("cannot enter the namespace " + space);
  }
  Inside(const Inside&) = delete;
  ~Inside() {
    if (setns(home_.get(), CLONE_NEWNET) != 0) _exit(1);  // what comes next would be done to the wrong network
  }

 private:
  Descriptor home_;
};

ifreq request_for(const char* device) {
  ifreq request{};
  std::strncpy(request.ifr_name, device, sizeof(request.ifr_name) - 1);
  return request;
}

void control(int fd, unsigned long what, ifreq& request, const char* does) {
  if (ioctl(fd, what, &request) != 0) fail(std::string("cannot ") + does + " " + request.ifr_name);
}

void set_address(int fd, unsigned long what, std::uint32_t address, const char* does) {
  ifreq request = request_for(kDevice);
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(address);
  std::memcpy(&request.ifr_addr, &in, sizeof(in));
  control(fd, what, request, does);
}

void set_up(int fd, const char* device) {
  ifreq request = request_for(device);
  control(fd, SIOCGIFFLAGS, request, "read the flags of");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  control(fd, SIOCSIFFLAGS, request, "start");
}

Descriptor open_device() {
  Descriptor device = open_file("/dev/net/tun", O_RDWR | O_NONBLOCK);
  ifreq request = request_for(kDevice);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  control(device.get(), TUNSETIFF, request, "make the device");
  return device;
}

void configure(std::uint32_t number) {
  const Descriptor inet(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (inet.get() < 0) fail("cannot open a socket");
  ifreq request = request_for(kDevice);
  request.ifr_qlen = kDeviceQueue;
  control(inet.get(), SIOCSIFTXQLEN, request, "set the queue of");
  request = request_for(kDevice);
  request.ifr_mtu = kMtu;
  control(inet.get(), SIOCSIFMTU, request, "set the MTU of");
  set_address(inet.get(), SIOCSIFADDR, kNetwork + number, "give an address to");
  set_address(inet.get(), SIOCSIFNETMASK, 0xFFFFFF00, "give a netmask to");
  set_up(inet.get(), "lo");
  set_up(inet.get(), kDevice);
}

/// The keeper's life: it learns names until the other end of the pipe is gone, and removes them then.
[[noreturn]] void remove_at_end(int names) {
  setsid();  // what is sent to our group is not for it: it has its work still to do
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  const int nowhere = open("/dev/null", O_RDWR);
  for (const int standard : {0, 1, 2}) dup2(nowhere, standard);
  std::string text;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = read(names, buffer, sizeof(buffer))) != 0) {
    if (count > 0) text.append(buffer, static_cast<std::size_t>(count));
    if (count < 0 && errno != EINTR) break;
  }
  std::istringstream lines(text);
  for (std::string name; std::getline(lines, name);) run_ip("del", name);
  _exit(0);
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

void Descriptor::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

int Descriptor::release() { return std::exchange(fd_, -1); }

Keeper::Keeper() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe");
  process_ = fork();
  if (process_ < 0) fail("cannot start a process");
  if (process_ == 0) {
    close(ends[1]);
    remove_at_end(ends[0]);
  }
  close(ends[0]);
  pipe_ = Descriptor(ends[1]);
}

Keeper::~Keeper() {
  pipe_.reset();
  while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Keeper::keep(const std::string& name) {
  const std::string line = name + "\n";
  if (write(pipe_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) fail("cannot tell who removes the namespaces");
}

Descriptor make_host(Keeper& keeper, const std::string& name, std::uint32_t number) {
  if (access(path_of(name).c_str(), F_OK) == 0) throw Failed("there is a namespace " + name + " already; take another name, or remove it");
  keeper.keep(name);
  if (!run_ip("add", name)) throw Failed("`ip netns add " + name + "` failed; it needs root and iproute2");
  const Inside inside(name);
  Descriptor device = open_device();
  configure(number);
  return device;
}

}  // namespace farlink
