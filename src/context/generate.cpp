#include "context/generate.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace apb {
namespace {

double common_maximum(Communicator& communicator, double seconds) {
  auto all = communicator.gather(std::as_bytes(std::span(&seconds, 1)));
  if (communicator.rank() == 0) {
    const std::span values(reinterpret_cast<const double*>(all.data()), all.size() / sizeof(double));
    seconds = *std::max_element(values.begin(), values.end());
  }
  communicator.broadcast(std::as_writable_bytes(std::span(&seconds, 1)), 0);
  return seconds;
}

/// Chooses tokens on rank 0 and tells the others.
class TokenChooser {
 public:
  TokenChooser(Device& device, Communicator& communicator, const Model& model)
      : device_(device), communicator_(communicator), model_(model), chosen_(device.allocate(sizeof(std::int32_t))) {}

  void choose(Forward& forward, bool keep_logits, Answer& answer) {
    std::array<std::int32_t, 2> token_and_stop{};
    if (communicator_.rank() == 0) {
      const ConstView logits = forward.last_logits();
      const View chosen = chosen_.view(DataType::i32, 1, 1);
      device_.argmax(logits, chosen);
      std::int32_t token = 0;
      device_.download(chosen, {reinterpret_cast<std::byte*>(&token), DataType::i32, Space::host, 1, 1, 1});
      if (keep_logits) keep(logits, answer);
      device_.synchronize();
      const auto& stops = model_.config.eos_tokens;
      token_and_stop = {token, std::find(stops.begin(), stops.end(), token) != stops.end() ? 1 : 0};
    }
    device_.mark(Phase::communication);
    device_.synchronize();
    communicator_.broadcast(std::as_writable_bytes(std::span(token_and_stop)), 0);
    answer.tokens.push_back(token_and_stop[0]);
    answer.stopped = token_and_stop[1] != 0;
  }

 private:
  void keep(ConstView logits, Answer& answer) {
    const std::size_t before = answer.logits.size();
    answer.logits.resize(before + static_cast<std::size_t>(logits.columns));
    device_.download(logits, {reinterpret_cast<std::byte*>(answer.logits.data() + before), DataType::f32, Space::host,
                              1, logits.columns, logits.columns});
  }

  Device& device_;
  Communicator& communicator_;
  const Model& model_;
  Buffer chosen_;
};

/// The tokens behind the first.
void decode(TokenChooser& chooser, Communicator& communicator, Forward& forward, int max_new_tokens, bool keep_logits,
            Answer& answer) {
  const double start = communicator.seconds();
  while (!answer.stopped && static_cast<int>(answer.tokens.size()) < max_new_tokens) {
    forward.decode(answer.tokens.back());
    chooser.choose(forward, keep_logits, answer);
  }
  answer.decode_seconds = answer.tokens.size() > 1 ? communicator.seconds() - start : 0.0;
}

}  // namespace

Answer generate(Device& device, Communicator& communicator, const Model& model, Forward& forward,
                std::span<const std::int32_t> context, std::span<const std::int32_t> query, int max_new_tokens,
                bool keep_logits) {
  Answer answer;
  TokenChooser chooser(device, communicator, model);
  device.synchronize();
  device.take_phase_seconds();
  const double start = communicator.seconds();
  forward.prefill(context, query);
  chooser.choose(forward, keep_logits, answer);
  device.mark(Phase::other);
  device.synchronize();
  const double own_seconds = communicator.seconds() - start;
  answer.phase_seconds = device.take_phase_seconds();

  decode(chooser, communicator, forward, max_new_tokens, keep_logits, answer);
  answer.decode_phase_seconds = device.take_phase_seconds();

  // The slowest rank's prefill is the document's; what another rank had to spare counts as other.
  answer.prefill_seconds = answer.first_token_seconds = common_maximum(communicator, own_seconds);
  const double marked = std::accumulate(answer.phase_seconds.begin(), answer.phase_seconds.end(), 0.0);
  answer.phase_seconds[static_cast<std::size_t>(Phase::other)] += std::max(0.0, answer.prefill_seconds - marked);
  return answer;
}

Answer generate_further(Device& device, Communicator& communicator, const Model& model, Forward& forward,
                        std::span<const std::int32_t> query, int max_new_tokens, bool keep_logits) {
  Answer answer;
  TokenChooser chooser(device, communicator, model);
  const double start = communicator.seconds();
  forward.ask(query);
  chooser.choose(forward, keep_logits, answer);
  answer.first_token_seconds = common_maximum(communicator, communicator.seconds() - start);
  decode(chooser, communicator, forward, max_new_tokens, keep_logits, answer);
  return answer;
}

}  // namespace apb
