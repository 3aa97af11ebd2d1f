// Status and Result<T>: how every fallible call in Fathom reports what went wrong.
// Values, no exceptions. The codes are gRPC's canonical ones, so that src/api maps them 1:1 to gRPC
// and HTTP.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "fathom/check.h"

namespace fathom {

// Numbers equal google.rpc.Code.
enum class Code {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// The name of a code as gRPC spells it ("INVALID_ARGUMENT").
std::string_view code_name(Code code);

// A code, a sentence for a human, and optionally the field, file or setting it is about (`subject`)
// and a stable machine word (`reason`, e.g. "context_length_exceeded") that clients may switch on.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status ok() { return {}; }

  bool is_ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& subject() const { return subject_; }
  const std::string& reason() const { return reason_; }

  Status&& about(std::string subject) && {
    subject_ = std::move(subject);
    return std::move(*this);
  }
  Status&& because(std::string reason) && {
    reason_ = std::move(reason);
    return std::move(*this);
  }

  // "INVALID_ARGUMENT: temperature must be ..." for logs.
  std::string to_string() const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
  std::string subject_;
  std::string reason_;
};

inline Status invalid_argument(std::string m) { return {Code::kInvalidArgument, std::move(m)}; }
inline Status not_found(std::string m) { return {Code::kNotFound, std::move(m)}; }
inline Status unimplemented(std::string m) { return {Code::kUnimplemented, std::move(m)}; }
inline Status unavailable(std::string m) { return {Code::kUnavailable, std::move(m)}; }
inline Status resource_exhausted(std::string m) { return {Code::kResourceExhausted, std::move(m)}; }
inline Status failed_precondition(std::string m) {
  return {Code::kFailedPrecondition, std::move(m)};
}
inline Status data_loss(std::string m) { return {Code::kDataLoss, std::move(m)}; }
inline Status internal_error(std::string m) { return {Code::kInternal, std::move(m)}; }

// A T, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    FATHOM_CHECK(!std::get<Status>(state_).is_ok(), "Result made from an ok Status");
  }

  bool is_ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return is_ok() ? Status::ok() : std::get<Status>(state_); }

  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return const_cast<Result*>(this)->checked(); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &const_cast<Result*>(this)->checked(); }

 private:
  T& checked() {
    FATHOM_CHECK(is_ok(), std::get<Status>(state_).to_string());
    return std::get<T>(state_);
  }
  std::variant<T, Status> state_;
};

}  // namespace fathom

#define FATHOM_CONCAT_INNER(a, b) a##b
#define FATHOM_CONCAT(a, b) FATHOM_CONCAT_INNER(a, b)

// Returns the Status of `expr` from the enclosing function unless it is ok.
#define FATHOM_RETURN_IF_ERROR(expr)                                                           \
  do {                                                                                         \
    if (::fathom::Status fathom_status = (expr); !fathom_status.is_ok()) return fathom_status; \
  } while (false)

// `FATHOM_ASSIGN(auto x, f());` binds the value of a Result, or returns its Status.
#define FATHOM_ASSIGN(lhs, expr) \
  FATHOM_ASSIGN_IMPL(FATHOM_CONCAT(fathom_result_, __LINE__), lhs, expr)
#define FATHOM_ASSIGN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                       \
  if (!tmp.is_ok()) return tmp.status();   \
  lhs = std::move(tmp).value()
