// Modules and kernels.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "ptx/decoder.hpp"
#include "ptx/machine.hpp"
#include "ptx/program.hpp"
#include "ptx/text.hpp"

namespace apb::ptx {
namespace {

/// A value of an initialiser: a number, or the address of a variable, maybe as generic(name)+8.
std::uint64_t initial_value(std::string text, const std::map<std::string, std::uint64_t>& addresses,
                            std::size_t bytes) {
  std::erase(text, ' ');
  if (text.starts_with("0f") || text.starts_with("0F") || text.starts_with("0d") || text.starts_with("0D")) {
    return std::stoull(text.substr(2), nullptr, 16);
  }
  if (text.front() == '-') return 0 - std::stoull(text.substr(1), nullptr, 0);
  if (text.front() >= '0' && text.front() <= '9') {
    while (text.back() == 'U') text.pop_back();
    return std::stoull(text, nullptr, 0);
  }
  if (text.starts_with("generic(")) {
    text = text.substr(8);
    text.erase(text.find(')'), 1);
  }
  std::uint64_t offset = 0;
  if (const auto plus = text.find('+'); plus != std::string::npos) {
    offset = std::stoull(text.substr(plus + 1), nullptr, 0);
    text = text.substr(0, plus);
  }
  const auto found = addresses.find(text);
  if (found == addresses.end() || bytes != 8)
    throw Unsupported(fmt::format("PTX initialiser not understood: {}", text));
  return found->second + offset;
}

}  // namespace

Kernel::Kernel(std::string name, const ModuleText& text, const std::map<std::string, std::uint64_t>& globals)
    : name_(std::move(name)), text_(&text), globals_(&globals) {
  const FunctionText& function = text.functions.find(name_)->second;
  std::size_t offset = 0;
  for (const auto& parameter : function.parameters) {
    offset = (offset + parameter.align - 1) / parameter.align * parameter.align;
    parameters_.push_back({offset, parameter.bytes});
    offset += parameter.bytes;
  }
  max_threads_ = function.max_threads;
}

Kernel::~Kernel() = default;
Kernel::Kernel(Kernel&&) noexcept = default;

std::size_t Kernel::parameter_bytes() const {
  return parameters_.empty() ? 0 : parameters_.back().offset + parameters_.back().bytes;
}

std::size_t Kernel::static_shared_bytes() const { return program().static_shared_bytes; }
std::size_t Kernel::local_bytes() const { return program().local_bytes; }

const Program& Kernel::program() const {
  if (program_ == nullptr) {
    program_ = std::make_unique<Program>(Decoder(*text_, *globals_).run(text_->functions.find(name_)->second));
  }
  return *program_;
}

Module::Module(std::string_view ptx, Memory& memory) : memory_(&memory), text_(parse(ptx)) {
  for (const auto& [name, variable] : text_->variables) {
    if (variable.space == Space::shared || variable.external) continue;
    void* pointer = memory.allocate(std::max<std::size_t>(variable.bytes, 1));
    variables_[name] = {pointer, variable.bytes};
    addresses_[name] = reinterpret_cast<std::uint64_t>(pointer);
  }
  for (const auto& [name, variable] : variables_) {
    const VariableText& text = text_->variables.find(name)->second;
    memory.mark_written(variable.pointer, variable.bytes);
    auto* at = static_cast<std::byte*>(variable.pointer);
    for (const auto& value : text.initial) {
      const std::uint64_t bits = initial_value(value, addresses_, text.element_bytes);
      std::memcpy(at, &bits, std::min<std::size_t>(text.element_bytes, sizeof(bits)));
      at += text.element_bytes;
    }
  }
  for (const auto& [name, function] : text_->functions) {
    if (function.entry && function.defined) kernels_.emplace(name, Kernel(name, *text_, addresses_));
  }
}

Module::~Module() {
  for (const auto& [name, variable] : variables_) memory_->release(variable.pointer);
}

const Kernel& Module::kernel(std::string_view name) const {
  const auto found = kernels_.find(name);
  if (found == kernels_.end()) throw std::out_of_range(fmt::format("no kernel {} in the module", name));
  return found->second;
}

Variable Module::variable(std::string_view name) const {
  const auto found = variables_.find(name);
  if (found == variables_.end()) throw std::out_of_range(fmt::format("no variable {} in the module", name));
  return found->second;
}

std::vector<std::string> Module::kernel_names() const {
  std::vector<std::string> names;
  for (const auto& [name, kernel] : kernels_) names.push_back(name);
  return names;
}

}  // namespace apb::ptx
