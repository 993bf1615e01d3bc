// The deferred device gives what the device behind it gives, only later.
#include "deferred_device.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.hpp"

namespace apb {
namespace {

constexpr HeadShape shape{4, 2, 8};
constexpr int rows = 7;
constexpr int hidden = 16;
constexpr int inner = 12;
constexpr int capacity = 64;
constexpr int passed = 5;
constexpr int stored = 3 * rows;  // tokens in the block's slot

/// Memory that a message changes when it arrives.
class AddingTransfer : public Transfer {
 public:
  explicit AddingTransfer(View target) : target_(target) {}
  void finish() override {
    if (std::exchange(finished_, true)) return;
    for (int i = 0; i < target_.columns; ++i) reinterpret_cast<float*>(target_.data)[i] += 1.0F;
  }

 private:
  View target_;
  bool finished_ = false;
};

/// A device with memory for a layer, and operations on it in random order.
class Program {
 public:
  /// Runs every operation once, so that nothing is read before it was written.
  Program(Device& device, DataType type) : device_(device), type_(type) {
    blocks_.capacity = capacity;
    blocks_memory_ = device.allocate(device.slot_bytes(capacity, shape));
    blocks_.data = blocks_memory_.data();
    for (std::size_t i = 0; i < passing_.size(); ++i) {
      passing_memory_[i] = device.allocate(device.slot_bytes(32, shape));
      passing_[i] = {{passing_memory_[i].data(), 32}, passed};
    }
    for (const auto& [outputs, inputs] : {std::pair{shape.qkv_columns(), hidden},
                                          {hidden, shape.query_columns()},
                                          {2 * inner, hidden},
                                          {hidden, inner}}) {
      weights_.push_back(packed(outputs, inputs));
    }
    for (const auto& operation : operations_) operation();
  }

  /// `count` operations in random order.
  void run(int count, unsigned seed) {
    std::mt19937 generator(seed);
    for (int i = 0; i < count; ++i) operations_[generator() % operations_.size()]();
    device_.synchronize();
  }

  /// All results; after run().
  Numbers results() const {
    Numbers all(downloaded_.begin(), downloaded_.end());
    for (const Matrix* matrix : {&residual_, &normed_, &qkv_, &query_, &attended_, &output_a_, &output_b_, &lse_a_,
                                 &lse_b_, &gate_up_, &activated_, &mean_, &scores_, &positions_, &chosen_}) {
      const Numbers numbers = read(matrix->view);
      all.insert(all.end(), numbers.begin(), numbers.end());
    }
    return all;
  }

 private:
  std::unique_ptr<Weight> packed(int outputs, int inputs) {
    const Numbers numbers = random_numbers(std::int64_t{outputs} * inputs, 0.3, 99);
    const std::vector<float> values(numbers.begin(), numbers.end());
    const ConstView matrix = host_view(values.data(), outputs, inputs);
    return device_.pack(std::span(&matrix, 1), {});
  }
  Matrix random(DataType type, std::int64_t matrix_rows, std::int64_t columns) {
    return random_matrix(device_, type, matrix_rows, columns, 1.0, seed_++);
  }
  Matrix empty(DataType type, std::int64_t matrix_rows, std::int64_t columns) {
    return poisoned(device_, type, matrix_rows, columns);
  }

  void upload(const View& view) {
    const Numbers numbers = random_numbers(view.rows * view.columns, 1.0, seed_++);
    const std::vector<float> values(numbers.begin(), numbers.end());
    device_.upload(host_view(values.data(), view.rows, view.columns), view);
  }
  void store() {
    for (int first = 0; first < stored; first += rows) {
      device_.rotate_and_store(shape, qkv_.view, {}, rotary_.view, first, query_.view, blocks_, first);
    }
  }
  void attend(const View& output, const View& log_sum_exp, std::span<const SlotRange> visible, int causal) {
    device_.attention({.shape = shape,
                       .query = query_.view,
                       .visible = visible,
                       .causal = {blocks_, causal},
                       .causal_before = stored - rows,
                       .output = output,
                       .log_sum_exp = log_sum_exp});
  }
  View downloaded_view() {
    return {reinterpret_cast<std::byte*>(downloaded_.data()), DataType::f32, Space::host, rows, hidden, hidden};
  }

  Device& device_;
  DataType type_;
  unsigned seed_ = 1;
  Slot blocks_;
  Buffer blocks_memory_;
  std::array<SlotRange, 2> passing_;
  std::array<Buffer, 2> passing_memory_;
  std::vector<std::unique_ptr<Weight>> weights_;
  std::vector<float> downloaded_ = std::vector<float>(std::size_t{rows} * hidden);

  Matrix tokens_ = filled(device_, DataType::i32, rows, 1, {3, 1, 0, 4, 2, 2, 1});
  std::unique_ptr<Weight> table_ = packed(5, hidden);
  Matrix norm_ = random(DataType::f32, 1, hidden);
  Matrix rotary_ = random(DataType::f32, capacity, shape.head_dim);
  Matrix residual_ = empty(DataType::f32, rows, hidden);
  Matrix normed_ = empty(type_, rows, hidden);
  Matrix qkv_ = empty(type_, rows, shape.qkv_columns());
  Matrix query_ = empty(type_, rows, shape.query_columns());
  Matrix attended_ = empty(type_, rows, shape.query_columns());
  Matrix output_a_ = empty(DataType::f32, rows, shape.query_columns());
  Matrix output_b_ = empty(DataType::f32, rows, shape.query_columns());
  Matrix lse_a_ = empty(DataType::f32, rows, shape.heads);
  Matrix lse_b_ = empty(DataType::f32, rows, shape.heads);
  Matrix gate_up_ = empty(type_, rows, 2 * inner);
  Matrix activated_ = empty(type_, rows, inner);
  Matrix mean_ = empty(DataType::f32, shape.kv_heads, shape.head_dim);
  Matrix scores_ = empty(DataType::f32, stored, shape.kv_heads);
  Matrix positions_ = empty(DataType::i32, shape.kv_heads, passed);
  Matrix chosen_ = empty(DataType::i32, rows, 1);
  std::array<PartialAttention, 2> partials_ = {{{output_a_.view, lse_a_.view}, {output_b_.view, lse_b_.view}}};

  std::vector<std::function<void()>> operations_ = {
      [this] { device_.embed(tokens_.view, *table_, residual_.view); },
      [this] { device_.rms_norm(residual_.view, norm_.view, 0.1F, normed_.view); },
      [this] { device_.linear(normed_.view, *weights_[0], qkv_.view, false); },
      [this] { store(); },
      [this] { device_.mean_query(shape, query_.view, mean_.view); },
      [this] { device_.score_recent(100, scores_.view); },
      [this] {
        device_.score_random({1, 2, 3}, 100, scores_.view);
      },
      [this] {
        device_.score_similarity(shape, mean_.view, {blocks_, stored}, scores_.view);
      },
      [this] { device_.select(scores_.view, 3, 2, positions_.view); },
      [this] { device_.select(scores_.view, 1, stored - passed, positions_.view); },
      [this] {
        device_.gather(shape, {blocks_, stored}, positions_.view, passing_[0].slot);
      },
      [this] {
        device_.gather(shape, {blocks_, stored}, positions_.view, passing_[1].slot);
      },
      [this] { attend(output_a_.view, lse_a_.view, passing_, 0); },
      [this] { attend(output_b_.view, lse_b_.view, {}, stored); },
      [this] { attend(attended_.view, {}, passing_, stored); },
      [this] { device_.merge(shape, partials_, attended_.view); },
      [this] { device_.linear(attended_.view, *weights_[1], residual_.view, true); },
      [this] { device_.linear(normed_.view, *weights_[2], gate_up_.view, false); },
      [this] { device_.silu_multiply(gate_up_.view, activated_.view); },
      [this] { device_.silu(activated_.view); },
      [this] { device_.linear(activated_.view, *weights_[3], residual_.view, true); },
      [this] { device_.argmax(residual_.view, chosen_.view); },
      [this] { device_.download(residual_.view, downloaded_view()); },
      [this] { upload(residual_.view); },
      [this] { upload(normed_.view); },
      [this] { device_.wait_for(std::make_shared<AddingTransfer>(residual_.view.row_range(2, 1))); },
      [this] { device_.mark(Phase::attention); },
      [this] { device_.synchronize(); },
  };
};

TEST(DeferredDevice, GivesTheSameBytesAsTheDirectDevice) {
  for (const auto& [type, tolerance] : type_cases) {
    const auto device = make_cpu_device({.threads = 2, .compute_type = type});
    DeferredDevice deferred(*device);
    Program direct_program(*device, type);
    Program deferred_program(deferred, type);
    for (unsigned seed = 0; seed < 20; ++seed) {
      direct_program.run(100, seed);
      deferred_program.run(100, seed);
      const Numbers expected = direct_program.results();
      for (const double value : expected) ASSERT_TRUE(std::isfinite(value)) << "seed " << seed;
      ASSERT_EQ(deferred_program.results(), expected) << "seed " << seed;
    }
  }
}

class DeferredDeviceTest : public testing::Test {
 protected:
  Matrix matrix(std::int64_t matrix_rows, std::int64_t columns, unsigned seed) {
    return random_matrix(*device, DataType::f32, matrix_rows, columns, 1.0, seed);
  }
  std::unique_ptr<Device> device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  DeferredDevice deferred{*device};
};

TEST_F(DeferredDeviceTest, ShowsNanUntilSynchronized) {
  const Matrix x = matrix(3, 8, 1);
  const Matrix weight = matrix(1, 8, 2);
  const Matrix out = matrix(3, 8, 3);
  deferred.rms_norm(x.view, weight.view, 1e-5F, out.view);
  for (const double value : read(out.view)) EXPECT_TRUE(std::isnan(value));
  deferred.synchronize();
  for (const double value : read(out.view)) EXPECT_FALSE(std::isnan(value));
}

TEST_F(DeferredDeviceTest, DownloadsLate) {
  const Matrix x = matrix(3, 8, 1);
  std::vector<float> host(24, 5.0F);
  deferred.download(x.view, {reinterpret_cast<std::byte*>(host.data()), DataType::f32, Space::host, 3, 8, 8});
  for (const float value : host) EXPECT_TRUE(std::isnan(value));
  deferred.synchronize();
  EXPECT_EQ(Numbers(host.begin(), host.end()), read(x.view));
}

TEST_F(DeferredDeviceTest, KeepsWhatQueuedOperationsRead) {
  const Matrix x = matrix(3, 8, 1);
  const Matrix copy = matrix(3, 8, 2);
  const Matrix weight = filled(*device, DataType::f32, 1, 8, Numbers(8, 1.0));
  deferred.rms_norm(x.view, weight.view, 0.0F, copy.view);
  deferred.score_recent(5, x.view);  // afterwards
  EXPECT_FALSE(std::isnan(read(x.view)[0]));
  deferred.synchronize();
  EXPECT_FALSE(std::isnan(read(copy.view)[0]));
  EXPECT_EQ(read(x.view)[23], 7.0);
}

TEST_F(DeferredDeviceTest, LosesWhatAnOperationLeavesUnwritten) {
  const Buffer memory = deferred.allocate(deferred.slot_bytes(64, shape));
  const Slot slot{memory.data(), 64};
  const Buffer source_memory = deferred.allocate(deferred.slot_bytes(64, shape));
  const Slot source{source_memory.data(), 64};
  const Matrix qkv = matrix(64, shape.qkv_columns(), 1);
  const Matrix rotary = matrix(64, shape.head_dim, 2);
  const Matrix positions = filled(*device, DataType::i32, 2, 2, {1, 2, 3, 4});
  deferred.rotate_and_store(shape, qkv.view, {}, rotary.view, 0, {}, source, 0);
  deferred.rotate_and_store(shape, qkv.view, {}, rotary.view, 0, {}, slot, 0);
  deferred.gather(shape, {source, 64}, positions.view, slot);
  deferred.synchronize();
  const std::byte* last_value = memory.data() + memory.bytes() - sizeof(float);
  EXPECT_TRUE(std::isnan(read_elements(last_value, DataType::f32, 1)[0]));
}

TEST_F(DeferredDeviceTest, UploadTakesItsSourceAtOnce) {
  const Matrix out = matrix(2, 2, 1);
  std::vector<float> source = {1, 2, 3, 4};
  deferred.upload(host_view(source.data(), 2, 2), out.view);
  source.assign(4, 9.0F);
  deferred.synchronize();
  EXPECT_EQ(read(out.view), (Numbers{1, 2, 3, 4}));
}

TEST_F(DeferredDeviceTest, ReadsSpansLate) {
  std::vector<Matrix> memory;
  std::array<PartialAttention, 2> partials;
  for (unsigned i = 0; i < 4; ++i) memory.push_back(matrix(rows, i % 2 == 0 ? 32 : 4, i));
  partials[0] = {memory[0].view, memory[1].view};
  partials[1] = {memory[2].view, memory[3].view};
  const Matrix kept = poisoned(*device, DataType::f32, rows, 32);
  const Matrix changed = poisoned(*device, DataType::f32, rows, 32);
  deferred.merge(shape, partials, kept.view);
  deferred.synchronize();
  deferred.merge(shape, partials, changed.view);
  partials[1] = partials[0];
  deferred.synchronize();
  EXPECT_NE(read(kept.view), read(changed.view));
}

TEST_F(DeferredDeviceTest, ReadsSlotTablesLate) {
  std::array<Buffer, 2> memory;
  std::array<SlotRange, 2> table;
  for (std::size_t i = 0; i < 2; ++i) {
    const Matrix qkv = matrix(rows, shape.qkv_columns(), static_cast<unsigned>(i));
    const Matrix rotary = matrix(rows, shape.head_dim, 7);
    memory[i] = deferred.allocate(deferred.slot_bytes(32, shape));
    table[i] = {{memory[i].data(), 32}, rows};
    deferred.rotate_and_store(shape, qkv.view, {}, rotary.view, 0, {}, table[i].slot, 0);
    deferred.synchronize();
  }
  const Matrix query = matrix(rows, shape.query_columns(), 3);
  const auto attend = [&](const Matrix& output) {
    deferred.attention({.shape = shape,
                        .query = query.view,
                        .visible = table,
                        .causal = {},
                        .causal_before = 0,
                        .output = output.view,
                        .log_sum_exp = {}});
  };
  const Matrix kept = poisoned(*device, DataType::f32, rows, 32);
  const Matrix changed = poisoned(*device, DataType::f32, rows, 32);
  attend(kept);
  deferred.synchronize();
  attend(changed);
  table[1].count = 3;
  deferred.synchronize();
  EXPECT_FALSE(std::isnan(read(changed.view)[0]));
  EXPECT_NE(read(kept.view), read(changed.view));
}

TEST_F(DeferredDeviceTest, FinishesTransfersInOrder) {
  const Matrix x = filled(*device, DataType::f32, 1, 2, {0.0, 0.0});
  const Matrix before = matrix(1, 2, 1);
  const Matrix after = matrix(1, 2, 1);
  const Matrix one = filled(*device, DataType::f32, 1, 2, {1.0, 1.0});
  deferred.rms_norm(x.view, one.view, 1.0F, before.view);
  deferred.wait_for(std::make_shared<AddingTransfer>(x.view));
  deferred.rms_norm(x.view, one.view, 3.0F, after.view);
  EXPECT_EQ(read(x.view)[0], 0.0);
  deferred.synchronize();
  EXPECT_EQ(read(before.view), (Numbers{0.0, 0.0}));
  EXPECT_EQ(read(after.view), (Numbers{0.5, 0.5}));
}

TEST_F(DeferredDeviceTest, LeavesMemoryAloneWhileAMessageMayUseIt) {
  const Matrix x = filled(*device, DataType::f32, 1, 2, {0.0, 0.0});
  const Matrix message = matrix(1, 2, 1);
  deferred.wait_for(std::make_shared<AddingTransfer>(message.view));
  deferred.score_recent(5, x.view);
  EXPECT_EQ(read(x.view)[0], 0.0);
  deferred.synchronize();
  EXPECT_EQ(read(x.view)[0], 5.0);
}

TEST_F(DeferredDeviceTest, GivesTimesOnlyAfterSynchronizing) {
  deferred.mark(Phase::head);
  EXPECT_THROW(deferred.take_phase_seconds(), std::logic_error);
  deferred.synchronize();
  EXPECT_NO_THROW(deferred.take_phase_seconds());
}

TEST_F(DeferredDeviceTest, RefusesWrongArgumentsWhenItRuns) {
  const Matrix x = matrix(3, 8, 1);
  deferred.rms_norm(x.view, x.view, 1e-5F, x.view);
  EXPECT_THROW(deferred.synchronize(), std::invalid_argument);
  EXPECT_NO_THROW(deferred.synchronize());
}

}  // namespace
}  // namespace apb
