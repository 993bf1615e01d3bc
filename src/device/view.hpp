// Views and owners of device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace apb {

enum class DataType { f32, bf16, f16, i32 };
enum class Space { host, device };

constexpr std::size_t size_of(DataType type) { return type == DataType::f32 || type == DataType::i32 ? 4 : 2; }

/// Bytes of a contiguous rows x columns view.
constexpr std::size_t view_bytes(DataType type, std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(rows * columns) * size_of(type);
}

/// Read-only rows x columns of one type; `stride` elements from row to row.
struct ConstView {
  const std::byte* data = nullptr;
  DataType type = DataType::f32;
  Space space = Space::host;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 0;

  bool empty() const { return rows == 0 || columns == 0; }
  const std::byte* row(std::int64_t index) const {
    return data + static_cast<std::size_t>(index * stride) * size_of(type);
  }
  /// Rows [first, first + count).
  ConstView row_range(std::int64_t first, std::int64_t count) const;
  /// Columns [first, first + count).
  ConstView column_range(std::int64_t first, std::int64_t count) const;
};

/// The same, writable.
struct View {
  std::byte* data = nullptr;
  DataType type = DataType::f32;
  Space space = Space::host;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 0;

  bool empty() const { return rows == 0 || columns == 0; }
  std::byte* row(std::int64_t index) const { return data + static_cast<std::size_t>(index * stride) * size_of(type); }
  /// Rows [first, first + count).
  View row_range(std::int64_t first, std::int64_t count) const;
  /// Columns [first, first + count).
  View column_range(std::int64_t first, std::int64_t count) const;
  operator ConstView() const { return {data, type, space, rows, columns, stride}; }
};

/// A contiguous view of host memory.
ConstView host_view(const std::int32_t* data, std::int64_t rows, std::int64_t columns);
ConstView host_view(const float* data, std::int64_t rows, std::int64_t columns);

/// Owns memory of a device. Moves, never copies.
class Buffer {
 public:
  using Release = std::function<void(std::byte*)>;

  Buffer() = default;
  Buffer(std::byte* data, std::size_t bytes, Space space, Release release)
      : data_(data, std::move(release)), bytes_(bytes), space_(space) {}

  std::byte* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

  /// A contiguous rows x columns view that starts `offset` bytes into the buffer; it must lie inside.
  View view(DataType type, std::int64_t rows, std::int64_t columns, std::size_t offset = 0) const;

 private:
  std::unique_ptr<std::byte, Release> data_;
  std::size_t bytes_ = 0;
  Space space_ = Space::host;
};

}  // namespace apb
