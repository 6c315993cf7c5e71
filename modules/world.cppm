/// What a session may touch: time, randomness, connections, files, and a place for heavy work. The tracker's and the
/// peer's coroutines know nothing else of the machine, so the same coroutines run on real sockets and disks
/// (shoal.net, shoal.store) and in simulation.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

export module shoal.world;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.wire;

export namespace shoal {

using Executor = boost::asio::any_io_executor;

/// A coroutine of ours. It runs on the executor that it was spawned on.
template <class T = void>
using Task = boost::asio::awaitable<T, Executor>;

// ---- connections --------------------------------------------------------------------------------------

/// Bytes of a file that is served. Any thread, concurrently.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  virtual std::uint64_t size() const = 0;
  /// Fills all of `out` from `offset` on. Fails with `changed` where the file has become too short.
  virtual Result<> read(std::uint64_t offset, std::span<std::byte> out) const = 0;
  /// Fails with `changed` when the file is not what it was when it was digested (size, time or identity).
  virtual Result<> check() const = 0;
  /// For sendfile; -1 where there is none.
  virtual int descriptor() const { return -1; }
};

/// A chunk, or a piece of one, to be sent: `header.length` bytes of `source` from `file_offset` on.
struct OutgoingChunk {
  ChunkHeader header;
  std::shared_ptr<const ChunkSource> source;
  std::uint64_t file_offset = 0;
};

/// One connection, at the level of whole messages. All calls come from the link's own strand (the executor that it
/// was made for); one coroutine reads and one writes at a time. After any failure only close() makes sense.
class Link {
 public:
  virtual ~Link() = default;

  /// The next message, or the head of a chunk, whose bytes then have to be taken by receive_payload. Waits at most
  /// `idle`, after which it fails with `timed_out`; fails with `closed` at an end in good order.
  virtual Task<Result<Incoming>> receive(Nanoseconds idle) = 0;
  /// Like receive(), and takes all messages that are there already, up to the next chunk: `out` has at least one where it succeeds.
  virtual Task<Result<>> receive_all(std::vector<Incoming>& out, Nanoseconds idle);
  /// Fills `out` with the next bytes of the chunk whose head was received; all in all `length` of them.
  virtual Task<Result<>> receive_payload(std::span<std::byte> out) = 0;
  /// Sends all of these, in order, with one write where possible.
  virtual Task<Result<>> send(std::vector<Message> messages) = 0;
  /// Sends these without waiting, or nothing of them where the other side does not take what was sent before: false then. For
  /// small messages whose time matters; nobody may be in a send meanwhile.
  virtual Result<bool> send_now(std::span<const Message> messages) = 0;
  /// Sends `header.length` bytes of `source` from `file_offset` on as one frame. Where it fails before the first byte
  /// was sent because the file changed (`changed`), the link is still good.
  virtual Task<Result<>> send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) = 0;
  /// Sends small ones, in order, with one write where possible. Returns how many went out before the first whose file changed; the
  /// link is still good then.
  virtual Task<Result<std::size_t>> send_chunks(std::vector<OutgoingChunk> chunks);
  /// The hello was answered: larger frames are read from here on.
  virtual void established() = 0;
  /// Ends both directions now; what waits fails with `closed`. May be called again.
  virtual void close() = 0;
  virtual Endpoint remote() const = 0;
  /// This side's own address.
  virtual Endpoint local() const = 0;
  virtual Executor executor() const = 0;
  /// The least time that a message and its answer were on their way, where the connection itself knows: without what programs and
  /// full buffers add.
  virtual std::optional<Nanoseconds> round_trip() const { return std::nullopt; }
};

class Listener {
 public:
  virtual ~Listener() = default;
  /// The next connection, for the given strand. Where the system is short of descriptors it backs off and tries again.
  virtual Task<Result<std::unique_ptr<Link>>> accept(Executor strand) = 0;
  virtual Endpoint local() const = 0;
  virtual void close() = 0;
};

/// Where a datagram comes from or goes to: what the world's network calls it.
struct DatagramAddress {
  std::array<std::byte, 28> bytes{};
  std::uint8_t size = 0;
  friend bool operator==(const DatagramAddress&, const DatagramAddress&) = default;
};

struct Datagram {
  DatagramAddress peer;  ///< Whom it is from, or for; of no meaning where the socket is connected.
  Message message;
};

/// Messages each for itself, which may be lost, come twice, or overtake each other: for small ones that are of no use when they are
/// late. All calls come from the socket's own strand; one coroutine receives at a time.
class DatagramSocket {
 public:
  virtual ~DatagramSocket() = default;
  /// Waits for some, and replaces what is in `out` by those that are there. What is no message is skipped. Fails with `closed`.
  virtual Task<Result<>> receive(std::vector<Datagram>& out) = 0;
  /// Sends these without waiting. Those that the system has no room for are lost.
  virtual void send(std::span<const Datagram> datagrams) = 0;
  virtual Endpoint local() const = 0;
  /// What waits fails with `closed`. May be called again.
  virtual void close() = 0;
};

// ---- files --------------------------------------------------------------------------------------------

struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// The chunk hashes of a content, shared by all that need them. Null where the root says it all (at most one chunk).
using ChunkHashes = std::shared_ptr<const std::vector<Sha256Digest>>;

/// A file that is being fetched. Any thread; writes to different ranges may be concurrent.
class PartialFile {
 public:
  virtual ~PartialFile() = default;
  virtual std::uint64_t size() const = 0;
  virtual Result<> write(std::uint64_t offset, std::span<const std::byte> data) = 0;
  virtual Result<> read(std::uint64_t offset, std::span<std::byte> out) const = 0;
  /// Where an earlier run may have left data: nothing for a new file. What is there is not verified.
  virtual std::vector<ByteRange> written() const = 0;
  /// The bytes so far, to be served to others while the rest is fetched. Stays good after publication.
  virtual std::shared_ptr<const ChunkSource> source() const = 0;
};

/// A file of the folder, digested.
struct StoredFile {
  FileEntry entry;
  ChunkHashes chunks;
};

struct ScanReport {
  std::vector<StoredFile> files;      ///< Folders are listed where they are empty.
  std::vector<std::string> symlinks;  ///< Skipped.
  std::vector<Error> problems;        ///< What could not be read, or has no name that could travel.
  std::uint64_t bytes_hashed = 0;     ///< The rest came from the digest cache.
};

struct ScanProgress {
  std::uint64_t files_done = 0;
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_total = 0;
};

struct ScanOptions {
  std::vector<std::string> include;  ///< Shell patterns; all files when empty.
  std::vector<std::string> exclude;
  std::function<void(const ScanProgress&)> progress;  ///< Called now and then, from any thread, one call at a time.
  std::function<bool()> should_stop;                  ///< Polled; a scan that is stopped fails with `interrupted`.
};

/// A fetched file that is verified and has to get its name.
struct Publication {
  std::shared_ptr<PartialFile> file;
  FileEntry entry;
  ChunkHashes chunks;
  bool is_confirmed = true;  ///< Its MD5 was found to be that of the entry; else the digests are not remembered yet.
};

/// One more name for a file that is here already.
struct Copying {
  StoredFile from;
  FileEntry to;
};

/// What changed beneath a folder that is watched.
struct FolderChanges {
  std::set<std::string> names;  ///< Files that came, changed or went.
  bool is_anything = false;     ///< Or more than that: a whole folder moved, or too much to tell.
};

/// Ends the watching when it dies; after that nothing is called any more.
class FolderWatch {
 public:
  virtual ~FolderWatch() = default;
};

/// The files of one folder. Calls block; make them on World::workers(). Any thread, concurrently, except where two calls
/// are about one name.
class Storage {
 public:
  virtual ~Storage() = default;

  /// Lists and digests the whole folder, on several threads.
  virtual Result<ScanReport> scan(const ScanOptions& options) = 0;
  /// Digests one file again, after it changed. Fails with `not_found` when it is gone.
  virtual Result<StoredFile> digest(const std::string& name) = 0;
  /// A file that was scanned, digested or published, to be served as `entry` says. Fails with `changed` when it is not that any more.
  virtual Result<std::shared_ptr<const ChunkSource>> open(const FileEntry& entry) = 0;
  /// Begins, or takes up again, the fetching of `entry`. The name in it has passed check_name.
  virtual Result<std::shared_ptr<PartialFile>> open_partial(const FileEntry& entry) = 0;
  /// Gives each file its name, time and mode: data to the disk, rename, folder to the disk, in groups. A result for each.
  /// A file of that name is replaced where it is what was scanned, digested or published under it. Anything else is left alone, which fails
  /// with `file_exists`.
  virtual std::vector<Result<>> publish(std::span<const Publication> files) = 0;
  /// The MD5 of a file that was published without was found to be that of the entry, so that its digests may be remembered.
  virtual void confirm(const StoredFile& file);
  /// Publishes a copy of a file that is here already, under another name.
  virtual Result<> copy(const StoredFile& from, const FileEntry& to) = 0;
  /// Several of them, published as one group. A result for each. All are open at once.
  virtual std::vector<Result<>> copy_all(std::span<const Copying> copies);
  /// Whether anything, of whatever content, has that name now.
  virtual bool exists(const std::string& name) const = 0;
  /// Which names are one name in this folder, as was found by trying it once; nothing where that could not be tried.
  virtual NameFolding folding() { return {}; }
  /// Makes an empty folder (and its parents), or an empty file.
  virtual Result<> make_empty(const FileEntry& entry) = 0;
  /// Removes partial files that no transfer of this run has opened. Returns how many.
  virtual std::size_t remove_stale_partials() = 0;
  /// Writes what was to be written together with more. Nothing else is called after it.
  virtual void finish() {}
  /// Calls `on_change` from another thread, one call at a time, soon after something beneath the folder changed. A file that is being
  /// written counts when it is closed. Fails with `unsupported` where there is no such thing.
  virtual Result<std::unique_ptr<FolderWatch>> watch(std::function<void(FolderChanges)> on_change);
};

/// A text file that is written from front to back. Calls block, and come one at a time.
class RecordFile {
 public:
  virtual ~RecordFile() = default;
  /// Puts all of `bytes` at the end, or nothing of them: what is cut off by a failure is taken back.
  virtual Result<> append(std::span<const std::byte> bytes) = 0;
  /// What was written, to be sent to others.
  virtual Result<std::shared_ptr<const ChunkSource>> source() const = 0;
};

/// A folder for records of a run. Calls block; make them on World::workers(). Any thread, but for two calls about one name.
class RecordFolder {
 public:
  virtual ~RecordFolder() = default;
  /// A new, empty file in the place of whatever has that name; its parent folders are made. Names are relative.
  virtual Result<std::unique_ptr<RecordFile>> create(const std::string& name) = 0;
  /// Gives a file another name, in the place of whatever has that. Fails with `no_such_file_or_directory` where there is none.
  virtual Result<> rename(const std::string& from, const std::string& to) = 0;
  virtual void remove(const std::string& name) = 0;
};

// ---- the world ----------------------------------------------------------------------------------------

/// What the bytes of files hash to. A seam for simulations of many peers, where a short mark stands in for a chunk's bytes:
/// hashing what thousands of peers move would take hours. Any thread.
class Digester {
 public:
  virtual ~Digester() = default;
  /// hash_chunks of shoal.digest, and chunk_hash, which is the same for one.
  virtual void hash_chunks(std::span<ChunkToHash> chunks) const;
  Sha256Digest chunk_hash(std::span<const std::byte> chunk, std::uint64_t file_size) const;
  /// Goes on with a file's MD5 by the bytes from `offset` on. No call crosses a chunk's end.
  virtual void update(Md5Stream& md5, std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// The same for several files side by side; a piece an offset.
  virtual void update_together(std::span<const Md5Piece> pieces, std::span<const std::uint64_t> offsets) const;
  /// The same for files of a single chunk each: with all of it, or with what an earlier call left. Returns what would go on with too few
  /// others (Md5Stream::update_in_company); nothing where `are_last`.
  virtual std::vector<Md5Piece> update_small(std::span<const Md5Piece> pieces, bool are_last) const;
};

class World {
 public:
  virtual ~World() = default;

  /// Where coroutines run; several threads may serve it, so shared state needs a strand of it.
  virtual Executor executor() = 0;
  /// Whether that runs one thing at a time anyhow.
  virtual bool is_sequential() const { return false; }
  /// Where blocking work runs: hashing, disk.
  virtual Executor workers() = 0;
  /// How the bytes of this world's files are digested. Any thread.
  virtual const Digester& digester() const;
  virtual Instant now() const = 0;
  /// Nanoseconds since 1970-01-01 UTC; may jump.
  virtual std::int64_t wall_clock_ns() const = 0;
  /// A random word, which nobody can tell from others: it may be a secret. Simulations draw all of them from a seed. Any thread.
  virtual std::uint64_t random() = 0;
  /// Resumes after `duration`; throws operation_aborted when cancelled.
  virtual Task<> sleep(Nanoseconds duration) = 0;
  /// Fails with `timed_out` after `timeout`, else with the reason of the last address that was tried.
  virtual Task<Result<std::unique_ptr<Link>>> connect(Endpoint to, Executor strand, Nanoseconds timeout) = 0;
  /// Without a host: at all addresses, of IPv4 and IPv6.
  virtual Result<std::unique_ptr<Listener>> listen(const Endpoint& at) = 0;
  /// A socket for datagrams of anybody. Where the system can, several sockets share a port: all from one sender come to the same one
  /// then. `at.host` is a numeric address. Fails with `unsupported` where there are no datagrams.
  virtual Result<std::unique_ptr<DatagramSocket>> open_datagrams(const Endpoint& at, Executor strand);
  /// One for those of `to` alone, whose host is a numeric address.
  virtual Result<std::unique_ptr<DatagramSocket>> connect_datagrams(const Endpoint& to, Executor strand);
  /// Whether the process ends after what runs in this world: see RunState.
  virtual bool ends_with_process() const { return false; }
};

/// Keeps `object` until the process ends, and does not destroy it then.
void leave_to_exit(void* object);

/// The state of a run. Where the process ends after it, it is not destroyed: the system takes back all memory of a process sooner than
/// destructors give back a million pieces. So nothing may be left to a destructor that others are to see.
template <class T>
class RunState {
 public:
  RunState(const World& world, std::unique_ptr<T> state) : state_(std::move(state)), is_left_(world.ends_with_process()) {}
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;
  ~RunState() {
    if (is_left_) leave_to_exit(state_.release());
  }

  T& operator*() const { return *state_; }

 private:
  std::unique_ptr<T> state_;
  bool is_left_;
};

/// What runs one thing at a time: a strand of the world's executor, or that itself where it is sequential.
Executor make_strand(World& world);

/// Runs `work` on another executor; the caller resumes on its own when it is done. Not cancellable: the work ends first.
Task<> run_on(Executor executor, std::function<void()> work);

/// The same, with a result.
template <class F, class R = std::invoke_result_t<F&>>
Task<R> call_on(Executor executor, F work) {
  std::optional<R> result;
  co_await run_on(std::move(executor), [&] { result.emplace(work()); });
  co_return std::move(*result);
}

/// Heavy or blocking work, on the world's workers.
template <class F, class R = std::invoke_result_t<F&>>
Task<R> offload(World& world, F work) {
  return call_on(world.workers(), std::move(work));
}

// ---- steps --------------------------------------------------------------------------------------------

/// The value, or the end of the session: throws StepFailed, which the session's spawn catches.
template <class T>
T unwrap(Result<T> result) {
  if (!result) throw StepFailed(std::move(result).error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// One step of a session: waits for it and unwraps it.
template <class T>
Task<T> step(Task<Result<T>> task) {
  co_return unwrap(co_await std::move(task));
}

/// Receives a message that has to be an `M`; anything else is `out_of_order`. A Refusal is an error with its text: `refused` where it may
/// be tried again, `usage` or `unsupported_version` where that is in vain.
Error unexpected_message(const Incoming& incoming, MessageType wanted);
template <class M>
Task<Result<M>> receive(Link& link, Nanoseconds idle) {
  auto incoming = co_await link.receive(idle);
  if (!incoming) co_return Failure(std::move(incoming).error());
  if (auto* message = std::get_if<Message>(&*incoming))
    if (auto* wanted = std::get_if<M>(message)) co_return std::move(*wanted);
  co_return Failure(unexpected_message(*incoming, M::kType));
}

/// Sends a single message.
Task<Result<>> send(Link& link, Message message);

// ---- tasks --------------------------------------------------------------------------------------------

/// Coroutines that are started together and end together. Any thread.
class TaskGroup {
 public:
  /// `on_failure` hears of each task that ended by an exception other than cancellation, on that task's executor.
  using OnFailure = std::function<void(const std::string& name, const Error& error)>;
  explicit TaskGroup(OnFailure on_failure);
  ~TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  /// Runs `task` on `executor`, a strand. `name` says in logs what it was.
  void spawn(Executor executor, std::string name, Task<> task);
  /// Asks all to stop, by terminal cancellation on their own executors; tasks spawned later are stopped as they begin.
  void cancel();
  /// Resumes when no task is left. Where the caller is cancelled meanwhile, so are the tasks, and it is thrown when the last of them has
  /// ended: tasks may refer to what their caller's frame holds.
  Task<> join();
  std::size_t running() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

/// Wakes a waiting coroutine. One that is notified while nobody waits is remembered, once. Any thread; one waiter.
class Signal {
 public:
  Signal();
  ~Signal();
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  void notify();
  Task<> wait();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Messages that wait for a link's one writer. On the link's strand.
class Outbox {
 public:
  void push(Message message);
  /// The oldest messages, about `max_bytes` of them; waits while there are none.
  Task<std::vector<Message>> take(std::size_t max_bytes);
  std::vector<Message> take_now(std::size_t max_bytes);
  bool is_empty() const { return waiting_.empty(); }
  std::size_t bytes() const { return bytes_; }
  /// Wakes the writer without a message, because there is something else for it to do.
  void wake() { filled_.notify(); }
  /// Resumes when something was pushed or woken.
  Task<> wait_for_work() { return filled_.wait(); }
  /// A reader that makes messages stops here while more than kFull bytes wait.
  Task<> wait_for_room();
  /// There is no writer any more: what waits is dropped, as is what comes, and nobody waits for room.
  void close();
  static constexpr std::size_t kFull = 1024 * 1024;

 private:
  std::deque<Message> waiting_;
  std::size_t bytes_ = 0;
  bool is_closed_ = false;
  Signal filled_;
  Signal drained_;
};

/// A number of bytes that may be in use at once; who comes first is served first. Any thread.
class Budget {
 public:
  explicit Budget(std::uint64_t bytes);
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  /// A share of the budget, given back when it dies. It may outlive the Budget.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept;
    Share& operator=(Share&& other) noexcept;
    ~Share();

   private:
    friend class Budget;
    std::shared_ptr<void> state_;
    std::uint64_t bytes_ = 0;
    void release();
  };

  /// Waits until `bytes` (at most all) are free.
  Task<Share> take(std::uint64_t bytes);
  std::uint64_t in_use() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace shoal
