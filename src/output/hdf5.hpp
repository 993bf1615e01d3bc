// A thin layer over the HDF5 C library: owned handles, one check for every call, and just the reads and
// writes that a results file needs. Every error is an apb::Error that names the file.
#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace apb::h5 {

/// Owns one HDF5 identifier.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }

  hid_t id() const { return id_; }

 private:
  hid_t id_;
  Close close_;
};

using Shape = std::vector<hsize_t>;

/// What a dataset holds, kept with it as attributes; units may be empty.
struct About {
  std::string description;
  std::string units;
};

/// A rectangle of a dataset.
struct Block {
  Shape start;
  Shape count;
};

/// The HDF5 type of float, double, std::int32_t or std::int64_t.
template <typename T>
hid_t native_type();

/// An open file. Datasets and groups are named by their path inside it.
class File {
 public:
  /// A new file that exists in memory only; `name` stands in its error messages.
  static File create_in_memory(const std::filesystem::path& name);

  /// Opens a file for reading; an error if it is not there or not a complete HDF5 file.
  static File open(const std::filesystem::path& path);

  /// The bytes of a file made by create_in_memory, valid until the next write.
  std::span<const std::byte> image() const;

  bool has(const std::string& object) const;
  Shape shape(const std::string& dataset) const;

  void create_group(const std::string& group);

  /// Makes a dataset filled with `fill`, to be written block by block; an empty `chunk` means contiguous.
  template <typename T>
  void create(const std::string& dataset, const Shape& shape, const Shape& chunk, T fill, const About& about) {
    create_dataset(dataset, native_type<T>(), shape, chunk, &fill, about);
  }

  /// Writes one block; `values` in row-major order.
  template <typename T>
  void write_block(const std::string& dataset, const Block& block, std::span<const T> values) {
    transfer_block(dataset, native_type<T>(), block, values.size(), nullptr, values.data());
  }

  /// Makes and writes a one-dimensional dataset.
  template <typename T>
  void write(const std::string& dataset, const std::vector<T>& values, const About& about) {
    create<T>(dataset, {values.size()}, {}, T{}, about);
    write_block<T>(dataset, {{0}, {values.size()}}, values);
  }

  /// Makes and writes a one-dimensional dataset of variable-length UTF-8 text (see `storable_text`).
  void write_texts(const std::string& dataset, const std::vector<std::string>& values, const About& about);

  template <typename T>
  std::vector<T> read_block(const std::string& dataset, const Block& block) const {
    std::vector<T> values(element_count(block.count));
    transfer_block(dataset, native_type<T>(), block, values.size(), values.data(), nullptr);
    return values;
  }

  /// Reads a whole dataset, in row-major order.
  template <typename T>
  std::vector<T> read(const std::string& dataset) const {
    const Shape all = shape(dataset);
    return read_block<T>(dataset, {Shape(all.size(), 0), all});
  }

  std::vector<std::string> read_texts(const std::string& dataset) const;

  void set_attribute(const std::string& object, const std::string& name, std::int64_t value);
  void set_attribute(const std::string& object, const std::string& name, const std::string& value);
  void set_attribute(const std::string& object, const std::string& name, const std::vector<std::string>& values);
  std::int64_t integer_attribute(const std::string& object, const std::string& name) const;
  std::string text_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::string> texts_attribute(const std::string& object, const std::string& name) const;

  /// Makes the one-dimensional dataset `scale` the scale of one axis of `dataset`, which is named `label`.
  void attach_scale(const std::string& dataset, unsigned axis, const std::string& scale, const std::string& label);
  void label_axis(const std::string& dataset, unsigned axis, const std::string& label);

 private:
  File(std::string name, hid_t id);

  static std::size_t element_count(const Shape& shape);

  void create_dataset(const std::string& dataset, hid_t type, const Shape& shape, const Shape& chunk, const void* fill,
                      const About& about);
  void transfer_block(const std::string& dataset, hid_t type, const Block& block, std::size_t values, void* read_to,
                      const void* write_from) const;
  Handle open_dataset(const std::string& dataset) const;
  Handle open_attribute(const std::string& object, const std::string& name) const;
  Handle create_attribute(const std::string& object, const std::string& name, hid_t type, hid_t space) const;

  std::string name_;
  Handle handle_;
};

/// `text` as a results file can hold it: bytes that are not UTF-8, and NUL, become U+FFFD.
std::string storable_text(std::string_view text);

}  // namespace apb::h5
