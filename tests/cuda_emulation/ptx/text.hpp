// PTX text as a tree: variables, functions and their statements, with names still unresolved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/space.hpp"

namespace apb::ptx {

/// `.shared .align 16 .b8 name[64]`, also the parameters of kernels and functions.
struct VariableText {
  std::string name;
  Space space = Space::global;
  std::size_t align = 1;
  std::size_t element_bytes = 1;
  std::size_t bytes = 0;  // 0 for extern arrays without size
  bool external = false;
  std::vector<std::string> initial;  // of the elements, as written
};

/// A source position; `caller` is where the function that it is in was called, if it was inlined: an index in
/// ModuleText::locations, or -1.
struct Location {
  int file = 0;
  int line = 0;
  int column = 0;
  int caller = -1;
};

/// An instruction: "@!%p1 add.s32 %r1, %r2, 3".
struct Statement {
  std::string guard;  // register name or empty
  bool guard_negated = false;
  std::string opcode;
  std::vector<std::string> operands;
  int scope = 0;      // index in FunctionText::scopes
  int location = -1;  // index in ModuleText::locations
};

/// Names declared between a pair of braces.
struct Scope {
  int parent = -1;
  std::map<std::string, int, std::less<>> registers;                     // index in FunctionText::register_bytes
  std::map<std::string, std::size_t, std::less<>> labels;                // index in FunctionText::statements
  std::map<std::string, VariableText, std::less<>> variables;            // local, shared and call parameters
  std::map<std::string, std::vector<std::string>, std::less<>> targets;  // lists of labels for brx.idx
};

/// A kernel (.entry) or a function (.func).
struct FunctionText {
  std::string name;
  bool entry = false;
  bool defined = false;
  std::vector<VariableText> parameters, results;
  unsigned max_threads = 0;
  std::vector<std::uint8_t> register_bytes;  // 1 for predicates
  std::vector<std::string> register_names;
  std::vector<Scope> scopes;
  std::vector<Statement> statements;
};

struct ModuleText {
  std::map<std::string, VariableText, std::less<>> variables;
  std::map<std::string, FunctionText, std::less<>> functions;
  std::map<int, std::string> files;
  std::vector<Location> locations;
};

/// Throws Unsupported where the text is not understood.
std::unique_ptr<ModuleText> parse(std::string_view ptx);

/// Bytes of a type name such as "u32" or "bf16x2"; 1 for "pred"; 0 if it is none.
std::size_t type_bytes(std::string_view type);

/// The parts of "ld.global.v4.f32" between the dots.
std::vector<std::string_view> split_dots(std::string_view opcode);

}  // namespace apb::ptx
