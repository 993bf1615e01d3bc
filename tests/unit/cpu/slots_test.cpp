// Keys and values in slots: RoPE, storing and gathering.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "arrays.hpp"
#include "compare.hpp"
#include "cpu/key_value_layout.hpp"
#include "cpu/rows.hpp"

namespace apb {
namespace {

constexpr std::int64_t positions_known = 5000;

/// cos and sin of position * 10000^(-2 i / head_dim), as the model's table has them.
Numbers rotary_table(int head_dim) {
  Numbers table;
  for (std::int64_t position = 0; position < positions_known; ++position) {
    for (const bool sine : {false, true}) {
      for (int i = 0; i < head_dim / 2; ++i) {
        const double angle = static_cast<double>(position) * std::pow(10000.0, -2.0 * i / head_dim);
        table.push_back(sine ? std::sin(angle) : std::cos(angle));
      }
    }
  }
  return table;
}

/// A slot, all NaN.
struct TestSlot {
  Buffer memory;
  Slot slot;
};

TestSlot poisoned_slot(Device& device, int capacity, const HeadShape& shape) {
  Buffer memory = device.allocate(device.slot_bytes(capacity, shape));
  std::memset(memory.data(), 0xFF, memory.bytes());
  const Slot slot{memory.data(), capacity};
  return {std::move(memory), slot};
}

enum class Part { keys, values };

/// The keys or values of tokens [first, first + count) of one KV head.
Numbers read_slot(const Slot& slot, const HeadShape& shape, DataType type, Part part, int head, int first, int count) {
  Numbers result;
  cpu::with_element(type, [&]<typename Element>(Element) {
    const cpu::HeadLayout<Element> layout(slot, shape.head_dim, head);
    for (int token = first; token < first + count; ++token) {
      for (int i = 0; i < shape.head_dim; ++i) {
        result.push_back(cpu::to_float(part == Part::keys ? layout.key(token, i) : layout.value(token, i)));
      }
    }
  });
  return result;
}

/// Every element of a slot has one place, and there are no others but the values that fill up a tile.
TEST(KeyValueLayout, HasOnePlaceForEverything) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const int head_dim : {8, 16, 34, 64}) {
      const HeadShape shape{3, 3, head_dim};
      std::vector<std::byte> memory(cpu::slot_bytes(64, shape, type));
      cpu::with_element(type, [&]<typename Element>(Element) {
        std::vector<int> found(memory.size() / sizeof(Element));
        const auto mark = [&](const Element& element) {
          ++found.at(static_cast<std::size_t>(&element - reinterpret_cast<Element*>(memory.data())));
        };
        for (int head = 0; head < 3; ++head) {
          const cpu::HeadLayout<Element> layout({memory.data(), 64}, head_dim, head);
          for (int token = 0; token < 64; ++token) {
            for (int i = 0; i < head_dim; ++i) mark(layout.key(token, i));
            for (int i = 0; i < cpu::value_width(head_dim); ++i) mark(layout.value(token, i));
          }
        }
        EXPECT_EQ(found, std::vector<int>(found.size(), 1));
      });
    }
  }
}

/// A head's numbers after RoPE at `position`, in double precision.
Numbers rotated(const double* x, int head_dim, std::int64_t position) {
  Numbers result(static_cast<std::size_t>(head_dim));
  for (int i = 0; i < head_dim / 2; ++i) {
    const double angle = static_cast<double>(position) * std::pow(10000.0, -2.0 * i / head_dim);
    const int high = i + head_dim / 2;
    result[static_cast<std::size_t>(i)] = x[i] * std::cos(angle) - x[high] * std::sin(angle);
    result[static_cast<std::size_t>(high)] = x[high] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return result;
}

/// The head after x / rms(x) * weight; as it is without a weight.
Numbers normalised(const double* x, int head_dim, const Numbers& weight, double epsilon) {
  Numbers result(x, x + head_dim);
  if (weight.empty()) return result;
  double squares = 0.0;
  for (const double value : result) squares += value * value;
  const double rms = std::sqrt(squares / head_dim + epsilon);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] *= weight[i] / rms;
  return result;
}

void append(Numbers& to, const Numbers& from) { to.insert(to.end(), from.begin(), from.end()); }

struct StoreCase {
  HeadShape shape;
  int rows;
  std::int64_t first_position;
  int first_token;
  bool norms;
};

/// Stores random rows; compares queries, keys and values with double precision, and looks at what must be zero and
/// what must not be touched.
void check_store(const StoreCase& wanted, const Numbers& rotary, DataType type, double tolerance) {
  const HeadShape& shape = wanted.shape;
  const int rows = wanted.rows;
  const int capacity = 128;
  const int head_dim = shape.head_dim;
  constexpr double epsilon = 0.01;  // large, so that it shows
  Numbers qkv, query, keys, values, behind, query_norm, key_norm;
  const int first_token = wanted.first_token;
  on_one_and_two_threads(type, [&](Device& device) {
    const Matrix input = random_matrix(device, type, rows, shape.qkv_columns(), 2.0, 1);
    const Matrix table = filled(device, DataType::f32, positions_known, head_dim, rotary);
    const Matrix rotated_query = poisoned(device, type, rows, shape.query_columns());
    const TestSlot stored = poisoned_slot(device, capacity, shape);
    const int norm_columns = wanted.norms ? head_dim : 0;
    const Matrix query_weight = random_matrix(device, DataType::f32, 1, norm_columns, 1.5, 8);
    const Matrix key_weight = random_matrix(device, DataType::f32, 1, norm_columns, 1.5, 9);
    const HeadNorms norms{query_weight.view, key_weight.view, static_cast<float>(epsilon)};
    device.rotate_and_store(shape, input.view, norms, table.view, wanted.first_position, rotated_query.view,
                            stored.slot, first_token);
    query_norm = read(query_weight.view);
    key_norm = read(key_weight.view);
    qkv = read(input.view);
    query = read(rotated_query.view);
    keys.clear();
    values.clear();
    const int tile_end = (first_token + rows + 31) / 32 * 32;
    for (int head = 0; head < shape.kv_heads; ++head) {
      append(keys, read_slot(stored.slot, shape, type, Part::keys, head, first_token, rows));
      append(values, read_slot(stored.slot, shape, type, Part::values, head, first_token, rows));
      behind =
          read_slot(stored.slot, shape, type, Part::values, head, first_token + rows, tile_end - first_token - rows);
      EXPECT_EQ(behind, Numbers(behind.size(), 0.0));
      for (const auto part : {Part::keys, Part::values}) {
        Numbers untouched = read_slot(stored.slot, shape, type, part, head, 0, first_token);
        append(untouched, read_slot(stored.slot, shape, type, part, head, tile_end, capacity - tile_end));
        for (const double value : untouched) EXPECT_TRUE(std::isnan(value));
      }
    }
    Numbers all = query;
    append(all, keys);
    append(all, values);
    return all;
  });

  Numbers expected_query, expected_keys, expected_values;
  const auto rotated_head = [&](const double* x, const Numbers& norm, int row) {
    return rotated(normalised(x, head_dim, norm, epsilon).data(), head_dim, wanted.first_position + row);
  };
  const auto head_of_row = [&](int row, int head) {
    return qkv.data() + std::int64_t{row} * shape.qkv_columns() + std::int64_t{head} * head_dim;
  };
  for (int row = 0; row < rows; ++row) {
    for (int head = 0; head < shape.heads; ++head) {
      append(expected_query, rotated_head(head_of_row(row, head), query_norm, row));
    }
  }
  for (int head = 0; head < shape.kv_heads; ++head) {
    for (int row = 0; row < rows; ++row) {
      append(expected_keys, rotated_head(head_of_row(row, shape.heads + head), key_norm, row));
      const double* value = head_of_row(row, shape.heads + shape.kv_heads + head);
      expected_values.insert(expected_values.end(), value, value + head_dim);
    }
  }
  EXPECT_CLOSE(query, expected_query, tolerance);
  EXPECT_CLOSE(keys, expected_keys, tolerance);
  EXPECT_EQ(values, expected_values);
  if (wanted.first_position == 0 && !wanted.norms) {
    EXPECT_EQ(Numbers(query.begin(), query.begin() + shape.query_columns()),
              Numbers(qkv.begin(), qkv.begin() + shape.query_columns()));
  }
}

TEST(RotateAndStore, MatchesDoublePrecision) {
  for (const auto& [type, tolerance] : type_cases) {
    for (const HeadShape& shape : {HeadShape{6, 2, 16}, HeadShape{3, 3, 34}}) {
      const Numbers rotary = rotary_table(shape.head_dim);
      for (const int rows : {1, 7, 65}) {
        for (const std::int64_t first_position : {std::int64_t{0}, std::int64_t{4900}}) {
          for (const int first_token : {0, 13, 32}) {
            for (const bool norms : {false, true})
              check_store({shape, rows, first_position, first_token, norms}, rotary, type, tolerance);
          }
        }
      }
    }
  }
}

TEST(RotateAndStore, StoresKeysWithoutQueries) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const HeadShape shape{2, 1, 8};
  const Matrix qkv = random_matrix(*device, DataType::f32, 3, shape.qkv_columns(), 1.0, 2);
  const Matrix table = filled(*device, DataType::f32, positions_known, 8, rotary_table(8));
  const TestSlot stored = poisoned_slot(*device, 32, shape);
  device->rotate_and_store(shape, qkv.view, {}, table.view, 0, {}, stored.slot, 0);
  for (const double key : read_slot(stored.slot, shape, DataType::f32, Part::keys, 0, 0, 3)) {
    EXPECT_FALSE(std::isnan(key));
  }
}

TEST(RotateAndStore, RefusesWhatDoesNotFit) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const HeadShape shape{2, 1, 8};
  const Matrix qkv = random_matrix(*device, DataType::f32, 3, shape.qkv_columns(), 1.0, 2);
  const Matrix table = random_matrix(*device, DataType::f32, 10, 8, 1.0, 3);
  const TestSlot stored = poisoned_slot(*device, 32, shape);
  const auto store = [&](std::int64_t position, int token) {
    device->rotate_and_store(shape, qkv.view, {}, table.view, position, {}, stored.slot, token);
  };
  EXPECT_NO_THROW(store(7, 29));
  EXPECT_THROW(store(8, 29), std::invalid_argument);
  EXPECT_THROW(store(7, 30), std::invalid_argument);
  EXPECT_THROW(store(-1, 0), std::invalid_argument);
  const auto store_with = [&](const HeadNorms& norms) {
    device->rotate_and_store(shape, qkv.view, norms, table.view, 0, {}, stored.slot, 0);
  };
  const View weight = table.view.row_range(0, 1);
  EXPECT_NO_THROW(store_with({weight, weight, 1e-5F}));
  EXPECT_THROW(store_with({weight, {}, 1e-5F}), std::invalid_argument);
  EXPECT_THROW(store_with({weight, table.view, 1e-5F}), std::invalid_argument);
}

TEST(Gather, CopiesEachHeadsTokens) {
  const HeadShape shape{4, 2, 24};
  const int count = 37;
  for (const auto& [type, tolerance] : type_cases) {
    Numbers positions;
    for (int i = 0; i < count; ++i) positions.push_back(2 * i);
    for (int i = 0; i < count; ++i) positions.push_back(20 + i + i / 3);
    Numbers expected;
    const Numbers out = on_one_and_two_threads(type, [&](Device& device) {
      const TestSlot source = poisoned_slot(device, 96, shape);
      const auto elements = static_cast<std::int64_t>(source.memory.bytes() / size_of(type));
      const Matrix numbers = random_matrix(device, type, 1, elements, 3.0, 4);
      std::memcpy(source.slot.data, numbers.view.data, source.memory.bytes());
      const TestSlot destination = poisoned_slot(device, 96, shape);
      device.gather(shape, {source.slot, 90}, filled(device, DataType::i32, 2, count, positions).view,
                    destination.slot);
      Numbers result;
      expected.clear();
      for (int head = 0; head < 2; ++head) {
        for (const auto part : {Part::keys, Part::values}) {
          append(result, read_slot(destination.slot, shape, type, part, head, 0, count));
          for (int i = 0; i < count; ++i) {
            const auto token = static_cast<int>(positions[static_cast<std::size_t>(head * count + i)]);
            append(expected, read_slot(source.slot, shape, type, part, head, token, 1));
          }
        }
        const Numbers tail = read_slot(destination.slot, shape, type, Part::values, head, count, 64 - count);
        EXPECT_EQ(tail, Numbers(tail.size(), 0.0));
        for (const double value : read_slot(destination.slot, shape, type, Part::values, head, 64, 32)) {
          EXPECT_TRUE(std::isnan(value));
        }
      }
      return result;
    });
    EXPECT_EQ(out, expected);
  }
}

TEST(Gather, RefusesAPositionOutsideTheSource) {
  const auto device = make_cpu_device({.threads = 1, .compute_type = DataType::f32});
  const HeadShape shape{1, 1, 8};
  const TestSlot source = poisoned_slot(*device, 32, shape);
  const TestSlot destination = poisoned_slot(*device, 32, shape);
  for (const double position : {-1.0, 20.0}) {
    const Matrix positions = filled(*device, DataType::i32, 1, 2, {0.0, position});
    EXPECT_THROW(device->gather(shape, {source.slot, 20}, positions.view, destination.slot), std::invalid_argument);
  }
}

}  // namespace
}  // namespace apb
