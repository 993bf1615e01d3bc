#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>

#include "ptx/decoder.hpp"
#include "ptx/handlers.hpp"
#include "ptx/machine.hpp"

namespace apb::ptx {
namespace {

constexpr int max_call_depth = 32;

std::string file_name(const ModuleText& text, int number) {
  const auto found = text.files.find(number);
  return found == text.files.end() ? "?" : found->second;
}

/// The opcode without what makes no difference to the result here.
std::string normalised(const std::string& opcode) {
  const auto parts = split_dots(opcode);
  const std::string_view type = parts.back();
  const std::string_view head = parts.front();
  const bool is_float = type.find('f') != std::string_view::npos;
  std::string result(head);
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const auto part = parts[i];
    if (is_float && part == "rn") continue;                    // the default, or the only one
    if (is_float && part == "ftz" && type != "f32") continue;  // halves: subnormals are kept
    result += fmt::format(".{}", part);
  }
  return result;
}

}  // namespace

std::string describe(const ModuleText& text, int location) {
  if (location < 0) return "unknown line (compile with -lineinfo)";
  std::string result;
  for (int depth = 0; location >= 0 && depth < max_call_depth; ++depth) {
    const Location& at = text.locations[static_cast<std::size_t>(location)];
    result += fmt::format("{}{}:{}", depth == 0 ? "" : ", inlined at ", file_name(text, at.file), at.line);
    location = at.caller;
  }
  return result;
}

std::pair<std::string, int> own_line(const ModuleText& text, int location) {
  for (int depth = 0; location >= 0 && depth < max_call_depth; ++depth) {
    const Location& at = text.locations[static_cast<std::size_t>(location)];
    const std::string file = file_name(text, at.file);
    const bool of_toolkit = file.find("/targets/") != std::string::npos && file.find("/include/") != std::string::npos;
    if (!of_toolkit || at.caller < 0) return {file, at.line};
    location = at.caller;
  }
  return {};
}

Decoder::Decoder(const ModuleText& text, const std::map<std::string, std::uint64_t>& globals)
    : text_(text), globals_(globals) {}

void Decoder::refuse(const Statement& statement, std::string_view why) const {
  std::string operands;
  for (const auto& operand : statement.operands)
    operands += fmt::format("{}{}", operands.empty() ? " " : ", ", operand);
  throw Unsupported(fmt::format("kernel {}, {}: {}: {}{}", program_.name, describe(text_, statement.location), why,
                                statement.opcode, operands));
}

Program Decoder::run(const FunctionText& kernel) {
  program_.name = kernel.name;
  program_.text = &text_;
  Frame frame;
  frame.function = &kernel;
  std::uint64_t offset = 0;
  for (const auto& parameter : kernel.parameters) {
    offset = (offset + parameter.align - 1) / parameter.align * parameter.align;
    frame.parameters[parameter.name] = offset;
    offset += parameter.bytes;
  }
  program_.parameter_bytes = offset;
  body(frame);
  program_.static_shared_bytes = (program_.static_shared_bytes + dynamic_align_ - 1) / dynamic_align_ * dynamic_align_;
  for (auto& value : values_) {
    if (value.dynamic_shared) value.constant += program_.static_shared_bytes;
  }
  allocate_registers(program_, values_);
  return std::move(program_);
}

void Decoder::body(Frame& frame) {
  const FunctionText& function = *frame.function;
  frame.first_value = static_cast<int>(values_.size());
  for (std::size_t i = 0; i < function.register_bytes.size(); ++i) {
    values_.push_back({Value::Kind::named, function.register_bytes[i], 0, false, {}, function.register_names[i]});
  }
  for (std::size_t s = 0; s < function.scopes.size(); ++s) {
    for (const auto& [name, variable] : function.scopes[s].variables) {
      bool dynamic = false;
      if (variable.space == Space::shared) {
        shared_address(variable, dynamic);
      } else {
        frame.locals[{static_cast<int>(s), name}] = local_address(variable);
      }
    }
  }
  for (const auto& one : function.statements) {
    frame.first_operation.push_back(program_.code.size());
    statement(frame, one);
  }
  frame.first_operation.push_back(program_.code.size());
  for (const auto at : frame.returns) program_.code[at].immediate = static_cast<std::int64_t>(program_.code.size());
  const auto target = [&](int scope, const std::string& label) {
    for (int s = scope; s >= 0; s = function.scopes[static_cast<std::size_t>(s)].parent) {
      const auto& labels = function.scopes[static_cast<std::size_t>(s)].labels;
      if (const auto found = labels.find(label); found != labels.end()) return frame.first_operation[found->second];
    }
    throw Unsupported(fmt::format("kernel {}: no label {}", program_.name, label));
  };
  for (const auto& [at, scope, label] : frame.branches) {
    Operation& operation = program_.code[at];
    if (operation.handler != branch_indexed) {
      operation.immediate = static_cast<std::int64_t>(target(scope, label));
      continue;
    }
    std::vector<std::uint32_t> table;
    for (int s = scope; s >= 0; s = function.scopes[static_cast<std::size_t>(s)].parent) {
      const auto& targets = function.scopes[static_cast<std::size_t>(s)].targets;
      const auto found = targets.find(label);
      if (found == targets.end()) continue;
      for (const auto& name : found->second) table.push_back(static_cast<std::uint32_t>(target(s, name)));
    }
    operation.immediate = static_cast<std::int64_t>(program_.jump_tables.size());
    program_.jump_tables.push_back(std::move(table));
  }
}

void Decoder::statement(Frame& frame, const Statement& statement) {
  const auto head = split_dots(statement.opcode).front();
  if (memory(frame, statement, head) || collective(frame, statement, head)) return;
  if (head == "bra" || head == "brx" || head == "ret" || head == "exit" || head == "trap" || head == "brkpt") {
    control(frame, statement, head);
  } else if (head == "call") {
    call(frame, statement);
  } else if (head == "setp") {
    set_predicate(frame, statement);
  } else if (head == "mov") {
    move(frame, statement);
  } else if (head == "cvt" && statement.opcode != "cvt.pack") {
    const Form found = conversion(statement.opcode);
    if (found.handler == nullptr) refuse(statement, "unknown conversion");
    form(frame, statement, found);
  } else {
    table_form(frame, statement);
  }
}

void Decoder::control(Frame& frame, const Statement& statement, std::string_view head) {
  if (head == "bra") {
    const auto at = emit(frame, statement, branch_to, {}, 0);
    frame.branches.emplace_back(at, statement.scope, statement.operands.at(0));
  } else if (head == "brx") {
    const int index = read(frame, statement, statement.operands.at(0), 4);
    const auto at = emit(frame, statement, branch_indexed, {index}, 0);
    frame.branches.emplace_back(at, statement.scope, statement.operands.at(1));
  } else if (head == "ret" && frame.depth > 0) {
    frame.returns.push_back(emit(frame, statement, branch_to, {}, 0));
  } else {
    emit(frame, statement, head == "trap" || head == "brkpt" ? trap : exit_lanes, {}, 0);
  }
}

/// "call.uni (retval0), name, (param0, param1)": the body is put here, its parameters are the caller's variables.
void Decoder::call(Frame& frame, const Statement& statement) {
  std::vector<std::vector<std::string>> lists;  // results, parameters
  std::string name;
  bool results = false;
  for (const auto& operand : statement.operands) {
    if (operand.front() != '(') {
      name = operand;
      continue;
    }
    if (name.empty()) results = true;
    std::vector<std::string> list(1);
    for (const char c : operand.substr(1, operand.size() - 2)) {
      if (c == ',') list.emplace_back();
      if (c != ',' && c != ' ') list.back() += c;
    }
    lists.push_back(list);
  }
  const auto found = text_.functions.find(name);
  if (name == "__assertfail") {
    emit(frame, statement, failed_assertion, {}, 0);
    return;
  }
  if (found == text_.functions.end() || !found->second.defined) refuse(statement, "call of what is not in the module");
  if (frame.depth >= max_call_depth) refuse(statement, "recursion");
  Frame callee;
  callee.function = &found->second;
  callee.depth = frame.depth + 1;
  const auto bind = [&](const std::vector<VariableText>& formal, const std::vector<std::string>& actual) {
    for (std::size_t i = 0; i < formal.size(); ++i) {
      const auto local = find_local(frame, statement.scope, actual.at(i));
      if (!local) refuse(statement, "argument is no .param variable");
      callee.parameters[formal[i].name] = *local;
    }
  };
  if (results) bind(found->second.results, lists.at(0));
  if (lists.size() > (results ? 1U : 0U)) bind(found->second.parameters, lists.back());
  std::optional<std::size_t> around;
  if (!statement.guard.empty()) {
    Statement skip = statement;
    skip.guard_negated = !skip.guard_negated;
    around = emit(frame, skip, branch_to, {}, 0);
  }
  body(callee);
  if (around) program_.code[*around].immediate = static_cast<std::int64_t>(program_.code.size());
}

/// "setp.lt.and.s32 p|q, a, b, !c": comparison, then the combination with c.
void Decoder::set_predicate(Frame& frame, const Statement& statement) {
  std::string compare;
  std::string combine;
  for (const auto part : split_dots(statement.opcode)) {
    if (part == "and" || part == "or" || part == "xor") {
      combine = part;
    } else if (part != "ftz") {
      compare += fmt::format("{}{}", compare.empty() ? "" : ".", part);
    }
  }
  const auto found = forms().find(compare);
  if (found == forms().end()) refuse(statement, "unknown comparison");
  const auto& bytes = found->second.bytes;
  const std::string_view results = statement.operands.at(0);
  const auto bar = results.find('|');
  const int a = read(frame, statement, statement.operands.at(1), bytes[1]);
  const int b = read(frame, statement, statement.operands.at(2), bytes[2]);
  const auto finish = [&](std::string_view text, int value, bool counted) {
    const int to = write(frame, statement, text, 1);
    if (combine.empty()) {
      emit(frame, statement, forms().at("mov.pred").handler, {to, value}, 1);
    } else {
      const int c = read(frame, statement, statement.operands.at(3), 1);
      emit(frame, statement, forms().at(combine + ".pred").handler, {to, value, c}, 1);
    }
    last().counted = counted;
  };
  if (bar == std::string_view::npos && combine.empty()) {
    emit(frame, statement, found->second.handler, {write(frame, statement, results, 1), a, b}, 1);
    return;
  }
  const int raw = temporary(1);
  emit(frame, statement, found->second.handler, {raw, a, b}, 1);
  finish(results.substr(0, bar), raw, false);
  if (bar == std::string_view::npos) return;
  const int inverse = temporary(1);
  emit(frame, statement, forms().at("not.pred").handler, {inverse, raw}, 1);
  last().counted = false;
  finish(results.substr(bar + 1), inverse, false);
}

void Decoder::move(Frame& frame, const Statement& statement) {
  const auto parts = split_dots(statement.opcode);
  const auto bytes = static_cast<std::uint8_t>(type_bytes(parts.back()));
  if (bytes == 0 || bytes > 8) refuse(statement, "unknown type");
  const std::string& to = statement.operands.at(0);
  const std::string& from = statement.operands.at(1);
  const auto elements = [](const std::string& text) {
    std::vector<std::string> list(1);
    for (const char c : text.substr(1, text.size() - 2)) {
      if (c == ',') list.emplace_back();
      if (c != ',' && c != ' ') list.back() += c;
    }
    return list;
  };
  const bool packs = from.front() == '{';
  if (packs || to.front() == '{') {
    const auto list = elements(packs ? from : to);
    const auto part = static_cast<std::uint8_t>(bytes / list.size());
    const auto found = forms().find(fmt::format("{}.{}.{}", packs ? "pack" : "unpack", bytes, part));
    if (found == forms().end()) refuse(statement, "unknown packing");
    std::vector<int> values;
    if (packs) values.push_back(write(frame, statement, to, bytes));
    for (const auto& one : list) {
      values.push_back(packs ? read(frame, statement, one, part) : write(frame, statement, one, part));
    }
    if (!packs) values.push_back(read(frame, statement, from, bytes));
    emit(frame, statement, found->second.handler, values, packs ? 1 : static_cast<int>(list.size()));
    widen(frame, statement, false);
    return;
  }
  const auto& form = forms().at(bytes == 1 ? "mov.pred" : fmt::format("mov.{}", bytes));
  const int source = read(frame, statement, from, bytes);
  emit(frame, statement, form.handler, {write(frame, statement, to, bytes), source}, 1);
  widen(frame, statement, false);
}

void Decoder::table_form(Frame& frame, const Statement& statement) {
  auto found = forms().find(normalised(statement.opcode));
  if (found == forms().end()) refuse(statement, "unknown instruction");
  form(frame, statement, found->second);
}

void Decoder::form(Frame& frame, const Statement& statement, const Form& form) {
  const auto count = form.bytes.size();
  if (statement.operands.size() != count) refuse(statement, "unexpected number of operands");
  const auto parts = split_dots(statement.opcode);
  std::vector<int> values(count);
  const auto results = static_cast<std::size_t>(form.results);
  for (auto i = results; i < count; ++i) {
    values[i] = read(frame, statement, statement.operands[i], form.bytes[i], parts.back().front() == 's');
  }
  for (std::size_t i = 0; i < results; ++i) values[i] = write(frame, statement, statement.operands[i], form.bytes[i]);
  emit(frame, statement, form.handler, values, form.results);
  const auto result_type = parts.front() == "cvt" ? parts[parts.size() - 2] : parts.back();
  widen(frame, statement, result_type.front() == 's');
}

std::size_t Decoder::emit(Frame& frame, const Statement& statement, Handler handler, const std::vector<int>& values,
                          int results) {
  Operation operation;
  operation.handler = handler;
  if (values.size() > max_operands) refuse(statement, "too many operands");
  for (std::size_t i = 0; i < values.size(); ++i) operation.operand[i] = static_cast<std::uint32_t>(values[i]);
  operation.count = static_cast<std::uint8_t>(values.size());
  operation.written = static_cast<std::uint16_t>((1U << results) - 1);
  operation.location = statement.location;
  if (!statement.guard.empty()) {
    const auto guard = find_register(frame, statement.scope, statement.guard);
    if (!guard) refuse(statement, "unknown guard");
    operation.guard = static_cast<std::uint32_t>(*guard);
    operation.guard_negated = statement.guard_negated;
  }
  program_.code.push_back(operation);
  program_.opcodes.push_back(statement.opcode);
  return program_.code.size() - 1;
}

}  // namespace apb::ptx
