#include "channels.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

namespace apb::emulation {

/// What a rank tells all others. Shared memory begins as zeros.
struct alignas(64) Channels::Rank {
  std::atomic<pid_t> process;  // 0 until it has come
  std::atomic<int> gpu;
  std::atomic<std::uint64_t> announced;
};

/// A message on its way from one rank to another, piece by piece.
struct alignas(64) Channels::Slot {
  static constexpr std::size_t capacity = std::size_t{256} << 10U;
  std::atomic<bool> full;
  std::size_t message_bytes;
  std::size_t piece_bytes;
  std::byte piece[capacity];
};

std::string Channels::unused_name() {
  std::random_device random;
  return "/apb-emulation-" + std::to_string(getpid()) + "-" + std::to_string(random());
}

Channels::Channels(const std::string& name, int rank, int size, int gpu, std::function<bool(int gone)> stop)
    : stop_(std::move(stop)),
      rank_(rank),
      size_(size),
      bytes_(static_cast<std::size_t>(size) * sizeof(Rank) + static_cast<std::size_t>(size * size) * sizeof(Slot)) {
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes_)) != 0) {
    throw std::system_error(errno, std::generic_category(), "shared memory " + name);
  }
  void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "shared memory " + name);
  memory_ = static_cast<std::byte*>(memory);
  info(rank).gpu = gpu;
  info(rank).process = getpid();
  for (int other = 0; other < size; ++other) {
    while (info(other).process == 0) {
      wait_a_little();
    }
  }
  shm_unlink(name.c_str());  // by the first; the others fail, and that is well
}

Channels::~Channels() { munmap(memory_, bytes_); }

Channels::Rank& Channels::info(int rank) const { return reinterpret_cast<Rank*>(memory_)[rank]; }

Channels::Slot& Channels::slot(int from, int to) const {
  auto* const slots = reinterpret_cast<Slot*>(memory_ + static_cast<std::size_t>(size_) * sizeof(Rank));
  return slots[from * size_ + to];
}

int Channels::gpu(int rank) const { return info(rank).gpu; }

void Channels::announce(std::uint64_t operations) { info(rank_).announced = operations; }

std::uint64_t Channels::most_announced() const {
  std::uint64_t most = 0;
  for (int other = 0; other < size_; ++other) {
    if (other != rank_) most = std::max(most, info(other).announced.load());
  }
  return most;
}

void Channels::wait_a_little() {
  if (++idle_rounds_ < 100) {
    sched_yield();
    return;
  }
  std::this_thread::sleep_for(std::chrono::microseconds(200));
  int gone = -1;
  for (int other = 0; other < size_ && idle_rounds_ % 100 == 0; ++other) {
    const pid_t process = info(other).process;
    if (process != 0 && kill(process, 0) != 0 && errno == ESRCH) gone = other;
  }
  if (stop_(gone)) throw Stopped();
}

void Channels::exchange(std::vector<Outgoing> outgoing, std::vector<Incoming>& incoming) {
  std::vector<Incoming*> expected;
  for (Incoming& message : incoming) expected.push_back(&message);
  const auto send_piece = [&](Outgoing& message) {
    Slot& slot = this->slot(rank_, message.peer);
    if (slot.full.load(std::memory_order_acquire)) return false;
    slot.message_bytes = message.message.size();
    slot.piece_bytes = std::min(Slot::capacity, message.message.size());
    std::memcpy(slot.piece, message.message.data(), slot.piece_bytes);
    message.message = message.message.subspan(slot.piece_bytes);
    slot.full.store(true, std::memory_order_release);
    return true;
  };
  const auto receive_piece = [&](Incoming& message) {
    Slot& slot = this->slot(message.peer, rank_);
    if (!slot.full.load(std::memory_order_acquire)) return false;
    message.message.insert(message.message.end(), slot.piece, slot.piece + slot.piece_bytes);
    const bool last = slot.piece_bytes == slot.message_bytes;
    slot.full.store(false, std::memory_order_release);
    if (last) std::erase(expected, &message);
    return true;
  };
  // Pieces of the first message to (from) each rank, round after round.
  while (!outgoing.empty() || !expected.empty()) {
    bool moved = false;
    std::set<int> seen;
    for (Outgoing& message : outgoing) moved |= seen.insert(message.peer).second && send_piece(message);
    std::erase_if(outgoing, [](const Outgoing& message) { return message.message.empty(); });
    seen.clear();
    for (Incoming* const message : std::vector(expected)) {
      moved |= seen.insert(message->peer).second && receive_piece(*message);
    }
    if (moved) {
      idle_rounds_ = 0;
    } else {
      wait_a_little();
    }
  }
}

}  // namespace apb::emulation
