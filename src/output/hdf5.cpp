#include "output/hdf5.hpp"

#include <hdf5_hl.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "error.hpp"

namespace apb::h5 {

namespace {

herr_t keep_innermost(unsigned position, const H5E_error2_t* error, void* reason) {
  if (position == 0 && error->desc != nullptr) *static_cast<std::string*>(reason) = error->desc;
  return 0;
}

/// Every return value of the library comes through here; a negative one is an error.
template <typename Result>
Result check(Result result, const std::string& file, std::string_view action) {
  if (result >= 0) return result;
  std::string reason = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
  H5Eclear2(H5E_DEFAULT);
  fail("{}: cannot {} (HDF5: {})", file, action, reason);
}

Handle text_type(const std::string& file) {
  Handle type(check(H5Tcopy(H5T_C_S1), file, "make a text type"), H5Tclose);
  check(H5Tset_size(type.id(), H5T_VARIABLE), file, "make a text type");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), file, "make a text type");
  return type;
}

Handle simple_space(const Shape& shape, const std::string& file) {
  return {check(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), file, "make a data space"),
          H5Sclose};
}

Handle property_list(hid_t list_class, const std::string& file) {
  return {check(H5Pcreate(list_class), file, "make a property list"), H5Pclose};
}

/// The texts as the library takes them; they point into `storage`, which keeps the storable forms.
std::vector<const char*> text_pointers(const std::vector<std::string>& values, std::vector<std::string>& storage) {
  storage.clear();
  std::ranges::transform(values, std::back_inserter(storage), [](const auto& text) { return storable_text(text); });
  std::vector<const char*> pointers;
  std::ranges::transform(storage, std::back_inserter(pointers), [](const auto& text) { return text.c_str(); });
  return pointers;
}

/// Copies variable-length texts that the library allocated, and gives them back to it.
std::vector<std::string> take_texts(std::vector<char*>& pointers, hid_t type, const std::string& file) {
  std::vector<std::string> texts;
  texts.reserve(pointers.size());
  for (const char* text : pointers) texts.emplace_back(text == nullptr ? "" : text);
  const Handle space = simple_space({pointers.size()}, file);
  check(H5Dvlen_reclaim(type, space.id(), H5P_DEFAULT, pointers.data()), file, "free texts");
  return texts;
}

}  // namespace

template <>
hid_t native_type<float>() {
  return H5T_NATIVE_FLOAT;
}
template <>
hid_t native_type<double>() {
  return H5T_NATIVE_DOUBLE;
}
template <>
hid_t native_type<std::int32_t>() {
  return H5T_NATIVE_INT32;
}
template <>
hid_t native_type<std::int64_t>() {
  return H5T_NATIVE_INT64;
}

File::File(std::string name, hid_t id) : name_(std::move(name)), handle_(id, H5Fclose) {}

File File::create_in_memory(const std::filesystem::path& name) {
  const std::string text = name.string();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  constexpr std::size_t growth = std::size_t{1} << 20;
  const Handle access = property_list(H5P_FILE_ACCESS, text);
  check(H5Pset_fapl_core(access.id(), growth, false), text, "choose a file in memory");
  const Handle creation = property_list(H5P_FILE_CREATE, text);
  check(H5Pset_link_creation_order(creation.id(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED), text,
        "keep the order of groups");
  const hid_t id = H5Fcreate(text.c_str(), H5F_ACC_TRUNC, creation.id(), access.id());
  return {text, check(id, text, "make a file in memory")};
}

File File::open(const std::filesystem::path& path) {
  const std::string text = path.string();
  if (!std::filesystem::is_regular_file(path)) fail("{}: there is no such file", text);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const Handle access = property_list(H5P_FILE_ACCESS, text);
  // Results files are replaced as a whole and never written in place, so that no lock is needed;
  // many parallel file systems have none.
  check(H5Pset_file_locking(access.id(), false, true), text, "turn file locks off");
  return {text, check(H5Fopen(text.c_str(), H5F_ACC_RDONLY, access.id()), text, "read it as an HDF5 file")};
}

std::span<const std::byte> File::image() const {
  check(H5Fflush(handle_.id(), H5F_SCOPE_LOCAL), name_, "flush it");
  const auto size = check(H5Fget_file_image(handle_.id(), nullptr, 0), name_, "tell its size");
  // The memory itself, not H5Fget_file_image's copy of it: a file may hold many GB of logits.
  void* handle = nullptr;
  check(H5Fget_vfd_handle(handle_.id(), H5P_DEFAULT, &handle), name_, "find it in memory");
  return {*static_cast<const std::byte* const*>(handle), static_cast<std::size_t>(size)};
}

std::size_t File::element_count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

bool File::has(const std::string& object) const {
  const auto exists = [&](const std::string& path) {
    return check(H5Lexists(handle_.id(), path.c_str(), H5P_DEFAULT), name_, "look for " + path) > 0;
  };
  for (auto slash = object.find('/'); slash != std::string::npos; slash = object.find('/', slash + 1)) {
    if (slash > 0 && !exists(object.substr(0, slash))) return false;
  }
  return exists(object);
}

Shape File::shape(const std::string& dataset) const {
  const Handle data = open_dataset(dataset);
  const Handle space(check(H5Dget_space(data.id()), name_, "read the shape of " + dataset), H5Sclose);
  Shape result(
      static_cast<std::size_t>(check(H5Sget_simple_extent_ndims(space.id()), name_, "read the shape of " + dataset)));
  check(H5Sget_simple_extent_dims(space.id(), result.data(), nullptr), name_, "read the shape of " + dataset);
  return result;
}

void File::create_group(const std::string& group) {
  const Handle creation = property_list(H5P_GROUP_CREATE, name_);
  check(H5Pset_link_creation_order(creation.id(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED), name_,
        "keep the order of datasets");
  const Handle made(check(H5Gcreate2(handle_.id(), group.c_str(), H5P_DEFAULT, creation.id(), H5P_DEFAULT), name_,
                          "make the group " + group),
                    H5Gclose);
}

void File::create_dataset(const std::string& dataset, hid_t type, const Shape& shape, const Shape& chunk,
                          const void* fill, const About& about) {
  const std::string action = "make the dataset " + dataset;
  const Handle creation = property_list(H5P_DATASET_CREATE, name_);
  if (fill != nullptr) check(H5Pset_fill_value(creation.id(), type, fill), name_, action);
  if (!chunk.empty()) {
    check(H5Pset_chunk(creation.id(), static_cast<int>(chunk.size()), chunk.data()), name_, action);
  }
  const Handle space = simple_space(shape, name_);
  const Handle data(
      check(H5Dcreate2(handle_.id(), dataset.c_str(), type, space.id(), H5P_DEFAULT, creation.id(), H5P_DEFAULT), name_,
            action),
      H5Dclose);
  set_attribute(dataset, "description", about.description);
  if (!about.units.empty()) set_attribute(dataset, "units", about.units);
}

void File::transfer_block(const std::string& dataset, hid_t type, const Block& block, std::size_t values, void* read_to,
                          const void* write_from) const {
  if (values != element_count(block.count)) {
    fail("{}: {} values given for a block of {} in {}", name_, values, element_count(block.count), dataset);
  }
  if (values == 0) return;
  const std::string action = (read_to != nullptr ? "read " : "write ") + dataset;
  const Handle data = open_dataset(dataset);
  const Handle space(check(H5Dget_space(data.id()), name_, action), H5Sclose);
  const auto* start = block.start.data();
  check(H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start, nullptr, block.count.data(), nullptr), name_, action);
  const Handle memory = simple_space(block.count, name_);
  if (read_to != nullptr) {
    check(H5Dread(data.id(), type, memory.id(), space.id(), H5P_DEFAULT, read_to), name_, action);
  } else {
    check(H5Dwrite(data.id(), type, memory.id(), space.id(), H5P_DEFAULT, write_from), name_, action);
  }
}

Handle File::open_dataset(const std::string& dataset) const {
  return {check(H5Dopen2(handle_.id(), dataset.c_str(), H5P_DEFAULT), name_, "find the dataset " + dataset), H5Dclose};
}

void File::write_texts(const std::string& dataset, const std::vector<std::string>& values, const About& about) {
  const Handle type = text_type(name_);
  create_dataset(dataset, type.id(), {values.size()}, {}, nullptr, about);
  std::vector<std::string> storage;
  const auto pointers = text_pointers(values, storage);
  transfer_block(dataset, type.id(), {{0}, {pointers.size()}}, pointers.size(), nullptr, pointers.data());
}

std::vector<std::string> File::read_texts(const std::string& dataset) const {
  const Shape all = shape(dataset);
  std::vector<char*> pointers(element_count(all));
  if (pointers.empty()) return {};
  const Handle type = text_type(name_);
  transfer_block(dataset, type.id(), {Shape(all.size(), 0), all}, pointers.size(), pointers.data(), nullptr);
  return take_texts(pointers, type.id(), name_);
}

Handle File::create_attribute(const std::string& object, const std::string& name, hid_t type, hid_t space) const {
  const hid_t id =
      H5Acreate_by_name(handle_.id(), object.c_str(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  return {check(id, name_, "make the attribute " + name + " of " + object), H5Aclose};
}

Handle File::open_attribute(const std::string& object, const std::string& name) const {
  const hid_t id = H5Aopen_by_name(handle_.id(), object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
  return {check(id, name_, "find the attribute " + name + " of " + object), H5Aclose};
}

void File::set_attribute(const std::string& object, const std::string& name, std::int64_t value) {
  const Handle space(check(H5Screate(H5S_SCALAR), name_, "make a data space"), H5Sclose);
  const Handle attribute = create_attribute(object, name, native_type<std::int64_t>(), space.id());
  check(H5Awrite(attribute.id(), native_type<std::int64_t>(), &value), name_, "write the attribute " + name);
}

void File::set_attribute(const std::string& object, const std::string& name, const std::string& value) {
  const Handle type = text_type(name_);
  const Handle space(check(H5Screate(H5S_SCALAR), name_, "make a data space"), H5Sclose);
  const Handle attribute = create_attribute(object, name, type.id(), space.id());
  const std::string storable = storable_text(value);
  const char* pointer = storable.c_str();
  check(H5Awrite(attribute.id(), type.id(), static_cast<const void*>(&pointer)), name_, "write the attribute " + name);
}

void File::set_attribute(const std::string& object, const std::string& name, const std::vector<std::string>& values) {
  const Handle type = text_type(name_);
  const Handle space = simple_space({values.size()}, name_);
  const Handle attribute = create_attribute(object, name, type.id(), space.id());
  if (values.empty()) return;
  std::vector<std::string> storage;
  const auto pointers = text_pointers(values, storage);
  check(H5Awrite(attribute.id(), type.id(), static_cast<const void*>(pointers.data())), name_,
        "write the attribute " + name);
}

std::int64_t File::integer_attribute(const std::string& object, const std::string& name) const {
  const Handle attribute = open_attribute(object, name);
  std::int64_t value = 0;
  check(H5Aread(attribute.id(), native_type<std::int64_t>(), &value), name_, "read the attribute " + name);
  return value;
}

std::string File::text_attribute(const std::string& object, const std::string& name) const {
  const auto texts = texts_attribute(object, name);
  if (texts.size() != 1) fail("{}: attribute {} of {} is not one text", name_, name, object);
  return texts.front();
}

std::vector<std::string> File::texts_attribute(const std::string& object, const std::string& name) const {
  const Handle attribute = open_attribute(object, name);
  const Handle space(check(H5Aget_space(attribute.id()), name_, "read the attribute " + name), H5Sclose);
  const auto count = check(H5Sget_simple_extent_npoints(space.id()), name_, "read the attribute " + name);
  std::vector<char*> pointers(static_cast<std::size_t>(count));
  if (pointers.empty()) return {};
  const Handle type = text_type(name_);
  check(H5Aread(attribute.id(), type.id(), static_cast<void*>(pointers.data())), name_, "read the attribute " + name);
  return take_texts(pointers, type.id(), name_);
}

void File::attach_scale(const std::string& dataset, unsigned axis, const std::string& scale, const std::string& label) {
  const Handle data = open_dataset(dataset);
  const Handle scale_data = open_dataset(scale);
  const std::string action = "make " + scale + " a scale of " + dataset;
  check(H5DSset_scale(scale_data.id(), label.c_str()), name_, action);
  check(H5DSattach_scale(data.id(), scale_data.id(), axis), name_, action);
  label_axis(dataset, axis, label);
}

void File::label_axis(const std::string& dataset, unsigned axis, const std::string& label) {
  const Handle data = open_dataset(dataset);
  check(H5DSset_label(data.id(), axis, label.c_str()), name_, "name an axis of " + dataset);
}

std::string storable_text(std::string_view text) {
  using nlohmann::json;
  const std::string escaped = json(text).dump(-1, ' ', false, json::error_handler_t::replace);
  auto valid = json::parse(escaped).get<std::string>();
  if (valid.find('\0') == std::string::npos) return valid;
  std::string result;
  for (const char c : valid) result += c == '\0' ? std::string("\uFFFD") : std::string(1, c);
  return result;
}

}  // namespace apb::h5
