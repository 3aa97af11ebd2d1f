// Reading of typed fields.
#include "api/json_fields.h"

#include <cmath>
#include <cstdio>

namespace fathom::api {
namespace {

std::string format_number(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", value);
  return buffer;
}

}  // namespace

std::string_view json_kind(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return "a string";
    case Json::value_t::boolean: return "a boolean";
    default: return "a number";
  }
}

const Json* FieldReader::find(std::string_view name) {
  known_.emplace(name);
  const auto at = object_.find(std::string(name));
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

void FieldReader::ignore(std::initializer_list<std::string_view> names) {
  for (std::string_view name : names) known_.emplace(name);
}

void FieldReader::fail(std::string_view name, std::string sentence, Code code, std::string reason) {
  if (!ok()) return;
  status_ = Status(code, path(name) + " " + std::move(sentence))
                .about(path(name))
                .because(std::move(reason));
}

void FieldReader::boolean(std::string_view name, bool& out) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) {
    return fail(name, "must be a boolean, not " + std::string(json_kind(*value)),
                Code::kInvalidArgument, "invalid_type");
  }
  out = value->get<bool>();
}

void FieldReader::integer(std::string_view name, int64_t low, int64_t high, int64_t& out) {
  const Json* value = find(name);
  if (value == nullptr) return;
  const bool whole =
      value->is_number_integer() ||
      (value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>());
  if (!whole) {
    return fail(name, "must be an integer, not " + std::string(json_kind(*value)),
                Code::kInvalidArgument, "invalid_type");
  }
  // Beyond 2^53 only the sign matters: no field's range reaches that far.
  const double size = value->get<double>();
  const int64_t number = size > 9e15 ? INT64_MAX : size < -9e15 ? INT64_MIN : value->get<int64_t>();
  if (number < low || number > high) {
    return fail(name, "must be between " + std::to_string(low) + " and " + std::to_string(high) +
                          ", not " + value->dump());
  }
  out = number;
}

void FieldReader::integer(std::string_view name, int64_t low, int64_t high, int32_t& out) {
  int64_t wide = out;
  integer(name, low, high, wide);
  out = static_cast<int32_t>(wide);
}

void FieldReader::integer(std::string_view name, int64_t low, int64_t high,
                          std::optional<int32_t>& out) {
  if (find(name) == nullptr) return;
  int32_t value = 0;
  integer(name, low, high, value);
  if (ok()) out = value;
}

void FieldReader::number(std::string_view name, FieldRange range, float& out) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number()) {
    return fail(name, "must be a number, not " + std::string(json_kind(*value)),
                Code::kInvalidArgument, "invalid_type");
  }
  const double number = value->get<double>();
  if (!(number >= range.low && number <= range.high)) {
    return fail(name, "must be between " + format_number(range.low) + " and " +
                          format_number(range.high) + ", not " + format_number(number));
  }
  out = static_cast<float>(number);
}

void FieldReader::string(std::string_view name, size_t bytes_max, std::string& out) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string()) {
    return fail(name, "must be a string, not " + std::string(json_kind(*value)),
                Code::kInvalidArgument, "invalid_type");
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > bytes_max) {
    return fail(name,
                "must be at most " + std::to_string(bytes_max) + " bytes, not " +
                    std::to_string(text.size()),
                Code::kInvalidArgument, "string_above_max_length");
  }
  out = text;
}

uint64_t FieldReader::unknown() const {
  uint64_t count = 0;
  for (const auto& [name, value] : object_.items()) count += known_.contains(name) ? 0 : 1;
  return count;
}

}  // namespace fathom::api
