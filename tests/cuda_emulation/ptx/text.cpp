#include "ptx/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <utility>

#include "ptx/machine.hpp"

namespace apb::ptx {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

/// Splits at commas that stand outside of brackets.
std::vector<std::string> split_operands(std::string_view text) {
  std::vector<std::string> parts;
  int depth = 0;
  std::string part;
  for (const char c : text) {
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (c == ')' || c == ']' || c == '}') --depth;
    if (c == ',' && depth == 0) {
      parts.emplace_back(trim(part));
      part.clear();
    } else {
      part += is_space(c) ? ' ' : c;
    }
  }
  if (!trim(part).empty()) parts.emplace_back(trim(part));
  return parts;
}

/// The first word, which is removed from `text`.
std::string_view take_word(std::string_view& text) {
  text = trim(text);
  std::size_t end = 0;
  while (end < text.size() && !is_space(text[end])) ++end;
  const auto word = text.substr(0, end);
  text = trim(text.substr(end));
  return word;
}

std::size_t to_number(std::string_view text) {
  std::size_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// The words, without commas.
std::vector<int> numbers(std::string_view text) {
  std::vector<int> values;
  while (!text.empty()) {
    const auto word = take_word(text);
    if (std::isdigit(static_cast<unsigned char>(word.front())) != 0)
      values.push_back(static_cast<int>(to_number(word)));
  }
  return values;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text), module_(std::make_unique<ModuleText>()) {}

  std::unique_ptr<ModuleText> run() {
    while (skip_blank()) top_level();
    return std::move(module_);
  }

 private:
  /// Skips spaces and comments; false at the end.
  bool skip_blank() {
    while (at_ < text_.size()) {
      if (is_space(text_[at_])) {
        ++at_;
      } else if (text_.substr(at_, 2) == "//") {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (text_.substr(at_, 2) == "/*") {
        at_ = std::min(text_.find("*/", at_), text_.size() - 2) + 2;
      } else if (text_[at_] == '\0') {
        ++at_;
      } else {
        return true;
      }
    }
    return false;
  }

  std::string take_line() {
    const auto end = std::min(text_.find('\n', at_), text_.size());
    std::string line(text_.substr(at_, end - at_));
    at_ = end;
    return line;
  }

  /// The text to one of the stops that is outside of brackets and strings (which is not consumed), without comments.
  std::string take_until(std::string_view stops) {
    std::string taken;
    int depth = 0;
    while (at_ < text_.size()) {
      if (text_.substr(at_, 2) == "//") {
        skip_blank();
        taken += ' ';
        continue;
      }
      const char c = text_[at_];
      if (depth == 0 && stops.find(c) != std::string_view::npos) break;
      if (c == '(' || c == '[' || c == '{') ++depth;
      if (c == ')' || c == ']' || c == '}') --depth;
      taken += c;
      ++at_;
      if (c == '"') {
        const auto end = std::min(text_.find('"', at_), text_.size() - 1) + 1;
        taken += text_.substr(at_, end - at_);
        at_ = end;
      }
    }
    return taken;
  }

  void skip_braces() {
    int depth = 0;
    do {
      if (text_[at_] == '{') ++depth;
      if (text_[at_] == '}') --depth;
      ++at_;
    } while (at_ < text_.size() && depth > 0);
  }

  bool starts_with(std::string_view word) const { return text_.substr(at_, word.size()) == word; }

  void top_level() {
    if (starts_with(".version") || starts_with(".target") || starts_with(".address_size")) {
      take_line();
    } else if (starts_with(".file")) {
      file();
    } else if (starts_with(".section")) {
      take_until("{");
      skip_braces();
    } else if (starts_with(".pragma") || starts_with(".alias")) {
      take_until(";");
      ++at_;
    } else {
      declaration();
    }
  }

  void file() {
    const std::string line = take_line();
    const auto first = line.find('"');
    const auto last = line.find('"', first + 1);
    if (first == std::string::npos || last == std::string::npos) return;
    module_->files[numbers(line.substr(5, first - 5)).at(0)] = line.substr(first + 1, last - first - 1);
  }

  void declaration() {
    const auto start = at_;
    bool function = false;
    while (skip_blank() && text_[at_] == '.') {  // linkage and kind
      std::string word;
      while (at_ < text_.size() && !is_space(text_[at_]) && text_[at_] != '(') word += text_[at_++];
      if (word == ".entry" || word == ".func") {
        function = true;
        parse_function(word == ".entry");
        break;
      }
      if (word != ".visible" && word != ".extern" && word != ".weak" && word != ".common") break;
    }
    if (function) return;
    at_ = start;
    const std::string text = take_until(";");
    ++at_;
    for (auto& variable : variables(text)) module_->variables[variable.name] = std::move(variable);
  }

  /// ".visible .global .align 4 .u32 name[2] = {1, 2}"; a `.param` list has one such text for each parameter.
  std::vector<VariableText> variables(std::string_view text) {
    VariableText variable;
    const auto equals = text.find('=');
    if (equals != std::string_view::npos) {
      auto values = trim(text.substr(equals + 1));
      if (!values.empty() && values.front() == '{') values = values.substr(1, values.size() - 2);
      variable.initial = split_operands(values);
      text = text.substr(0, equals);
    }
    std::size_t type = 0;
    std::size_t count = 1;
    while (true) {
      text = trim(text);
      if (text.empty() || text.front() != '.') break;
      const auto word = take_word(text).substr(1);
      if (word == "extern") variable.external = true;
      if (word == "align") {
        variable.align = to_number(take_word(text));
      } else if (word == "v2") {
        count = 2;
      } else if (word == "v4") {
        count = 4;
      } else if (word == "const") {
        variable.space = Space::constant;
      } else if (word == "shared") {
        variable.space = Space::shared;
      } else if (word == "local") {
        variable.space = Space::local;
      } else if (word == "param") {
        variable.space = Space::param;
      } else if (type_bytes(word) > 0) {
        type = type_bytes(word);
      }
    }
    if (type == 0) throw Unsupported(fmt::format("PTX declaration not understood: {}", text));
    variable.element_bytes = type;
    variable.align = std::max(variable.align, type);
    std::vector<VariableText> result;
    for (const auto& part : split_operands(text)) {
      const auto bracket = part.find('[');
      variable.name = std::string(trim(std::string_view(part).substr(0, bracket)));
      std::size_t elements = count;
      for (auto open = bracket; open != std::string::npos; open = part.find('[', open + 1)) {
        elements *= to_number(trim(std::string_view(part).substr(open + 1)));
      }
      variable.bytes = type * elements;
      result.push_back(variable);
    }
    return result;
  }

  std::vector<VariableText> parameter_list() {  // at '('
    ++at_;
    std::vector<VariableText> result;
    const std::string text = take_until(")");
    ++at_;
    for (const auto& part : split_operands(text)) result.push_back(variables(part).at(0));
    return result;
  }

  void parse_function(bool entry) {
    FunctionText function;
    function.entry = entry;
    skip_blank();
    if (text_[at_] == '(') function.results = parameter_list();
    skip_blank();
    while (!is_space(text_[at_]) && text_[at_] != '(' && text_[at_] != ';') function.name += text_[at_++];
    skip_blank();
    if (text_[at_] == '(') function.parameters = parameter_list();
    const std::string directives = take_until("{;");
    if (const auto found = directives.find(".maxntid"); found != std::string::npos) {
      std::string rest = directives.substr(found + 8);
      rest = rest.substr(0, rest.find('.'));
      function.max_threads = 1;
      for (const auto& part : split_operands(rest))
        function.max_threads *= static_cast<unsigned>(to_number(trim(part)));
    }
    if (text_[at_] == ';') {
      ++at_;
      module_->functions.try_emplace(function.name, std::move(function));
      return;
    }
    function.defined = true;
    body(function);
    const std::string name = function.name;
    module_->functions[name] = std::move(function);
  }

  void body(FunctionText& function) {  // at '{'
    int scope = -1;
    int location = -1;
    while (skip_blank()) {
      const char c = text_[at_];
      if (c == '{') {
        function.scopes.push_back({scope, {}, {}, {}, {}});
        scope = static_cast<int>(function.scopes.size()) - 1;
        ++at_;
      } else if (c == '}') {
        ++at_;
        scope = function.scopes[static_cast<std::size_t>(scope)].parent;
        if (scope < 0) return;
      } else if (starts_with(".loc") && is_space(text_[at_ + 4])) {
        location = source_location(take_line());
      } else {
        statement(function, scope, location);
      }
    }
    throw Unsupported(fmt::format("PTX function {} does not end", function.name));
  }

  /// ".loc 1 16 5, function_name $L__info_string0, inlined_at 1 17 3"
  int source_location(const std::string& line) {
    const auto comma = line.find(',');
    const auto inlined = line.find("inlined_at");
    const auto own = numbers(line.substr(4, comma == std::string::npos ? comma : comma - 4));
    Location location{own.at(0), own.at(1), own.at(2), -1};
    auto& all = module_->locations;
    if (inlined != std::string::npos) {
      // The caller's own line, which may be inlined too, has come before.
      const auto caller = numbers(line.substr(inlined + 10));
      const std::array<int, 3> place{caller.at(0), caller.at(1), caller.at(2)};
      const auto [found, is_new] = last_at_.try_emplace(place, static_cast<int>(all.size()));
      if (is_new) all.push_back({place[0], place[1], place[2], -1});
      location.caller = found->second;
    }
    if (location.line == 0 && !all.empty()) return static_cast<int>(all.size()) - 1;
    last_at_[{location.file, location.line, location.column}] = static_cast<int>(all.size());
    all.push_back(location);
    return static_cast<int>(all.size()) - 1;
  }

  void statement(FunctionText& function, int scope_index, int location) {
    const std::string text = take_until(";:");
    const char stop = at_ < text_.size() ? text_[at_] : ';';
    auto& scope = function.scopes[static_cast<std::size_t>(scope_index)];
    std::string_view rest = trim(text);
    if (stop == ':' && text_.substr(at_, 2) != "::") {
      ++at_;
      label(function, scope, std::string(rest));
      return;
    }
    std::string whole(rest);
    while (at_ < text_.size() && text_[at_] == ':') {  // "L1::no_allocate"
      whole += "::";
      at_ += 2;
      whole += take_until(";:");
    }
    ++at_;
    rest = whole;
    if (rest.empty()) return;
    if (rest.starts_with(".reg")) {
      registers(function, scope, rest.substr(4));
    } else if (rest.starts_with(".pragma") || rest.starts_with(".callprototype")) {
      return;
    } else if (rest.front() == '.') {
      for (auto& variable : variables(rest)) scope.variables[variable.name] = std::move(variable);
    } else {
      instruction(function, rest, scope_index, location);
    }
  }

  void label(FunctionText& function, Scope& scope, const std::string& name) {
    skip_blank();
    if (starts_with(".branchtargets")) {
      at_ += 14;
      scope.targets[name] = split_operands(take_until(";"));
      ++at_;
    } else if (starts_with(".callprototype")) {
      take_until(";");
      ++at_;
    } else {
      scope.labels[name] = function.statements.size();
    }
  }

  static void registers(FunctionText& function, Scope& scope, std::string_view rest) {
    const auto bytes = type_bytes(take_word(rest).substr(1));
    if (bytes == 0) throw Unsupported(fmt::format("PTX registers of unknown type: {}", rest));
    const auto declare = [&](const std::string& name) {
      scope.registers[name] = static_cast<int>(function.register_bytes.size());
      function.register_bytes.push_back(static_cast<std::uint8_t>(bytes));
      function.register_names.push_back(name);
    };
    for (const auto& part : split_operands(rest)) {
      const auto angle = part.find('<');
      if (angle == std::string::npos) {
        declare(part);
        continue;
      }
      const auto count = to_number(std::string_view(part).substr(angle + 1));
      for (std::size_t i = 0; i < count; ++i) declare(part.substr(0, angle) + std::to_string(i));
    }
  }

  static void instruction(FunctionText& function, std::string_view rest, int scope, int location) {
    Statement statement;
    statement.scope = scope;
    statement.location = location;
    if (rest.front() == '@') {
      auto guard = take_word(rest).substr(1);
      if (guard.empty()) guard = take_word(rest);
      statement.guard_negated = guard.front() == '!';
      statement.guard = std::string(statement.guard_negated ? guard.substr(1) : guard);
    }
    statement.opcode = std::string(take_word(rest));
    statement.operands = split_operands(rest);
    function.statements.push_back(std::move(statement));
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::unique_ptr<ModuleText> module_;
  std::map<std::array<int, 3>, int> last_at_;  // (file, line, column) -> the last location there
};

}  // namespace

std::unique_ptr<ModuleText> parse(std::string_view ptx) { return Parser(ptx).run(); }

std::size_t type_bytes(std::string_view type) {
  if (type == "pred") return 1;
  static const std::map<std::string_view, std::size_t> bytes = {
      {"b8", 1},   {"u8", 1},  {"s8", 1},  {"b16", 2}, {"u16", 2},  {"s16", 2},   {"f16", 2},
      {"bf16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4}, {"f32", 4},  {"f16x2", 4}, {"bf16x2", 4},
      {"b64", 8},  {"u64", 8}, {"s64", 8}, {"f64", 8}, {"b128", 16}};
  const auto found = bytes.find(type);
  return found == bytes.end() ? 0 : found->second;
}

std::vector<std::string_view> split_dots(std::string_view opcode) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto dot = opcode.find('.');
    parts.push_back(opcode.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    opcode.remove_prefix(dot + 1);
  }
}

}  // namespace apb::ptx
