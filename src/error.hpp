// What the program says when something is wrong, and the exit code that goes with it.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace apb {

/// Exit codes of the program (docs/outputs.md lists them for users).
enum class ExitCode : int {
  success = 0,
  some_documents_failed = 1,
  wrong_usage = 2,
  unusable_input = 3,  // model, input or output cannot be used
  rank_missing = 4,    // a rank has not answered within --timeout; resumable
  stopped_early = 75,  // by a signal; resumable
};

/// An error for people: one line that says what is wrong, where (file, field, value), and what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode exit_code = ExitCode::unusable_input)
      : std::runtime_error(message), exit_code_(exit_code) {}
  ExitCode exit_code() const { return exit_code_; }

 private:
  ExitCode exit_code_;
};

/// An error that every rank throws alike (see agree in comm/communicator.hpp).
class CommonError : public Error {
 public:
  using Error::Error;
};

/// Throws an Error (exit code 3) with a formatted message.
template <typename... Arguments>
[[noreturn]] void fail(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw Error(fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// Throws an Error for wrong usage (exit code 2) with a formatted message.
template <typename... Arguments>
[[noreturn]] void fail_usage(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw Error(fmt::format(format, std::forward<Arguments>(arguments)...), ExitCode::wrong_usage);
}

}  // namespace apb
