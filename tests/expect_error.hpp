// Checking what the program says when something is wrong.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "error.hpp"

namespace apb {

/// The message of the Error (exit code 3) that `action` throws; a failed expectation if it throws none.
template <typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::unusable_input);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

/// Expects an Error of that exit code whose message is one line and has all the parts.
template <typename Action>
void expect_error(Action action, const std::vector<std::string>& parts, ExitCode exit_code = ExitCode::unusable_input) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.exit_code(), exit_code) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const auto& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "no \"" << part << "\" in: " << message;
    }
  }
}

}  // namespace apb
