// Weights of a model: the tensors of one or more safetensors files, mapped into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/view.hpp"

namespace apb {

/// Read-only tensors by name; their views are valid as long as the checkpoint is. Every header is checked on opening,
/// so that no view leaves its file.
class Checkpoint {
 public:
  /// model.safetensors of the folder, else all files that model.safetensors.index.json names. Fails where one is
  /// missing, truncated or inconsistent.
  static Checkpoint open(const std::filesystem::path& model_folder);

  /// All tensors of one file; fails like open.
  static Checkpoint open_file(const std::filesystem::path& file);

  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// The first extent of a tensor's shape. Fails where the tensor is missing or a scalar.
  std::int64_t rows(std::string_view name) const;

  /// Host view [rows, columns] of a BF16, F16 or F32 tensor of that shape, or for one row of shape [columns]. Reads
  /// it all once, to fail where it holds NaN or infinity; fails, too, where the tensor is missing, of another shape or
  /// type, or not aligned for its type (files by old writers).
  ConstView tensor(std::string_view name, std::int64_t rows, std::int64_t columns) const;

 private:
  struct Tensor {
    std::string file;
    std::string type;  // as in the file
    std::vector<std::int64_t> shape;
    const std::byte* data = nullptr;
  };
  using Tensors = std::map<std::string, Tensor, std::less<>>;

  explicit Checkpoint(std::string source) : source_(std::move(source)) {}
  const Tensor& find(std::string_view name) const;
  Tensors map_file(const std::filesystem::path& file);

  std::string source_;  // file or folder, for messages
  std::vector<std::shared_ptr<const std::byte>> mapped_files_;
  Tensors tensors_;
};

}  // namespace apb
