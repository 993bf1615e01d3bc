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

#include "model/weight_source.hpp"

namespace apb {

/// Read-only tensors by name. Every header is checked on opening, so that no view leaves its file.
class Checkpoint : public WeightSource {
 public:
  /// model.safetensors of the folder, else all files that model.safetensors.index.json names. Fails where one is
  /// missing, truncated or inconsistent. Tensors are read by `threads` threads.
  static Checkpoint open(const std::filesystem::path& model_folder, int threads = 1);

  /// All tensors of one file; fails like open.
  static Checkpoint open_file(const std::filesystem::path& file, int threads = 1);

  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// The first extent of a tensor's shape. Fails where the tensor is missing or a scalar.
  std::int64_t rows(std::string_view name) const override;

  /// The mapped memory of a tensor of shape [rows, columns], or for one row of shape [columns]. Reads it all once, to
  /// fail where it holds NaN or infinity; fails, too, where it is not aligned for its type (files by old writers). What
  /// has been let go of no longer counts as this process's memory.
  HostMatrix tensor(std::string_view name, std::int64_t rows, std::int64_t columns) const override;

 private:
  struct Tensor {
    std::string file;
    std::string type;  // as in the file
    std::vector<std::int64_t> shape;
    std::shared_ptr<const std::byte> data;  // keeps its file mapped
  };
  using Tensors = std::map<std::string, Tensor, std::less<>>;

  Checkpoint(std::string source, int threads) : source_(std::move(source)), threads_(threads) {}
  const Tensor& find(std::string_view name) const;
  static Tensors map_file(const std::filesystem::path& file);

  std::string source_;  // file or folder, for messages
  int threads_;
  Tensors tensors_;
};

}  // namespace apb
