// Work space that stays from call to call.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace apb::cpu {

/// Work space that only grows; zero when new, so that no NaN comes from nowhere.
class Scratch {
 public:
  /// At least this many bytes; what was in there is lost when it grows.
  std::byte* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      data_.reset();
      bytes_ = 0;
      data_ = std::unique_ptr<std::byte[], Release>(new (alignment) std::byte[bytes]);
      bytes_ = bytes;
      std::memset(data_.get(), 0, bytes);
    }
    return data_.get();
  }
  std::byte* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Release {
    void operator()(std::byte* data) const { operator delete[](data, alignment); }
  };
  std::unique_ptr<std::byte[], Release> data_;
  std::size_t bytes_ = 0;
};

}  // namespace apb::cpu
