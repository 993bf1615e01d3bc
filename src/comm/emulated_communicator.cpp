#include "comm/emulated_communicator.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <new>
#include <numeric>
#include <semaphore>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "error.hpp"

namespace apb {
namespace {

/// Ends a rank that waits for one that has left.
struct Abandoned : std::logic_error {
  Abandoned() : std::logic_error("a rank waits for one that has left") {}
};

/// What a rank brings to an operation, and when.
struct Post {
  std::span<const std::byte> data;
  double seconds = 0.0;
};

/// An operation that all ranks take part in.
struct Operation {
  std::string_view name;
  std::size_t bytes = 0;    // of every rank
  std::vector<Post> posts;  // [ranks]
  int posted = 0;           // ranks that have brought what they have
  int done = 0;             // ranks that have taken what they need
};

/// What the ranks have in common. Only the thread that has the turn touches it.
class EmulatedRanks {
 public:
  EmulatedRanks(int ranks, std::function<double()> clock)
      : clock_(std::move(clock)), next_number_(index(ranks)), left_(index(ranks)) {
    for (int rank = 0; rank < ranks; ++rank) turns_.push_back(std::make_unique<std::binary_semaphore>(0));
  }

  int size() const { return static_cast<int>(turns_.size()); }
  double now() const { return clock_(); }

  /// The rank's next operation, which is the same for all ranks.
  std::shared_ptr<Operation> post(int rank, std::string_view name, const Post& own) {
    const std::uint64_t number = next_number_[index(rank)]++;
    auto& open = open_[number];
    if (!open) open = std::make_shared<Operation>(Operation{name, own.data.size(), std::vector<Post>(turns_.size())});
    if (open->name != name || open->bytes != own.data.size()) {
      throw std::logic_error(fmt::format("rank {} begins a {} of {} bytes, others a {} of {}", rank, name,
                                         own.data.size(), open->name, open->bytes));
    }
    open->posts[index(rank)] = own;
    auto operation = open;
    if (++operation->posted == size()) open_.erase(number);
    return operation;
  }

  void begin_turn(int rank) { turns_[index(rank)]->acquire(); }

  /// Lets the others run until it is this rank's turn again. Throws Abandoned where one of them has left.
  void yield(int rank) {
    if (std::ranges::find(left_, true) != left_.end()) throw Abandoned();
    pass_turn(rank);
    begin_turn(rank);
  }

  /// To the next rank that has not left.
  void pass_turn(int rank) {
    for (int step = 1; step <= size(); ++step) {
      const std::size_t next = index((rank + step) % size());
      if (left_[next]) continue;
      turns_[next]->release();
      return;
    }
  }

  /// The rank takes no further turn.
  void leave(int rank, std::exception_ptr failure) {
    if (failure && !failure_) failure_ = std::move(failure);
    left_[index(rank)] = true;
  }

  const std::exception_ptr& failure() const { return failure_; }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

  std::function<double()> clock_;
  std::vector<std::unique_ptr<std::binary_semaphore>> turns_;  // one for each rank
  std::vector<std::uint64_t> next_number_;                     // of each rank's operations
  std::map<std::uint64_t, std::shared_ptr<Operation>> open_;   // not yet posted by all ranks
  std::vector<bool> left_;                                     // ranks that have ended
  std::exception_ptr failure_;
};

class EmulatedCommunicator : public Communicator {
 public:
  EmulatedCommunicator(EmulatedRanks& ranks, int rank) : ranks_(ranks), rank_(rank), all_(index(ranks.size())) {
    std::iota(all_.begin(), all_.end(), 0);
  }

  int rank() const override { return rank_; }
  int size() const override { return ranks_.size(); }
  double busy_seconds() const override { return busy_ + (ranks_.now() - turn_began_); }
  double seconds() const override { return busy_seconds() + waited_; }

  std::shared_ptr<Transfer> start_all_gather(Device& device, View parts) override;
  std::shared_ptr<Transfer> start_all_to_all(Device& device, ConstView send, View receive) override;
  std::shared_ptr<Transfer> start_shift(Device& device, ConstView send, View receive) override;
  void broadcast(std::span<std::byte> data, int root) override;
  std::vector<std::byte> gather(std::span<const std::byte> own) override;
  int max(int value) override;
  std::shared_ptr<NodeMemory> node_memory() override;

  /// Rank 0's memory to all.
  std::shared_ptr<std::byte> share(std::shared_ptr<std::byte> memory);

  using Take = std::function<void(const std::vector<Post>& posts)>;
  /// Lets `take` have what the ranks brought to an operation; it needs that of `senders`. Returns when no rank needs
  /// what this one brought any longer.
  void complete(Operation& operation, const std::vector<int>& senders, const Take& take);

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  std::shared_ptr<Operation> post(std::string_view name, std::span<const std::byte> data) {
    return ranks_.post(rank_, name, {data, seconds()});
  }
  void yield();

  EmulatedRanks& ranks_;
  int rank_;
  std::vector<int> all_;  // ranks
  double turn_began_ = ranks_.now();
  double busy_ = 0.0;    // in earlier turns
  double waited_ = 0.0;  // for messages, had all ranks run at the same time
};

class EmulatedTransfer : public Transfer {
 public:
  EmulatedTransfer(EmulatedCommunicator& communicator, std::shared_ptr<Operation> operation, std::vector<int> senders,
                   EmulatedCommunicator::Take take)
      : communicator_(communicator),
        operation_(std::move(operation)),
        senders_(std::move(senders)),
        take_(std::move(take)) {}
  ~EmulatedTransfer() override {
    try {
      if (std::uncaught_exceptions() == 0) finish();
    } catch (...) {  // the other ranks have left: nothing comes any more
    }
  }
  void finish() override {
    if (const auto operation = std::exchange(operation_, nullptr)) communicator_.complete(*operation, senders_, take_);
  }

 private:
  EmulatedCommunicator& communicator_;
  std::shared_ptr<Operation> operation_;  // until it is finished
  std::vector<int> senders_;
  EmulatedCommunicator::Take take_;
};

/// The ranks have one copy, since they are one process.
class EmulatedNodeMemory : public NodeMemory {
 public:
  explicit EmulatedNodeMemory(EmulatedCommunicator& communicator) : communicator_(communicator) {}
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  Buffer allocate(std::size_t bytes, std::size_t available) override;

 private:
  EmulatedCommunicator& communicator_;
};

std::span<const std::byte> bytes_of(ConstView rows) {
  return {rows.data, view_bytes(rows.type, rows.rows, rows.columns)};
}

void check_parts(ConstView parts, std::int64_t rows) {
  if (parts.rows == rows && parts.stride == parts.columns) return;
  throw std::invalid_argument("messages are contiguous rows, one a part");
}

std::shared_ptr<Transfer> EmulatedCommunicator::start_all_gather(Device& device, View parts) {
  check_parts(parts, size());
  device.synchronize();  // the own part must be in memory
  const auto take = [parts, own = rank_](const std::vector<Post>& posts) {
    for (int rank = 0; rank < static_cast<int>(posts.size()); ++rank) {
      const auto part = posts[index(rank)].data;
      if (rank != own) std::memcpy(parts.row(rank), part.data(), part.size());
    }
  };
  return std::make_shared<EmulatedTransfer>(*this, post("all-gather", bytes_of(parts.row_range(rank_, 1))), all_, take);
}

std::shared_ptr<Transfer> EmulatedCommunicator::start_all_to_all(Device& device, ConstView send, View receive) {
  check_parts(send, size());
  check_parts(receive, size());
  device.synchronize();
  const auto take = [receive, own = index(rank_)](const std::vector<Post>& posts) {
    for (int rank = 0; rank < static_cast<int>(posts.size()); ++rank) {
      const std::size_t part = posts[index(rank)].data.size() / posts.size();
      std::memcpy(receive.row(rank), posts[index(rank)].data.data() + own * part, part);
    }
  };
  return std::make_shared<EmulatedTransfer>(*this, post("all-to-all", bytes_of(send)), all_, take);
}

std::shared_ptr<Transfer> EmulatedCommunicator::start_shift(Device& device, ConstView send, View receive) {
  check_parts(send, 1);
  check_parts(receive, 1);
  device.synchronize();
  const int before = (rank_ + size() - 1) % size();
  const int next = (rank_ + 1) % size();  // takes nothing before it has room for it
  const auto take = [receive, before](const std::vector<Post>& posts) {
    std::memcpy(receive.data, posts[index(before)].data.data(), posts[index(before)].data.size());
  };
  return std::make_shared<EmulatedTransfer>(*this, post("shift", bytes_of(send)), std::vector{before, next}, take);
}

void EmulatedCommunicator::broadcast(std::span<std::byte> data, int root) {
  complete(*post("broadcast", data), {root}, [&](const std::vector<Post>& posts) {
    if (rank_ != root) std::copy_n(posts[index(root)].data.begin(), data.size(), data.begin());
  });
}

std::vector<std::byte> EmulatedCommunicator::gather(std::span<const std::byte> own) {
  std::vector<std::byte> all;
  const auto operation = post("gather", own);
  if (rank_ != 0) {
    complete(*operation, {}, [](const auto&) {});
    return all;
  }
  complete(*operation, all_, [&](const std::vector<Post>& posts) {
    for (const Post& part : posts) all.insert(all.end(), part.data.begin(), part.data.end());
  });
  return all;
}

int EmulatedCommunicator::max(int value) {
  int largest = value;
  complete(*post("maximum", std::as_bytes(std::span(&value, 1))), all_, [&](const std::vector<Post>& posts) {
    for (const Post& one : posts) largest = std::max(largest, *reinterpret_cast<const int*>(one.data.data()));
  });
  return largest;
}

std::shared_ptr<std::byte> EmulatedCommunicator::share(std::shared_ptr<std::byte> memory) {
  using Pointer = std::shared_ptr<std::byte>;
  const Pointer own = std::move(memory);
  Pointer shared;
  complete(*post("sharing of memory", std::as_bytes(std::span(&own, 1))), {0}, [&](const std::vector<Post>& posts) {
    shared = *reinterpret_cast<const Pointer*>(posts.front().data.data());
  });
  return shared;
}

std::shared_ptr<NodeMemory> EmulatedCommunicator::node_memory() {
  return size() > 1 ? std::make_shared<EmulatedNodeMemory>(*this) : nullptr;
}

void EmulatedCommunicator::complete(Operation& operation, const std::vector<int>& senders, const Take& take) {
  while (operation.posted < size()) yield();
  if (ranks_.failure()) throw Abandoned();  // what that rank brought may be gone
  for (const int sender : senders) {
    waited_ += std::max(0.0, operation.posts[index(sender)].seconds - seconds());
  }
  take(operation.posts);
  ++operation.done;
  while (operation.done < size()) yield();
}

void EmulatedCommunicator::yield() {
  busy_ = busy_seconds();
  ranks_.yield(rank_);
  turn_began_ = ranks_.now();
}

Buffer EmulatedNodeMemory::allocate(std::size_t bytes, std::size_t available) {
  if (communicator_.max(bytes > available ? 1 : 0) != 0) {
    fail("the model needs {:.2f} GiB, {:.2f} GiB are free: use a machine with more memory",
         static_cast<double>(bytes) / 0x1p30, static_cast<double>(available) / 0x1p30);
  }
  constexpr std::align_val_t large_page{std::size_t{2} << 20U};
  const auto release = [](std::byte* memory) { ::operator delete(memory, large_page); };
  std::shared_ptr<std::byte> memory;
  if (rank() == 0) {
    memory = {static_cast<std::byte*>(::operator new(bytes, large_page, std::nothrow)), release};
    if (memory) static_cast<void>(::madvise(memory.get(), bytes, MADV_HUGEPAGE));
  }
  memory = communicator_.share(std::move(memory));
  if (!memory) fail("out of memory: {:.2f} GiB could not be allocated", static_cast<double>(bytes) / 0x1p30);
  auto* const data = memory.get();
  return {data, bytes, Space::device, [memory](std::byte*) {}};
}

/// One rank from its first turn on.
void run_rank(EmulatedRanks& ranks, int rank, const std::function<void(Communicator&)>& body) {
  ranks.begin_turn(rank);
  std::exception_ptr failure;
  try {
    if (ranks.failure()) throw Abandoned();
    EmulatedCommunicator communicator(ranks, rank);
    body(communicator);
  } catch (...) {
    failure = std::current_exception();
  }
  ranks.leave(rank, failure);
  ranks.pass_turn(rank);
}

}  // namespace

void run_emulated_ranks(int ranks, const std::function<void(Communicator&)>& body,
                        const std::function<double()>& clock) {
  EmulatedRanks common(ranks, clock);
  std::vector<std::jthread> threads;
  try {
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back([&, rank] { run_rank(common, rank, body); });
  } catch (const std::system_error&) {  // the system gives no more threads
    for (auto rank = static_cast<int>(threads.size()); rank < ranks; ++rank) {
      common.leave(rank, std::current_exception());
    }
  }
  common.pass_turn(ranks - 1);
  threads.clear();  // waits for them
  if (common.failure()) std::rethrow_exception(common.failure());
}

}  // namespace apb
