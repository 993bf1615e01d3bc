#include "model/safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "error.hpp"
#include "model/finite.hpp"
#include "model/json_file.hpp"

namespace apb {
namespace {

using nlohmann::json;
using Path = std::filesystem::path;

static_assert(std::endian::native == std::endian::little, "safetensors files are little endian");

constexpr std::size_t length_bytes = 8;  // the file begins with the length of its JSON header
constexpr std::uint64_t largest_header = 100'000'000;

class FileDescriptor {
 public:
  explicit FileDescriptor(const Path& file) : descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail("{}: cannot be opened: {}", file.string(), std::strerror(errno));
  }
  ~FileDescriptor() { ::close(descriptor_); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

struct MappedFile {
  std::shared_ptr<const std::byte> data;
  std::size_t size = 0;
};

MappedFile map_read_only(const Path& file) {
  const FileDescriptor descriptor(file);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) fail("{}: cannot be read: {}", file.string(), std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("{}: not a regular file", file.string());
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size < length_bytes) fail("{}: not a safetensors file, or truncated: it has {} bytes", file.string(), size);
  void* const memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (memory == MAP_FAILED) fail("{}: cannot be mapped: {}", file.string(), std::strerror(errno));
  ::madvise(memory, size, MADV_SEQUENTIAL);
  return {{static_cast<const std::byte*>(memory), [memory, size](const std::byte*) { ::munmap(memory, size); }}, size};
}

/// Takes the whole pages of a part of a mapped file out of this process's memory; they stay in the host's cache.
void drop_pages(const std::byte* data, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::size_t header_length(const Path& file, std::span<const std::byte> bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), length_bytes);
  if (length > std::min<std::uint64_t>(bytes.size() - length_bytes, largest_header)) {
    fail("{}: not a safetensors file, or truncated: it claims a header of {} bytes and has {} bytes", file.string(),
         length, bytes.size());
  }
  return length;
}

json parse_header(const Path& file, std::span<const std::byte> bytes) {
  const auto* const text = reinterpret_cast<const char*>(bytes.data());
  json header;
  try {
    header = json::parse(text, text + bytes.size());
  } catch (const json::exception& error) {
    fail("{}: not a safetensors file: its header is not valid JSON: {}", file.string(), json_problem(error));
  }
  if (!header.is_object()) fail("{}: not a safetensors file: its header is no JSON object", file.string());
  return header;
}

// A tensor's entry in the header.
struct Entry {
  std::string name;
  std::string type;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // bytes from the end of the header
  std::uint64_t end = 0;
};

bool is_list_of_counts(const json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const json& count) {
           return count.is_number_unsigned() &&
                  count.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()};
         });
}

Entry parse_entry(const Path& file, const std::string& name, const json& value) {
  const auto field = [&](const char* key) -> const json& {
    if (!value.is_object() || !value.contains(key)) {
      fail("{}: tensor \"{}\" has no {} in the header", file.string(), name, key);
    }
    return value[key];
  };
  const auto reject = [&](const char* key) {
    fail("{}: tensor \"{}\" has {} {} in the header, which cannot be", file.string(), name, key, field(key).dump());
  };
  if (!field("dtype").is_string()) reject("dtype");
  if (!is_list_of_counts(field("shape"))) reject("shape");
  if (!is_list_of_counts(field("data_offsets")) || field("data_offsets").size() != 2 ||
      field("data_offsets")[0].get<std::uint64_t>() > field("data_offsets")[1].get<std::uint64_t>()) {
    reject("data_offsets");
  }
  return {name, field("dtype").get<std::string>(), field("shape").get<std::vector<std::int64_t>>(),
          field("data_offsets")[0].get<std::uint64_t>(), field("data_offsets")[1].get<std::uint64_t>()};
}

std::optional<DataType> data_type(std::string_view name) {
  if (name == "BF16") return DataType::bf16;
  if (name == "F16") return DataType::f16;
  if (name == "F32") return DataType::f32;
  return std::nullopt;
}

// Bytes of a tensor of that shape; nothing where they do not fit 63 bits.
std::optional<std::uint64_t> byte_count(DataType type, const std::vector<std::int64_t>& shape) {
  auto bytes = static_cast<std::int64_t>(size_of(type));
  for (const auto extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return static_cast<std::uint64_t>(bytes);
}

// The tensors lie one behind the other and fill the file, each as long as its shape and type say.
void check_layout(const Path& file, std::vector<Entry>& entries, std::uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t expected = 0;
  for (const auto& entry : entries) {
    if (entry.end > data_bytes) {
      fail("{}: truncated: tensor \"{}\" ends at byte {} of the data, the file has {}; fetch the file again",
           file.string(), entry.name, entry.end, data_bytes);
    }
    if (entry.begin != expected) {
      fail("{}: tensor \"{}\" has data_offsets [{}, {}], but the one before it ends at {}", file.string(), entry.name,
           entry.begin, entry.end, expected);
    }
    expected = entry.end;
    const auto type = data_type(entry.type);
    if (type && byte_count(*type, entry.shape) != entry.end - entry.begin) {
      fail("{}: tensor \"{}\" has data_offsets [{}, {}], which is not the size of {} {}", file.string(), entry.name,
           entry.begin, entry.end, entry.type, json(entry.shape).dump());
    }
  }
  if (expected != data_bytes) {
    fail("{}: {} bytes follow the last tensor", file.string(), data_bytes - expected);
  }
}

// File by tensor name.
std::map<std::string, std::string> read_weight_map(const Path& index_file) {
  const json index = read_json_object(index_file);
  if (!index.contains("weight_map") || !index["weight_map"].is_object() || index["weight_map"].empty()) {
    fail("{}: field weight_map is missing, empty, or no object", index_file.string());
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) {
      fail("{}: field weight_map.{} is {}, expected a file name", index_file.string(), name, file.dump());
    }
    files[name] = file.get<std::string>();
  }
  return files;
}

}  // namespace

Checkpoint::Tensors Checkpoint::map_file(const Path& file) {
  const MappedFile mapped = map_read_only(file);
  const std::span<const std::byte> bytes(mapped.data.get(), mapped.size);
  const std::size_t length = header_length(file, bytes);
  const json header = parse_header(file, bytes.subspan(length_bytes, length));
  const auto data = bytes.subspan(length_bytes + length);

  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") entries.push_back(parse_entry(file, name, value));
  }
  check_layout(file, entries, data.size());

  Tensors tensors;
  for (auto& entry : entries) {
    tensors[entry.name] = {
        file.string(), std::move(entry.type), std::move(entry.shape), {mapped.data, data.data() + entry.begin}};
  }
  return tensors;
}

Checkpoint Checkpoint::open_file(const Path& file, int threads) {
  Checkpoint checkpoint(file.string(), threads);
  checkpoint.tensors_ = map_file(file);
  return checkpoint;
}

Checkpoint Checkpoint::open(const Path& model_folder, int threads) {
  const auto single = model_folder / "model.safetensors";
  const auto index = model_folder / "model.safetensors.index.json";
  if (std::filesystem::exists(single)) return open_file(single, threads);
  if (!std::filesystem::exists(index)) {
    fail("{}: has neither model.safetensors nor model.safetensors.index.json", model_folder.string());
  }
  Checkpoint checkpoint(model_folder.string(), threads);
  std::map<std::string, Tensors> shards;
  for (const auto& [name, shard] : read_weight_map(index)) {
    const auto file = model_folder / shard;
    if (!std::filesystem::exists(file)) {
      fail("{}: is missing, but {} names it for tensor \"{}\"", file.string(), index.string(), name);
    }
    if (!shards.contains(shard)) shards[shard] = map_file(file);
    const auto found = shards[shard].find(name);
    if (found == shards[shard].end()) {
      fail("{}: has no tensor \"{}\", but {} says so", file.string(), name, index.string());
    }
    checkpoint.tensors_[name] = found->second;
  }
  return checkpoint;
}

const Checkpoint::Tensor& Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("{}: tensor \"{}\" is missing", source_, name);
  return found->second;
}

std::int64_t Checkpoint::rows(std::string_view name) const {
  const Tensor& tensor = find(name);
  if (tensor.shape.empty()) fail("{}: tensor \"{}\" has shape [], expected rows", tensor.file, name);
  return tensor.shape[0];
}

HostMatrix Checkpoint::tensor(std::string_view name, std::int64_t rows, std::int64_t columns) const {
  const Tensor& tensor = find(name);
  const bool is_row = rows == 1 && tensor.shape == std::vector{columns};
  if (!is_row && tensor.shape != std::vector{rows, columns}) {
    fail("{}: tensor \"{}\" has shape {}, expected [{}, {}]", tensor.file, name, json(tensor.shape).dump(), rows,
         columns);
  }
  const auto type = data_type(tensor.type);
  if (!type) {
    fail("{}: tensor \"{}\" has dtype {}, supported: BF16, F16, F32", tensor.file, name, tensor.type);
  }
  if (reinterpret_cast<std::uintptr_t>(tensor.data.get()) % size_of(*type) != 0) {
    fail("{}: tensor \"{}\" is not aligned for {}; save the file again with a current safetensors library", tensor.file,
         name, tensor.type);
  }
  const ConstView view{tensor.data.get(), *type, Space::host, rows, columns, columns};
  if (const auto index = first_not_finite(view, threads_)) {
    fail("{}: tensor \"{}\" has NaN or infinity at [{}, {}]; the file is damaged, fetch it again", tensor.file, name,
         *index / columns, *index % columns);
  }
  const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(*type);
  return {view, {tensor.data.get(), [file = tensor.data, bytes](const std::byte* data) { drop_pages(data, bytes); }}};
}

}  // namespace apb
