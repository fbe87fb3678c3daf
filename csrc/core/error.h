// The one exception type of the core. It never crosses the C ABI: csrc/capi turns it into a status and a message.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace gaitcrafter {

// Same numbers as gc_status and as gaitcrafter_rt/errors.py.
enum class Status : int {
  kOk = 0,
  kUnknown = 1,
  kInvalidRequest = 2,
  kModelFormat = 3,
  kUnsupportedVersion = 4,
  kDataFormat = 5,
  kOutput = 6,
  kCapability = 7,
  kMissingExtra = 8,
  kCancelled = 9,
  kOutOfMemory = 10,
  kInternal = 11,
};

// The message says what came, what is allowed, and how to fix it.
class Error : public std::exception {
 public:
  Error(Status status, std::string message) : status_(status), message_(std::move(message)) {}
  Status status() const noexcept { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  Status status_;
  std::string message_;
};

}  // namespace gaitcrafter
