#include "cuda/staging.hpp"

#include <algorithm>
#include <cstring>

#include "cuda/kernels.hpp"

namespace apb::cuda {
namespace {

constexpr std::size_t piece_bytes = std::size_t{8} << 20U;

/// Elements from row to row in a piece: rows start at multiples of 16 bytes, as the kernels want them.
std::int64_t stride_in_piece(std::int64_t columns, DataType type) {
  const auto step = static_cast<std::int64_t>(16 / size_of(type));
  return (columns + step - 1) / step * step;
}

template <typename AnyView>
bool is_dense(const AnyView& view) {
  return view.rows == 1 || view.stride == view.columns;
}

template <typename AnyView>
AnyView as_one_row(AnyView view) {
  view.stride = view.columns = view.rows * view.columns;
  view.rows = 1;
  return view;
}

template <typename AnyView>
AnyView columns_of(AnyView view, std::int64_t first, std::int64_t count) {
  view.data += static_cast<std::size_t>(first) * size_of(view.type);
  view.columns = count;
  return view;
}

}  // namespace

Staging::Staging(cudaStream_t stream, Arena& arena) : stream_(stream), unconverted_(arena.allocate(piece_bytes)) {
  for (Piece& piece : pieces_) piece = {make_pinned_memory(piece_bytes), make_event()};
}

void Staging::upload(ConstView source, View destination) {
  if (source.empty()) return;
  if (source.type == destination.type && is_dense(source) && is_dense(destination)) {
    source = as_one_row(source);
    destination = as_one_row(destination);
  }
  const auto piece_elements = static_cast<std::int64_t>(piece_bytes / size_of(source.type));
  const std::int64_t columns = std::min(source.columns, piece_elements);
  const std::int64_t rows = columns < source.columns ? 1 : piece_elements / stride_in_piece(columns, source.type);
  for (std::int64_t row = 0; row < source.rows; row += rows) {
    const std::int64_t row_count = std::min(rows, source.rows - row);
    for (std::int64_t column = 0; column < source.columns; column += columns) {
      const std::int64_t column_count = std::min(columns, source.columns - column);
      upload_part(columns_of(source.row_range(row, row_count), column, column_count),
                  columns_of(destination.row_range(row, row_count), column, column_count));
    }
  }
}

void Staging::upload_part(const ConstView& source, const View& destination) {
  Piece& piece = pieces_[next_];
  next_ = (next_ + 1) % pieces_.size();
  check(cudaEventSynchronize(piece.free.get()), "cudaEventSynchronize");
  const std::int64_t stride = stride_in_piece(source.columns, source.type);
  const std::size_t pitch = static_cast<std::size_t>(stride) * size_of(source.type);
  const std::size_t width = static_cast<std::size_t>(source.columns) * size_of(source.type);
  const auto rows = static_cast<std::size_t>(source.rows);
  for (std::size_t row = 0; row < rows; ++row) {
    std::memcpy(piece.host.get() + row * pitch, source.row(static_cast<std::int64_t>(row)), width);
  }
  if (source.type == destination.type) {
    const std::size_t to_pitch = static_cast<std::size_t>(destination.stride) * size_of(destination.type);
    check(cudaMemcpy2DAsync(destination.data, std::max(to_pitch, width), piece.host.get(), pitch, width, rows,
                            cudaMemcpyHostToDevice, stream_),
          "cudaMemcpy2DAsync");
  } else {
    check(cudaMemcpy2DAsync(unconverted_.data(), pitch, piece.host.get(), pitch, width, rows, cudaMemcpyHostToDevice,
                            stream_),
          "cudaMemcpy2DAsync");
    const ConstView raw{unconverted_.data(), source.type, Space::device, source.rows, source.columns, stride};
    check(convert(stream_, raw, destination), "convert");
  }
  check(cudaEventRecord(piece.free.get(), stream_), "cudaEventRecord");
}

}  // namespace apb::cuda
