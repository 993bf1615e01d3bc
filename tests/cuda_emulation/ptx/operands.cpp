// The decoder's operands: registers, constants, special registers, variables and addresses.
#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <string>

#include "ptx/decoder.hpp"
#include "ptx/machine.hpp"
#include "ptx/warp.hpp"

namespace apb::ptx {
namespace {

const std::map<std::string_view, Special>& special_names() {
  static const std::map<std::string_view, Special> names = {{"%tid.x", Special::tid_x},
                                                            {"%tid.y", Special::tid_y},
                                                            {"%tid.z", Special::tid_z},
                                                            {"%ntid.x", Special::ntid_x},
                                                            {"%ntid.y", Special::ntid_y},
                                                            {"%ntid.z", Special::ntid_z},
                                                            {"%ctaid.x", Special::ctaid_x},
                                                            {"%ctaid.y", Special::ctaid_y},
                                                            {"%ctaid.z", Special::ctaid_z},
                                                            {"%nctaid.x", Special::nctaid_x},
                                                            {"%nctaid.y", Special::nctaid_y},
                                                            {"%nctaid.z", Special::nctaid_z},
                                                            {"%laneid", Special::laneid},
                                                            {"%warpid", Special::warpid},
                                                            {"%nwarpid", Special::nwarpid},
                                                            {"%lanemask_eq", Special::lanemask_eq},
                                                            {"%lanemask_le", Special::lanemask_le},
                                                            {"%lanemask_lt", Special::lanemask_lt},
                                                            {"%lanemask_ge", Special::lanemask_ge},
                                                            {"%lanemask_gt", Special::lanemask_gt},
                                                            {"%dynamic_smem_size", Special::dynamic_smem_size},
                                                            {"%total_smem_size", Special::total_smem_size},
                                                            {"%smid", Special::smid},
                                                            {"%nsmid", Special::nsmid},
                                                            {"%gridid", Special::gridid},
                                                            {"%clock", Special::clock},
                                                            {"%clock64", Special::clock},
                                                            {"%globaltimer", Special::clock},
                                                            {"%clock_hi", Special::clock_hi}};
  return names;
}

/// "0x1F", "-12", "0f3F800000", "0d3FF0000000000000", "12U"
std::optional<std::uint64_t> immediate(std::string_view text, std::uint8_t bytes) {
  if (text.empty()) return std::nullopt;
  const bool negative = text.front() == '-';
  if (negative) text.remove_prefix(1);
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  int base = 10;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'f' || text[1] == 'F' || text[1] == 'd' || text[1] == 'D')) {
    const bool is_float = text[1] == 'f' || text[1] == 'F';
    std::uint64_t bits = 0;
    std::from_chars(text.data() + 2, text.data() + text.size(), bits, 16);
    if (is_float && bytes == 8) return std::bit_cast<std::uint64_t>(double{std::bit_cast<float>(std::uint32_t(bits))});
    if (negative) bits ^= is_float ? 0x80000000U : 0x8000000000000000U;
    return bits;
  }
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 2 && text[0] == '0' && (text[1] == 'b' || text[1] == 'B')) {
    base = 2;
    text.remove_prefix(2);
  }
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return negative ? 0 - value : value;
}

}  // namespace

std::optional<int> Decoder::find_register(const Frame& frame, int scope, std::string_view name) const {
  for (int s = scope; s >= 0; s = frame.function->scopes[static_cast<std::size_t>(s)].parent) {
    const auto& registers = frame.function->scopes[static_cast<std::size_t>(s)].registers;
    if (const auto found = registers.find(name); found != registers.end()) return frame.first_value + found->second;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> Decoder::find_local(const Frame& frame, int scope, std::string_view name) const {
  for (int s = scope; s >= 0; s = frame.function->scopes[static_cast<std::size_t>(s)].parent) {
    const auto found = frame.locals.find({s, std::string(name)});
    if (found != frame.locals.end()) return found->second;
  }
  if (frame.depth > 0) {
    if (const auto found = frame.parameters.find(name); found != frame.parameters.end()) return found->second;
  }
  return std::nullopt;
}

std::uint64_t Decoder::shared_address(const VariableText& variable, bool& dynamic) {
  dynamic = variable.external || variable.bytes == 0;
  if (dynamic) {
    dynamic_align_ = std::max(dynamic_align_, variable.align);
    return 0;
  }
  const auto [found, is_new] = shared_.try_emplace(variable.name, 0);
  if (is_new) {
    auto& end = program_.static_shared_bytes;
    found->second = (end + variable.align - 1) / variable.align * variable.align;
    end = found->second + variable.bytes;
  }
  return found->second;
}

std::uint64_t Decoder::local_address(const VariableText& variable) {
  auto& end = program_.local_bytes;
  const auto address = (end + variable.align - 1) / variable.align * variable.align;
  end = address + variable.bytes;
  return address;
}

int Decoder::constant(std::uint64_t value, std::uint8_t bytes, bool dynamic_shared) {
  if (bytes < 8) value &= (1ULL << (8U * bytes)) - 1;
  const auto [found, is_new] = constants_.try_emplace({value, bytes, dynamic_shared}, static_cast<int>(values_.size()));
  if (is_new) values_.push_back({Value::Kind::constant, bytes, value, dynamic_shared, {}, {}});
  return found->second;
}

int Decoder::special(Special special) {
  const auto [found, is_new] = specials_.try_emplace(special, static_cast<int>(values_.size()));
  if (is_new) values_.push_back({Value::Kind::special, 4, 0, false, special, {}});
  return found->second;
}

int Decoder::temporary(std::uint8_t bytes) {
  values_.push_back({Value::Kind::temporary, bytes, 0, false, {}, {}});
  return static_cast<int>(values_.size()) - 1;
}

int Decoder::sink(std::uint8_t bytes) {
  values_.push_back({Value::Kind::sink, bytes, 0, false, {}, {}});
  return static_cast<int>(values_.size()) - 1;
}

Resolved Decoder::resolve(Frame& frame, const Statement& statement, std::string_view text, std::uint8_t bytes) {
  if (const auto found = find_register(frame, statement.scope, text)) return {Resolved::Kind::value, *found};
  if (const auto found = special_names().find(text); found != special_names().end()) {
    return {Resolved::Kind::value, special(found->second)};
  }
  if (text == "WARP_SZ") return {Resolved::Kind::value, constant(lanes, bytes)};
  if (const auto value = immediate(text, bytes)) return {Resolved::Kind::value, constant(*value, bytes)};
  Resolved result;
  result.kind = Resolved::Kind::address;
  if (const auto local = find_local(frame, statement.scope, text)) {
    result.address = *local;
    result.space = Space::local;
    return result;
  }
  if (const auto found = frame.parameters.find(text); found != frame.parameters.end()) {
    result.address = found->second;
    result.space = Space::param;
    return result;
  }
  if (const auto found = shared_.find(text); found != shared_.end()) {
    result.address = found->second;
    result.space = Space::shared;
    return result;
  }
  const auto variable = text_.variables.find(text);
  if (variable == text_.variables.end()) refuse(statement, fmt::format("unknown operand {}", text));
  result.space = variable->second.space;
  if (result.space == Space::shared) {
    result.address = shared_address(variable->second, result.dynamic_shared);
  } else {
    result.address = globals_.at(variable->first);
  }
  return result;
}

int Decoder::read(Frame& frame, const Statement& statement, std::string_view text, std::uint8_t bytes, bool is_signed) {
  if (bytes == 1 && text.front() == '!') {
    const int inverse = temporary(1);
    emit(frame, statement, forms().at("not.pred").handler, {inverse, read(frame, statement, text.substr(1), 1)}, 1);
    last().counted = false;
    return inverse;
  }
  const Resolved found = resolve(frame, statement, text, bytes);
  if (found.kind == Resolved::Kind::address) return constant(found.address, bytes, found.dynamic_shared);
  const auto have = values_[static_cast<std::size_t>(found.value)].bytes;
  if (have == bytes) return found.value;
  if (have == 1 || bytes == 1) refuse(statement, "predicate expected, or not expected");
  const int resized = temporary(bytes);
  const auto name = fmt::format("resize.{}.{}{}", bytes, is_signed ? "s" : "u", have);
  emit(frame, statement, forms().at(name).handler, {resized, found.value}, 1);
  last().counted = false;
  return resized;
}

int Decoder::write(Frame& frame, const Statement& statement, std::string_view text, std::uint8_t bytes) {
  if (text == "_") return sink(bytes);
  const auto found = find_register(frame, statement.scope, text);
  if (!found) refuse(statement, fmt::format("unknown result {}", text));
  const auto have = values_[static_cast<std::size_t>(*found)].bytes;
  if (have == bytes) return *found;
  if (have == 1 || bytes == 1) refuse(statement, "predicate expected, or not expected");
  const int part = temporary(bytes);
  pending_widths_.emplace_back(part, *found);
  return part;
}

void Decoder::widen(Frame& frame, const Statement& statement, bool is_signed) {
  for (const auto& [from, to] : pending_widths_) {
    const auto name = fmt::format("resize.{}.{}{}", values_[static_cast<std::size_t>(to)].bytes, is_signed ? "s" : "u",
                                  values_[static_cast<std::size_t>(from)].bytes);
    emit(frame, statement, forms().at(name).handler, {to, from}, 1);
    last().counted = false;
  }
  pending_widths_.clear();
}

Decoder::Address Decoder::address(Frame& frame, const Statement& statement, std::string_view text, Space space) {
  if (text.size() < 3 || text.front() != '[') refuse(statement, "address expected");
  std::string inner;
  for (const char c : text.substr(1, text.size() - 2)) {
    if (c != ' ') inner += c;
  }
  const auto plus = inner.find('+', 1);
  const std::string base = inner.substr(0, plus);
  std::int64_t offset = 0;
  if (plus != std::string::npos) {
    const auto value = immediate(std::string_view(inner).substr(plus + 1), 8);
    if (!value) refuse(statement, "offset of an address is no number");
    offset = static_cast<std::int64_t>(*value);
  }
  const Resolved found = resolve(frame, statement, base, 8);
  if (found.kind == Resolved::Kind::address) {
    const Space at = space == Space::generic || found.space == Space::local ? found.space : space;
    return {constant(found.address, 8, found.dynamic_shared), offset, true, at};
  }
  const auto bytes = values_[static_cast<std::size_t>(found.value)].bytes;
  if (bytes != 4 && bytes != 8) refuse(statement, "address in a narrow register");
  // Parameters of a function that has been put in its caller's place are the caller's variables.
  if (space == Space::param && frame.depth > 0) space = Space::local;
  return {found.value, offset, bytes == 8, space};
}

}  // namespace apb::ptx
