// Turns the statements of a kernel, with all functions that it calls put in their place, into a Program.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "ptx/forms.hpp"
#include "ptx/program.hpp"
#include "ptx/text.hpp"

namespace apb::ptx {

/// Something that an operand can name before slots are given out.
struct Value {
  enum class Kind { named, temporary, constant, special, sink } kind = Kind::temporary;
  std::uint8_t bytes = 4;
  std::uint64_t constant = 0;
  bool dynamic_shared = false;  // a constant to which the offset of dynamic shared memory is added
  Special special = Special::laneid;
  std::string name;
};

/// A function's body at one place: its registers and variables are its own.
struct Frame {
  const FunctionText* function = nullptr;
  int first_value = 0;                                              // of its registers
  std::map<std::pair<int, std::string>, std::uint64_t> locals;      // (scope, name) -> local address
  std::map<std::string, std::uint64_t, std::less<>> parameters;     // of a called function: name -> local address
  std::vector<std::size_t> first_operation;                         // of each statement
  std::vector<std::size_t> returns;                                 // branches to the end of the body
  std::vector<std::tuple<std::size_t, int, std::string>> branches;  // (operation, scope, label)
  int depth = 0;
};

/// What an operand text means.
struct Resolved {
  enum class Kind { value, address } kind = Kind::value;
  int value = -1;             // Kind::value
  std::uint64_t address = 0;  // Kind::address, in its space
  Space space = Space::generic;
  bool dynamic_shared = false;
};

class Decoder {
 public:
  Decoder(const ModuleText& text, const std::map<std::string, std::uint64_t>& globals);
  Program run(const FunctionText& kernel);

 private:
  void body(Frame& frame);
  void statement(Frame& frame, const Statement& statement);
  void control(Frame& frame, const Statement& statement, std::string_view head);
  void call(Frame& frame, const Statement& statement);
  void set_predicate(Frame& frame, const Statement& statement);
  void move(Frame& frame, const Statement& statement);
  void table_form(Frame& frame, const Statement& statement);
  void form(Frame& frame, const Statement& statement, const Form& form);
  bool memory(Frame& frame, const Statement& statement, std::string_view head);  // decode_memory.cpp
  void load_or_store(Frame& frame, const Statement& statement, bool load);
  void atomic(Frame& frame, const Statement& statement, bool reduction);
  void copy_async(Frame& frame, const Statement& statement);
  bool collective(Frame& frame, const Statement& statement, std::string_view head);  // decode_memory.cpp
  void barrier_vote(Frame& frame, const Statement& statement);
  void matrix(Frame& frame, const Statement& statement, std::string_view head);

  /// Appends an operation with the statement's guard. Operand i is `values[i]`; the first `results` are results.
  std::size_t emit(Frame& frame, const Statement& statement, Handler handler, const std::vector<int>& values,
                   int results);
  Operation& last() { return program_.code.back(); }
  /// The value of an operand, converted to `bytes` if its register has another size.
  int read(Frame& frame, const Statement& statement, std::string_view text, std::uint8_t bytes, bool is_signed = false);
  /// The value that a result goes to; if the register has another size, widen() must be called after the operation.
  int write(Frame& frame, const Statement& statement, std::string_view text, std::uint8_t bytes);
  void widen(Frame& frame, const Statement& statement, bool is_signed);
  /// Sets the value (operand `at`) and offset of "[%rd1+8]" for the operation to be emitted.
  struct Address {
    int value;
    std::int64_t offset;
    bool wide;
    Space space;
  };
  Address address(Frame& frame, const Statement& statement, std::string_view text, Space space);
  Resolved resolve(Frame& frame, const Statement& statement, std::string_view text, std::uint8_t bytes);
  std::optional<int> find_register(const Frame& frame, int scope, std::string_view name) const;
  std::optional<std::uint64_t> find_local(const Frame& frame, int scope, std::string_view name) const;
  std::uint64_t shared_address(const VariableText& variable, bool& dynamic);
  std::uint64_t local_address(const VariableText& variable);
  int constant(std::uint64_t value, std::uint8_t bytes, bool dynamic_shared = false);
  int special(Special special);
  int temporary(std::uint8_t bytes);
  int sink(std::uint8_t bytes);
  [[noreturn]] void refuse(const Statement& statement, std::string_view why) const;
  void smallest_access(Space space, std::size_t bytes);

  const ModuleText& text_;
  const std::map<std::string, std::uint64_t>& globals_;
  Program program_;
  std::vector<Value> values_;
  std::map<std::tuple<std::uint64_t, std::uint8_t, bool>, int> constants_;
  std::map<Special, int> specials_;
  std::map<std::string, std::uint64_t, std::less<>> shared_;
  std::size_t dynamic_align_ = 16;
  std::vector<std::pair<int, int>> pending_widths_;  // (result of the operation, register to widen it to)
};

/// Gives the values slots in the register file, so that values that are not live together share them, and finds the
/// registers that may be read before they are written. On entry the operands of `program.code` are value numbers.
void allocate_registers(Program& program, const std::vector<Value>& values);

/// "FILE:LINE, inlined at FILE:LINE, ..."
std::string describe(const ModuleText& text, int location);
/// The innermost of these lines that is not in a header of the CUDA toolkit.
std::pair<std::string, int> own_line(const ModuleText& text, int location);

}  // namespace apb::ptx
