#include "comm/communicator.hpp"

#include <algorithm>
#include <cstring>
#include <exception>

#include "device/clock.hpp"
#include "error.hpp"

namespace apb {

double Communicator::seconds() const { return steady_seconds(); }

class FinishedTransfer : public Transfer {
 public:
  void finish() override {}
};

SingleRankCommunicator::SingleRankCommunicator() : finished_(std::make_shared<FinishedTransfer>()) {}

std::shared_ptr<Transfer> SingleRankCommunicator::start_all_gather(Device& /*device*/, View /*parts*/) {
  return finished_;
}

std::shared_ptr<Transfer> SingleRankCommunicator::start_all_to_all(Device& device, ConstView send, View receive) {
  device.copy(send, receive);
  return finished_;
}

std::shared_ptr<Transfer> SingleRankCommunicator::start_shift(Device& device, ConstView send, View receive) {
  device.copy(send, receive);
  return finished_;
}

void SingleRankCommunicator::broadcast(std::span<std::byte> /*data*/, int /*root*/) {}

std::vector<std::byte> SingleRankCommunicator::gather(std::span<const std::byte> own) {
  return {own.begin(), own.end()};
}

void broadcast_text(Communicator& communicator, std::string& text, int root) {
  std::uint64_t length = text.size();
  communicator.broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  text.resize(length);
  communicator.broadcast(std::as_writable_bytes(std::span(text)), root);
}

std::vector<std::string> gather_texts(Communicator& communicator, const std::string& own) {
  const auto longest = static_cast<std::size_t>(communicator.max(static_cast<int>(own.size())));
  std::string padded = own;
  padded.resize(longest + 1, '\0');  // no text is empty, every text ends
  const auto all = communicator.gather(std::as_bytes(std::span(padded)));
  std::vector<std::string> texts;
  for (std::size_t at = 0; at < all.size(); at += padded.size()) {
    texts.emplace_back(reinterpret_cast<const char*>(all.data() + at));
  }
  return texts;
}

void agree(Communicator& communicator, const std::function<void()>& action) {
  std::string message;
  int exit_code = 0;
  try {
    action();
  } catch (const Error& error) {
    message = error.what();
    exit_code = static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    message = error.what();
    exit_code = static_cast<int>(ExitCode::unusable_input);
  }
  const int size = communicator.size();
  const int first = size - communicator.max(exit_code == 0 ? 0 : size - communicator.rank());
  if (first == size) return;
  broadcast_text(communicator, message, first);
  communicator.broadcast(std::as_writable_bytes(std::span(&exit_code, 1)), first);
  throw CommonError(message, static_cast<ExitCode>(exit_code));
}

}  // namespace apb
