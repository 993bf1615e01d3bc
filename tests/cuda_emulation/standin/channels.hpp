// Messages between the processes of one host through shared memory, without MPI: they flow whatever the processes do
// with MPI meanwhile, from whichever thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace apb::emulation {

/// Thrown by whoever waits for others when `stop` says so.
class Stopped {};

/// A rank's end of the channels between `size` ranks, one from each to each.
class Channels {
 public:
  struct Outgoing {
    int peer;
    std::span<const std::byte> message;
  };
  struct Incoming {
    int peer;
    std::vector<std::byte> message;
  };

  /// A name that no other channels have.
  static std::string unused_name();

  /// All ranks give the same name and their GPU; returns when all have come. `stop` is asked while this rank waits,
  /// then and later, with the number of a rank whose process is gone, else -1.
  Channels(const std::string& name, int rank, int size, int gpu, std::function<bool(int gone)> stop);
  ~Channels();
  Channels(const Channels&) = delete;
  Channels& operator=(const Channels&) = delete;

  /// The rank's GPU.
  int gpu(int rank) const;
  /// Sends and receives all messages, in no order but that of several between the same two ranks.
  void exchange(std::vector<Outgoing> outgoing, std::vector<Incoming>& incoming);

  /// How many operations this rank has begun, for others to see.
  void announce(std::uint64_t operations);
  /// The most operations that another rank has begun.
  std::uint64_t most_announced() const;

 private:
  struct Rank;
  struct Slot;
  Rank& info(int rank) const;
  Slot& slot(int from, int to) const;
  void wait_a_little();

  std::function<bool(int gone)> stop_;
  int rank_;
  int size_;
  unsigned idle_rounds_ = 0;
  std::size_t bytes_;
  std::byte* memory_ = nullptr;
};

}  // namespace apb::emulation
