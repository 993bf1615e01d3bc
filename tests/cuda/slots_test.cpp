// Keys and values into slots: RoPE against double precision, copies bit by bit, nothing written elsewhere.
#include <gtest/gtest.h>

#include <cmath>

#include "compare.hpp"
#include "cuda/cases.hpp"
#include "cuda/device_memory.hpp"
#include "cuda/kernels.hpp"

namespace apb::cuda {
namespace {

/// A slot as a matrix: per KV head `capacity` rows of keys, then as many of values.
DeviceMatrix slot_matrix(const HeadShape& shape, int capacity) {
  return {DataType::bf16, std::int64_t{2} * shape.kv_heads * capacity, shape.head_dim};
}

/// The row of a slot's matrix where a token's key or value stands.
std::int64_t slot_row(int capacity, int kv_head, bool is_value, std::int64_t token) {
  return (2 * kv_head + (is_value ? 1 : 0)) * capacity + token;
}

struct Rotation {
  HeadShape shape;
  std::int64_t rows;
  std::int64_t first_position;
  int first_token;
  int capacity;
  bool norms;
  bool wants_query;
};

/// `count` heads from column `first` of a row on, after norm and RoPE.
Numbers rotated(const Numbers& row, std::int64_t first, const Numbers& norm, double epsilon, const Numbers& angles,
                std::size_t head_dim) {
  Numbers x(row.begin() + first, row.begin() + first + static_cast<std::int64_t>(head_dim));
  if (!norm.empty()) {
    double squares = 0.0;
    for (const double number : x) squares += number * number;
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(head_dim) + epsilon);
    for (std::size_t i = 0; i < head_dim; ++i) x[i] *= scale * norm[i];
  }
  Numbers result(head_dim);
  const std::size_t half = head_dim / 2;
  for (std::size_t i = 0; i < half; ++i) {
    result[i] = x[i] * angles[i] - x[i + half] * angles[i + half];
    result[i + half] = x[i + half] * angles[i] + x[i] * angles[i + half];
  }
  return result;
}

Numbers row_of(const Numbers& numbers, std::int64_t row, std::int64_t columns) {
  return {numbers.begin() + row * columns, numbers.begin() + (row + 1) * columns};
}

void expect_rotation(Random& random, const Rotation& wanted) {
  const auto& [shape, rows, first_position, first_token, capacity, norms, wants_query] = wanted;
  const std::int64_t head_dim = shape.head_dim;
  const DeviceMatrix qkv(DataType::bf16, rows, shape.qkv_columns(), shape.qkv_columns() + gap(8),
                         random.numbers(rows * shape.qkv_columns(), 2.0));
  const DeviceMatrix rotary(DataType::f32, first_position + rows, head_dim, head_dim,
                            random.numbers((first_position + rows) * head_dim));
  const DeviceMatrix query_norm(DataType::f32, 1, head_dim, head_dim, random.numbers(head_dim, 2.0));
  const DeviceMatrix key_norm(DataType::f32, 1, head_dim, head_dim, random.numbers(head_dim, 2.0));
  const DeviceMatrix query(DataType::bf16, rows, shape.query_columns(), shape.query_columns() + gap(16));
  const DeviceMatrix memory = slot_matrix(shape, capacity);
  constexpr float epsilon = 0.001F;
  HeadNorms head_norms;
  if (norms) head_norms = {query_norm.view(), key_norm.view(), epsilon};
  check(rotate_and_store(nullptr, shape, qkv.view(), head_norms, rotary.view(), first_position,
                         wants_query ? query.view() : View{}, {memory.view().data, capacity}, first_token));

  const Numbers in = qkv.read();
  const Numbers angles = rotary.read();
  const Numbers query_weights = norms ? query_norm.read() : Numbers{};
  const Numbers key_weights = norms ? key_norm.read() : Numbers{};
  const Numbers slot = memory.read();
  Numbers expected_query;
  Numbers keys;
  Numbers expected_keys;
  std::vector<bool> written(static_cast<std::size_t>(memory.view().rows));
  for (std::int64_t row = 0; row < rows; ++row) {
    const Numbers numbers = row_of(in, row, shape.qkv_columns());
    const Numbers turn = row_of(angles, first_position + row, head_dim);
    const auto dimension = static_cast<std::size_t>(head_dim);
    for (int head = 0; head < shape.heads; ++head) {
      const Numbers x = rotated(numbers, head * head_dim, query_weights, epsilon, turn, dimension);
      expected_query.insert(expected_query.end(), x.begin(), x.end());
    }
    for (int head = 0; head < shape.kv_heads; ++head) {
      const std::int64_t key_row = slot_row(capacity, head, false, first_token + row);
      const std::int64_t value_row = slot_row(capacity, head, true, first_token + row);
      const std::int64_t key_column = (shape.heads + head) * head_dim;
      const std::int64_t value_column = (shape.heads + shape.kv_heads + head) * head_dim;
      const Numbers key = rotated(numbers, key_column, key_weights, epsilon, turn, dimension);
      const Numbers key_in_slot = row_of(slot, key_row, head_dim);
      expected_keys.insert(expected_keys.end(), key.begin(), key.end());
      keys.insert(keys.end(), key_in_slot.begin(), key_in_slot.end());
      EXPECT_EQ(row_of(slot, value_row, head_dim),
                Numbers(numbers.begin() + value_column, numbers.begin() + value_column + head_dim));
      written[static_cast<std::size_t>(key_row)] = written[static_cast<std::size_t>(value_row)] = true;
    }
  }
  if (rows > 0) {
    EXPECT_CLOSE(keys, expected_keys, 0.004);
  }
  if (rows > 0 && wants_query) {
    EXPECT_CLOSE(query.read(), expected_query, 0.004);
  }
  EXPECT_TRUE(query.poison_is_whole());
  EXPECT_TRUE(memory.poison_is_whole());
  for (std::size_t i = 0; i < slot.size(); ++i) {
    ASSERT_EQ(std::isnan(slot[i]), !written[i / static_cast<std::size_t>(head_dim)]) << "slot element " << i;
  }
}

TEST(RotateAndStore, SplitsTurnsAndStores) {
  Random random;
  for (const bool norms : {false, true}) {
    for (const bool wants_query : {true, false}) {
      for (const HeadShape& shape : {HeadShape{9, 3, 64}, HeadShape{4, 1, 128}, HeadShape{1, 1, 64}}) {
        SCOPED_TRACE(std::to_string(shape.heads) + " heads of " + std::to_string(shape.head_dim));
        expect_rotation(random, {shape, 1, 0, 0, 64, norms, wants_query});
        expect_rotation(random, {shape, 7, 13, 50, 128, norms, wants_query});
        expect_rotation(random, {shape, 0, 3, 5, 64, norms, wants_query});
      }
    }
  }
  expect_rotation(random, {{32, 8, 128}, 3, 1, 2, 64, true, true});
  if (large_tests()) expect_rotation(random, {{32, 8, 128}, 2000, 1000, 64, 2112, true, true});
}

TEST(RotateAndStore, RefusesOtherHeadDimensions) {
  const DeviceMatrix any(DataType::bf16, 4, 96);
  EXPECT_NE(rotate_and_store(nullptr, {1, 1, 32}, any.view(), {}, any.view(), 0, {}, {any.view().data, 64}, 0),
            cudaSuccess);
}

void expect_gather(Random& random, const HeadShape& shape, int source_capacity, int capacity, std::int64_t count) {
  const DeviceMatrix source = slot_matrix(shape, source_capacity);
  const DeviceMatrix filled(DataType::bf16, source.view().rows, shape.head_dim, shape.head_dim,
                            random.numbers(source.view().rows * shape.head_dim));
  Numbers positions;
  for (std::int64_t i = 0; i < shape.kv_heads * count; ++i) {
    positions.push_back(static_cast<double>(random.integer(0, source_capacity - 1)));
  }
  const DeviceMatrix wanted(DataType::i32, shape.kv_heads, count, count + gap(3), positions);
  const DeviceMatrix destination = slot_matrix(shape, capacity);
  check(gather(nullptr, shape, {{filled.view().data, source_capacity}, source_capacity}, wanted.view(),
               {destination.view().data, capacity}));
  const Numbers from = filled.read();
  const Numbers to = destination.read();
  for (int head = 0; head < shape.kv_heads; ++head) {
    for (const bool is_value : {false, true}) {
      for (std::int64_t token = 0; token < capacity; ++token) {
        const Numbers row = row_of(to, slot_row(capacity, head, is_value, token), shape.head_dim);
        if (token < count) {
          const auto position = static_cast<std::int64_t>(positions[static_cast<std::size_t>(head * count + token)]);
          ASSERT_EQ(row, row_of(from, slot_row(source_capacity, head, is_value, position), shape.head_dim));
        } else {
          ASSERT_TRUE(std::all_of(row.begin(), row.end(), [](double number) { return std::isnan(number); })) << token;
        }
      }
    }
  }
  EXPECT_TRUE(destination.poison_is_whole());
}

TEST(Gather, CopiesKeysAndValues) {
  Random random;
  expect_gather(random, {6, 2, 64}, 192, 128, 77);
  expect_gather(random, {4, 4, 128}, 64, 64, 64);
  expect_gather(random, {2, 1, 64}, 64, 64, 1);
  expect_gather(random, {2, 2, 128}, 64, 64, 0);
  if (large_tests()) expect_gather(random, {32, 8, 128}, 8192, 2048, 2000);
}

}  // namespace
}  // namespace apb::cuda
