// A message between ranks that is under way.
#pragma once

namespace apb {

/// Device::wait_for finishes it in order with the operations. Destroying it unfinished finishes it first.
class Transfer {
 public:
  Transfer() = default;
  virtual ~Transfer() = default;
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  /// Returns when the data has arrived; further calls do nothing.
  virtual void finish() = 0;
};

}  // namespace apb
