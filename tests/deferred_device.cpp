#include "deferred_device.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace apb {
namespace {

std::size_t row_bytes(const ConstView& view) { return static_cast<std::size_t>(view.columns) * size_of(view.type); }

void poison(const View& view) {
  if (view.empty()) return;
  for (std::int64_t row = 0; row < view.rows; ++row) std::memset(view.row(row), 0xFF, row_bytes(view));
}

bool overlap(const ConstView& left, const ConstView& right) {
  if (left.empty() || right.empty()) return false;
  return left.data < right.row(right.rows - 1) + row_bytes(right) &&
         right.data < left.row(left.rows - 1) + row_bytes(left);
}

}  // namespace

View DeferredDevice::bytes_of(const Slot& slot, const HeadShape& shape) const {
  const auto words = static_cast<std::int64_t>(slot_bytes(slot.capacity, shape) / size_of(DataType::i32));
  return {slot.data, DataType::i32, Space::device, 1, words, words};
}

void DeferredDevice::enqueue(std::function<void()> run, std::vector<View> outputs,
                             const std::vector<ConstView>& inputs) {
  for (const auto& output : outputs) {
    const bool used =
        std::any_of(in_use_.begin(), in_use_.end(), [&](const auto& other) { return overlap(output, other); }) ||
        std::any_of(inputs.begin(), inputs.end(), [&](const auto& input) { return overlap(output, input); });
    if (!used && !transfer_queued_) poison(output);
  }
  in_use_.insert(in_use_.end(), outputs.begin(), outputs.end());
  in_use_.insert(in_use_.end(), inputs.begin(), inputs.end());
  queue_.push_back({std::move(run), std::move(outputs)});
}

void DeferredDevice::synchronize() {
  const auto queue = std::exchange(queue_, {});
  in_use_.clear();
  transfer_queued_ = false;
  for (const auto& operation : queue) {
    for (const auto& output : operation.outputs) poison(output);
    operation.run();
  }
  device_.synchronize();
}

void DeferredDevice::upload(ConstView source, View destination) {
  auto copy = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(source.rows) * row_bytes(source));
  for (std::int64_t row = 0; row < source.rows; ++row) {
    std::memcpy(copy->data() + static_cast<std::size_t>(row) * row_bytes(source), source.row(row), row_bytes(source));
  }
  source.stride = source.columns;
  enqueue(
      [this, source, copy, destination]() mutable {
        source.data = copy->data();
        device_.upload(source, destination);
      },
      {destination}, {});
}

void DeferredDevice::download(ConstView source, View destination) {
  enqueue([=, this] { device_.download(source, destination); }, {destination}, {source});
}

void DeferredDevice::wait_for(std::shared_ptr<Transfer> transfer) {
  enqueue([this, transfer = std::move(transfer)] { device_.wait_for(transfer); }, {}, {});
  transfer_queued_ = true;
}

void DeferredDevice::mark(Phase phase) {
  enqueue([=, this] { device_.mark(phase); }, {}, {});
}

PhaseSeconds DeferredDevice::take_phase_seconds() {
  if (!queue_.empty()) throw std::logic_error("take_phase_seconds before synchronize");
  return device_.take_phase_seconds();
}

void DeferredDevice::embed(ConstView tokens, const Weight& table, View out) {
  enqueue([=, this, &table] { device_.embed(tokens, table, out); }, {out}, {tokens});
}

void DeferredDevice::rms_norm(ConstView x, ConstView weight, float epsilon, View out) {
  enqueue([=, this] { device_.rms_norm(x, weight, epsilon, out); }, {out}, {x, weight});
}

void DeferredDevice::linear(ConstView x, const Weight& weight, View out, bool accumulate) {
  auto run = [=, this, &weight] { device_.linear(x, weight, out, accumulate); };
  if (accumulate) {
    enqueue(run, {}, {x, out});
  } else {
    enqueue(run, {out}, {x});
  }
}

void DeferredDevice::rotate_and_store(const HeadShape& shape, ConstView qkv, const HeadNorms& norms, ConstView rotary,
                                      std::int64_t first_position, View query_out, Slot slot, int first_token) {
  auto run = [=, this] {
    device_.rotate_and_store(shape, qkv, norms, rotary, first_position, query_out, slot, first_token);
  };
  const View stored = bytes_of(slot, shape);
  if (first_token == 0 && qkv.rows > 0) {
    enqueue(run, {query_out, stored}, {qkv, norms.query, norms.key, rotary});
  } else {
    enqueue(run, {query_out}, {qkv, norms.query, norms.key, rotary, stored});
  }
}

void DeferredDevice::attention(const AttentionArguments& arguments) {
  std::vector<ConstView> inputs{arguments.query, bytes_of(arguments.causal.slot, arguments.shape)};
  for (const auto& range : arguments.visible) inputs.push_back(bytes_of(range.slot, arguments.shape));
  enqueue([=, this] { device_.attention(arguments); }, {arguments.output, arguments.log_sum_exp}, inputs);
}

void DeferredDevice::merge(const HeadShape& shape, std::span<const PartialAttention> partials, View out) {
  std::vector<ConstView> inputs;
  for (const auto& partial : partials) {
    inputs.push_back(partial.output);
    inputs.push_back(partial.log_sum_exp);
  }
  enqueue([=, this] { device_.merge(shape, partials, out); }, {out}, inputs);
}

void DeferredDevice::add_partial(const HeadShape& shape, const PartialAttention& partial, View output,
                                 View log_sum_exp) {
  enqueue([=, this] { device_.add_partial(shape, partial, output, log_sum_exp); }, {},
          {partial.output, partial.log_sum_exp, output, log_sum_exp});
}

void DeferredDevice::copy(ConstView source, View destination) {
  enqueue([=, this] { device_.copy(source, destination); }, {destination}, {source});
}

void DeferredDevice::silu(View x) {
  enqueue([=, this] { device_.silu(x); }, {}, {x});
}

void DeferredDevice::silu_multiply(ConstView gate_up, View out) {
  enqueue([=, this] { device_.silu_multiply(gate_up, out); }, {out}, {gate_up});
}

void DeferredDevice::mean_query(const HeadShape& shape, ConstView query, View mean) {
  enqueue([=, this] { device_.mean_query(shape, query, mean); }, {mean}, {query});
}

void DeferredDevice::score_similarity(const HeadShape& shape, ConstView mean, SlotRange keys, View scores) {
  enqueue([=, this] { device_.score_similarity(shape, mean, keys, scores); }, {scores},
          {mean, bytes_of(keys.slot, shape)});
}

void DeferredDevice::score_random(const RandomScoreKey& key, std::int64_t first_position, View scores) {
  enqueue([=, this] { device_.score_random(key, first_position, scores); }, {scores}, {});
}

void DeferredDevice::score_recent(std::int64_t first_position, View scores) {
  enqueue([=, this] { device_.score_recent(first_position, scores); }, {scores}, {});
}

void DeferredDevice::select(ConstView scores, int pool_window, int excluded, View positions) {
  enqueue([=, this] { device_.select(scores, pool_window, excluded, positions); }, {positions}, {scores});
}

void DeferredDevice::gather(const HeadShape& shape, SlotRange source, ConstView positions, Slot destination) {
  enqueue([=, this] { device_.gather(shape, source, positions, destination); }, {bytes_of(destination, shape)},
          {bytes_of(source.slot, shape), positions});
}

void DeferredDevice::argmax(ConstView x, View out) {
  enqueue([=, this] { device_.argmax(x, out); }, {out}, {x});
}

}  // namespace apb
