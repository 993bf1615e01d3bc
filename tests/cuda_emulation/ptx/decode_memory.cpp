// Decoding of instructions that access memory, and of those that lanes execute together.
#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "ptx/decoder.hpp"
#include "ptx/handlers.hpp"

namespace apb::ptx {
namespace {

/// What the parts of "ld.relaxed.gpu.global.L1::no_allocate.v4.f32" say.
struct AccessParts {
  Space space = Space::generic;
  std::uint8_t elements = 1;
  std::string_view type;
  std::string_view operation;  // of atomics
  std::uint8_t flags = 0;
  std::string unknown;
};

bool is_scope_or_hint(std::string_view part) {
  static const std::array known = {"weak", "cta", "cluster", "gpu", "sys",   "nc",   "ca",      "cg",  "cs",
                                   "lu",   "cv",  "wb",      "wt",  "noftz", "sync", "aligned", "relu"};
  return part.starts_with("L1::") || part.starts_with("L2::") ||
         std::find(known.begin(), known.end(), part) != known.end();
}

AccessParts access_parts(std::string_view opcode) {
  static const std::array operations = {"add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas"};
  AccessParts result;
  const auto parts = split_dots(opcode);
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const auto part = parts[i];
    if (part.starts_with("global")) {
      result.space = Space::global;
    } else if (part.starts_with("shared")) {
      result.space = Space::shared;
    } else if (part == "const") {
      result.space = Space::constant;
    } else if (part.starts_with("param")) {
      result.space = Space::param;
    } else if (part == "local") {
      result.space = Space::local;
    } else if (part == "v2" || part == "v4" || part == "v8") {
      result.elements = static_cast<std::uint8_t>(part[1] - '0');
    } else if (part == "volatile" || part == "relaxed" || part == "mmio") {
      result.flags |= strong_access;
    } else if (part == "acquire") {
      result.flags |= strong_access | acquires;
    } else if (part == "release") {
      result.flags |= strong_access | releases;
    } else if (part == "acq_rel") {
      result.flags |= strong_access | acquires | releases;
    } else if (std::find(operations.begin(), operations.end(), part) != operations.end()) {
      result.operation = part;
    } else if (type_bytes(part) > 0) {
      result.type = part;
    } else if (!is_scope_or_hint(part)) {
      result.unknown = part;
    }
  }
  if (result.type.empty()) result.unknown = "type";
  return result;
}

std::vector<std::string> braced(const std::string& text) {
  if (text.front() != '{') return {text};
  std::vector<std::string> list(1);
  for (const char c : text.substr(1, text.size() - 2)) {
    if (c == ',') list.emplace_back();
    if (c != ',' && c != ' ') list.back() += c;
  }
  return list;
}

}  // namespace

void Decoder::smallest_access(Space space, std::size_t bytes) {
  const int shift = std::countr_zero(bytes);
  if (space != Space::global) program_.shared_cell_shift = std::min(program_.shared_cell_shift, shift);
  if (space != Space::shared) program_.global_cell_shift = std::min(program_.global_cell_shift, shift);
}

bool Decoder::memory(Frame& frame, const Statement& statement, std::string_view head) {
  const auto parts = split_dots(statement.opcode);
  const auto second = parts.size() > 1 ? parts[1] : std::string_view{};
  if (head == "ld" || head == "ldu" || head == "st") {
    load_or_store(frame, statement, head != "st");
  } else if (head == "atom" || head == "red") {
    atomic(frame, statement, head == "red");
  } else if (head == "cp" && second == "async") {
    copy_async(frame, statement);
  } else if (head == "membar" || head == "fence") {
    emit(frame, statement, fence, {}, 0);
    for (const auto part : parts) {
      if (part == "gl" || part == "gpu" || part == "sys") last().flags = 1;
    }
    program_.fences = program_.fences || last().flags != 0;
  } else if (head == "prefetch" || head == "prefetchu" || head == "applypriority" || head == "discard" ||
             head == "nanosleep" || head == "griddepcontrol" || head == "pmevent") {
    emit(frame, statement, no_operation, {}, 0);
  } else {
    return false;
  }
  return true;
}

void Decoder::load_or_store(Frame& frame, const Statement& statement, bool is_load) {
  const AccessParts parts = access_parts(statement.opcode);
  if (!parts.unknown.empty()) refuse(statement, "unknown access " + parts.unknown);
  const auto bytes = static_cast<std::uint8_t>(type_bytes(parts.type));
  if (bytes > 8) refuse(statement, "unknown type");
  const auto slot_bytes = std::max<std::uint8_t>(bytes, 2);
  const bool is_signed = parts.type.front() == 's';
  const auto list = braced(statement.operands.at(is_load ? 0 : 1));
  if (list.size() != parts.elements) refuse(statement, "number of elements");
  const Address at = address(frame, statement, statement.operands.at(is_load ? 1 : 0), parts.space);
  std::vector<int> values;
  for (const auto& one : list) {
    values.push_back(is_load ? write(frame, statement, one, slot_bytes) : read(frame, statement, one, slot_bytes));
  }
  values.push_back(at.value);
  emit(frame, statement, is_load ? load : store, values, is_load ? parts.elements : 0);
  Operation& operation = last();
  operation.space = at.space;
  operation.bytes = bytes;
  operation.elements = parts.elements;
  operation.immediate = at.offset;
  operation.flags =
      static_cast<std::uint8_t>(parts.flags | (at.wide ? wide_address : 0) | (is_signed ? signed_access : 0));
  if ((parts.flags & (acquires | releases)) != 0) program_.fences = true;
  smallest_access(at.space, std::size_t{bytes} * parts.elements);
  widen(frame, statement, is_signed);
}

void Decoder::atomic(Frame& frame, const Statement& statement, bool reduction) {
  static const std::map<std::string_view, Reduction> reductions = {
      {"add", Reduction::add},   {"min", Reduction::min},     {"max", Reduction::max}, {"and", Reduction::bit_and},
      {"or", Reduction::bit_or}, {"xor", Reduction::bit_xor}, {"inc", Reduction::inc}, {"dec", Reduction::dec},
      {"exch", Reduction::exch}, {"cas", Reduction::cas}};
  const AccessParts parts = access_parts(statement.opcode);
  if (!parts.unknown.empty() || parts.operation.empty() || parts.elements != 1) refuse(statement, "unknown atomic");
  const auto bytes = static_cast<std::uint8_t>(type_bytes(parts.type));
  const bool is_float = parts.type.find('f') != std::string_view::npos;
  if (bytes > 8 || (is_float && parts.operation != "add")) refuse(statement, "unknown atomic");
  const std::size_t first = reduction ? 0 : 1;
  std::vector<int> values{reduction ? sink(bytes) : write(frame, statement, statement.operands[0], bytes)};
  const Address at = address(frame, statement, statement.operands.at(first), parts.space);
  values.push_back(at.value);
  for (auto i = first + 1; i < statement.operands.size(); ++i) {
    values.push_back(read(frame, statement, statement.operands[i], bytes));
  }
  emit(frame, statement, ptx::atomic, values, 1);
  Operation& operation = last();
  operation.space = at.space;
  operation.bytes = bytes;
  operation.immediate = at.offset;
  operation.reduction = static_cast<std::uint8_t>(reductions.at(parts.operation));
  operation.flags = static_cast<std::uint8_t>(
      parts.flags | (at.wide ? wide_address : 0) | (parts.type.front() == 's' ? signed_access : 0) |
      (is_float ? float_access : 0) | (parts.type.ends_with("x2") ? packed_halves : 0));
  operation.elements = parts.type.starts_with("bf") ? 2 : 1;  // of two kinds of half: bf16, f16
  if ((parts.flags & (acquires | releases)) != 0) program_.fences = true;
  smallest_access(at.space, bytes);
  widen(frame, statement, false);
}

void Decoder::copy_async(Frame& frame, const Statement& statement) {
  const auto parts = split_dots(statement.opcode);
  const auto third = parts.size() > 2 ? parts[2] : std::string_view{};
  if (third == "commit_group") {
    emit(frame, statement, copy_commit, {}, 0);
  } else if (third == "wait_all") {
    emit(frame, statement, copy_wait, {}, 0);
    last().immediate = -1;
  } else if (third == "wait_group") {
    emit(frame, statement, copy_wait, {}, 0);
    last().immediate = std::stoi(statement.operands.at(0));
  } else if (third == "ca" || third == "cg") {
    const Address to = address(frame, statement, statement.operands.at(0), Space::shared);
    const Address from = address(frame, statement, statement.operands.at(1), Space::global);
    if (to.offset != 0 && to.wide != from.wide) refuse(statement, "offset of a copy");
    if (statement.opcode.find("cache_hint") != std::string::npos) refuse(statement, "unknown copy");
    const int bytes = std::stoi(statement.operands.at(2));
    if (bytes != 4 && bytes != 8 && bytes != 16) refuse(statement, "bytes of a copy");
    // Offsets are added beforehand: the operation has room for one only.
    const auto moved = [&](const Address& address) {
      if (address.offset == 0) return address.value;
      const std::uint8_t width = address.wide ? 8 : 4;
      const int sum = temporary(width);
      emit(frame, statement, forms().at(width == 8 ? "add.s64" : "add.s32").handler,
           {sum, address.value, constant(static_cast<std::uint64_t>(address.offset), width)}, 1);
      last().counted = false;
      return sum;
    };
    std::vector<int> values{moved(to), moved(from)};
    const bool has_source_bytes = statement.operands.size() > 3 && statement.operands[3].front() != 'p';
    values.push_back(has_source_bytes ? read(frame, statement, statement.operands[3], 4)
                                      : constant(static_cast<std::uint64_t>(bytes), 4));
    emit(frame, statement, ptx::copy_async, values, 0);
    last().bytes = static_cast<std::uint8_t>(bytes);
    last().flags = static_cast<std::uint8_t>((to.wide ? 1 : 0) | (from.wide ? 2 : 0));
    smallest_access(Space::shared, static_cast<std::size_t>(bytes));
    smallest_access(Space::global, static_cast<std::size_t>(bytes));
  } else {
    refuse(statement, "unknown copy");
  }
}

bool Decoder::collective(Frame& frame, const Statement& statement, std::string_view head) {
  const auto parts = split_dots(statement.opcode);
  const auto has = [&](std::string_view name) { return std::find(parts.begin(), parts.end(), name) != parts.end(); };
  const auto& operands = statement.operands;
  const auto get = [&](std::size_t i) { return read(frame, statement, operands.at(i), 4); };
  if (head == "bar" || head == "barrier") {
    if (has("warp")) {
      emit(frame, statement, warp_barrier, {get(0)}, 0);
      return true;
    }
    if (has("cluster")) refuse(statement, "unknown barrier");
    if (has("red")) {
      barrier_vote(frame, statement);
      return true;
    }
    const int threads = operands.size() > 1 ? get(1) : constant(0, 4);
    emit(frame, statement, barrier, {get(0), threads}, 0);
    last().flags = has("arrive") ? barrier_arrives : 0;
  } else if (head == "shfl") {
    const std::string_view results = operands.at(0);
    const auto bar = results.find('|');
    const int mode = has("up") ? 0 : has("down") ? 1 : has("bfly") ? 2 : 3;
    const int in_range = bar == std::string_view::npos ? sink(1) : write(frame, statement, results.substr(bar + 1), 1);
    emit(frame, statement, shuffle,
         {write(frame, statement, results.substr(0, bar), 4), in_range, get(1), get(2), get(3), get(4)}, 2);
    last().flags = static_cast<std::uint8_t>(mode);
  } else if (head == "vote") {
    const bool ballot = has("ballot");
    const int source = read(frame, statement, operands.at(1), 1);
    emit(frame, statement, vote, {write(frame, statement, operands.at(0), ballot ? 4 : 1), source, get(2)}, 1);
    last().flags = static_cast<std::uint8_t>(has("all") ? 0 : has("any") ? 1 : ballot ? 3 : 2);
  } else if (head == "match") {
    const std::uint8_t bytes = has("b64") ? 8 : 4;
    const std::string_view results = operands.at(0);
    const auto bar = results.find('|');
    const int source = read(frame, statement, operands.at(1), bytes);
    const int result = write(frame, statement, results.substr(0, bar), 4);
    if (has("all")) {
      const int all = bar == std::string_view::npos ? sink(1) : write(frame, statement, results.substr(bar + 1), 1);
      emit(frame, statement, match_all, {result, all, source, get(2)}, 2);
    } else {
      emit(frame, statement, match_any, {result, source, get(2)}, 1);
    }
    last().bytes = bytes;
  } else if (head == "activemask") {
    emit(frame, statement, active_mask, {write(frame, statement, operands.at(0), 4)}, 1);
  } else if (head == "redux") {
    static const std::map<std::string_view, Reduction> reductions = {
        {"add", Reduction::add},     {"min", Reduction::min},   {"max", Reduction::max},
        {"and", Reduction::bit_and}, {"or", Reduction::bit_or}, {"xor", Reduction::bit_xor}};
    const auto found = reductions.find(parts.at(2));
    if (found == reductions.end() || parts.back() == "f32") refuse(statement, "unknown reduction");
    const int source = get(1);
    emit(frame, statement, reduce, {write(frame, statement, operands.at(0), 4), source, get(2)}, 1);
    last().reduction = static_cast<std::uint8_t>(found->second);
    last().flags = has("s32") ? 1 : 0;
  } else if (head == "ldmatrix" || head == "mma") {
    matrix(frame, statement, head);
  } else {
    return false;
  }
  widen(frame, statement, false);
  return true;
}

/// "bar.red.popc.u32 d, barrier, (threads,) p" and its kind.
void Decoder::barrier_vote(Frame& frame, const Statement& statement) {
  const auto parts = split_dots(statement.opcode);
  const auto has = [&](std::string_view name) { return std::find(parts.begin(), parts.end(), name) != parts.end(); };
  const auto& operands = statement.operands;
  const int id = read(frame, statement, operands.at(1), 4);
  const int threads = operands.size() > 3 ? read(frame, statement, operands[2], 4) : constant(0, 4);
  const int source = read(frame, statement, operands.back(), 1);
  const int result = write(frame, statement, operands[0], has("popc") ? 4 : 1);
  emit(frame, statement, barrier, {id, threads, source, result}, 0);
  last().written = 1U << 3;
  last().flags = barrier_votes;
  last().reduction = static_cast<std::uint8_t>(has("popc")  ? Reduction::add
                                               : has("and") ? Reduction::bit_and
                                                            : Reduction::bit_or);
  widen(frame, statement, false);
}

void Decoder::matrix(Frame& frame, const Statement& statement, std::string_view head) {
  const auto parts = split_dots(statement.opcode);
  const auto has = [&](std::string_view name) { return std::find(parts.begin(), parts.end(), name) != parts.end(); };
  std::vector<int> values;
  if (head == "ldmatrix") {
    if (!has("m8n8") || !has("b16")) refuse(statement, "unknown matrix");
    const auto list = braced(statement.operands.at(0));
    const std::size_t count = has("x4") ? 4 : has("x2") ? 2 : 1;
    if (list.size() != count) refuse(statement, "number of matrices");
    const Address at = address(frame, statement, statement.operands.at(1), Space::shared);
    for (const auto& one : list) values.push_back(write(frame, statement, one, 4));
    values.push_back(at.value);
    emit(frame, statement, load_matrix, values, static_cast<int>(count));
    last().elements = static_cast<std::uint8_t>(count);
    last().immediate = at.offset;
    last().flags = static_cast<std::uint8_t>((at.wide ? wide_address : 0) | (has("trans") ? transposed : 0));
    smallest_access(Space::shared, 16);
    return;
  }
  const bool deep = has("m16n8k16");
  const bool halves = std::count(parts.begin(), parts.end(), "f16") == 2;
  const bool brain = std::count(parts.begin(), parts.end(), "bf16") == 2;
  if ((!deep && !has("m16n8k8")) || (!halves && !brain) || std::count(parts.begin(), parts.end(), "f32") != 2) {
    refuse(statement, "unknown matrix product");
  }
  const std::array<std::size_t, 4> counts = {4, deep ? 4U : 2U, deep ? 2U : 1U, 4};
  for (std::size_t part = 0; part < 4; ++part) {
    const auto list = braced(statement.operands.at(part));
    if (list.size() != counts[part]) refuse(statement, "number of matrix registers");
    for (const auto& one : list) {
      values.push_back(part == 0 ? write(frame, statement, one, 4) : read(frame, statement, one, 4));
    }
  }
  emit(frame, statement, deep ? multiply_16x8x16 : multiply_16x8x8, values, 4);
  last().flags = halves ? half_inputs : 0;
}

}  // namespace apb::ptx
