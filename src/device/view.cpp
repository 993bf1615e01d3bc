#include "device/view.hpp"

#include <stdexcept>

namespace apb {
namespace {

template <typename AnyView>
AnyView rows_of(AnyView view, std::int64_t first, std::int64_t count) {
  if (first < 0 || count < 0 || first + count > view.rows) throw std::out_of_range("row_range outside its view");
  view.data = view.row(first);
  view.rows = count;
  return view;
}

template <typename AnyView>
AnyView columns_of(AnyView view, std::int64_t first, std::int64_t count) {
  if (first < 0 || count < 0 || first + count > view.columns) throw std::out_of_range("column_range outside its view");
  view.data += static_cast<std::size_t>(first) * size_of(view.type);
  view.columns = count;
  return view;
}

}  // namespace

ConstView ConstView::row_range(std::int64_t first, std::int64_t count) const { return rows_of(*this, first, count); }
View View::row_range(std::int64_t first, std::int64_t count) const { return rows_of(*this, first, count); }
ConstView ConstView::column_range(std::int64_t first, std::int64_t count) const {
  return columns_of(*this, first, count);
}
View View::column_range(std::int64_t first, std::int64_t count) const { return columns_of(*this, first, count); }

ConstView host_view(const std::int32_t* data, std::int64_t rows, std::int64_t columns) {
  return {reinterpret_cast<const std::byte*>(data), DataType::i32, Space::host, rows, columns, columns};
}

ConstView host_view(const float* data, std::int64_t rows, std::int64_t columns) {
  return {reinterpret_cast<const std::byte*>(data), DataType::f32, Space::host, rows, columns, columns};
}

View Buffer::view(DataType type, std::int64_t rows, std::int64_t columns, std::size_t offset) const {
  if (offset + view_bytes(type, rows, columns) > bytes_) {
    throw std::out_of_range("view outside its buffer");
  }
  return {data_.get() + offset, type, space_, rows, columns, columns};
}

}  // namespace apb
