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
  /// What the device is given from now on finds the data there; where its memory is host memory, returns when the data
  /// has arrived. Further calls do nothing.
  virtual void finish() = 0;
};

}  // namespace apb
