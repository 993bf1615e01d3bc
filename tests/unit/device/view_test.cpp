// Views and buffers.
#include <gtest/gtest.h>

#include <array>
#include <stdexcept>
#include <vector>

#include "device/view.hpp"

namespace apb {
namespace {

TEST(View, RowsAreAStrideApart) {
  std::vector<std::byte> memory(1000);
  const View view{memory.data(), DataType::bf16, Space::device, 7, 5, 9};
  EXPECT_EQ(view.row(3), memory.data() + 3 * 9 * 2);
  const ConstView read_only = view;
  EXPECT_EQ(read_only.row(3), view.row(3));
  EXPECT_EQ(read_only.space, Space::device);
}

TEST(View, RowRangeKeepsEverythingElse) {
  std::vector<std::byte> memory(1000);
  const View view{memory.data(), DataType::f32, Space::device, 7, 5, 9};
  const View part = view.row_range(2, 4);
  EXPECT_EQ(part.data, view.row(2));
  EXPECT_EQ(part.rows, 4);
  EXPECT_EQ(part.columns, 5);
  EXPECT_EQ(part.stride, 9);
  EXPECT_EQ(part.type, DataType::f32);
  EXPECT_EQ(part.space, Space::device);
  EXPECT_TRUE(view.row_range(7, 0).empty());
}

TEST(View, RowRangeMustLieInside) {
  std::vector<std::byte> memory(1000);
  const View view{memory.data(), DataType::f32, Space::host, 7, 5, 5};
  EXPECT_THROW(view.row_range(4, 4), std::out_of_range);
  EXPECT_THROW(view.row_range(-1, 2), std::out_of_range);
  EXPECT_THROW(view.row_range(1, -1), std::out_of_range);
  EXPECT_THROW(ConstView(view).row_range(8, 0), std::out_of_range);
}

TEST(View, HostViewIsContiguous) {
  const std::array<float, 6> values{};
  const ConstView view = host_view(values.data(), 2, 3);
  EXPECT_EQ(view.row(1), reinterpret_cast<const std::byte*>(values.data() + 3));
  EXPECT_EQ(view.type, DataType::f32);
  EXPECT_EQ(view.space, Space::host);
  const std::array<std::int32_t, 6> numbers{};
  EXPECT_EQ(host_view(numbers.data(), 3, 2).type, DataType::i32);
}

TEST(Buffer, ReleasesItsMemoryOnce) {
  std::array<std::byte, 64> memory{};
  int released = 0;
  {
    Buffer first(memory.data(), memory.size(), Space::device, [&](std::byte* data) {
      EXPECT_EQ(data, memory.data());
      ++released;
    });
    const Buffer second = std::move(first);
    EXPECT_EQ(second.data(), memory.data());
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
}

TEST(Buffer, ViewsLieInside) {
  std::array<std::byte, 64> memory{};
  const Buffer buffer(memory.data(), memory.size(), Space::device, [](std::byte*) {});
  const View view = buffer.view(DataType::bf16, 4, 6, 16);
  EXPECT_EQ(view.data, memory.data() + 16);
  EXPECT_EQ(view.stride, 6);
  EXPECT_EQ(view.space, Space::device);
  EXPECT_THROW(buffer.view(DataType::bf16, 4, 6, 17), std::out_of_range);
  EXPECT_THROW(buffer.view(DataType::f32, 4, 5), std::out_of_range);
  EXPECT_EQ(buffer.view(DataType::f32, 4, 4).columns, 4);
}

}  // namespace
}  // namespace apb
