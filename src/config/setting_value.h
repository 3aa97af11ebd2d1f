// One setting's value: from text, to text, and the sentence that says what is allowed.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "config/settings.h"

namespace fathom {

// Sets `out` from `text`. False: it is no value of this type or out of bounds (see allowed_values).
bool parse_value(std::string_view text, const SettingInfo& info, bool& out);
bool parse_value(std::string_view text, const SettingInfo& info, int64_t& out);
bool parse_value(std::string_view text, const SettingInfo& info, double& out);
bool parse_value(std::string_view text, const SettingInfo& info, std::string& out);

std::string print_value(bool value);
std::string print_value(int64_t value);
std::string print_value(double value);
std::string print_value(const std::string& value);

// "1 to 4096", "true or false", "text of at most 255 bytes, no control characters".
std::string allowed_values(const SettingInfo& info, const bool&);
std::string allowed_values(const SettingInfo& info, const int64_t&);
std::string allowed_values(const SettingInfo& info, const double&);
std::string allowed_values(const SettingInfo& info, const std::string&);

// Numbers that may be absent: "auto".
template <typename T>
bool parse_value(std::string_view text, const SettingInfo& info, std::optional<T>& out) {
  if (text == "auto") {
    out.reset();
    return true;
  }
  T value{};
  if (!parse_value(text, info, value)) return false;
  out = value;
  return true;
}

template <typename T>
std::string print_value(const std::optional<T>& value) {
  return value ? print_value(*value) : "auto";
}

template <typename T>
std::string allowed_values(const SettingInfo& info, const std::optional<T>&) {
  return "auto, or " + allowed_values(info, T{});
}

// Choices.
template <typename E>
requires std::is_enum_v<E>
bool parse_value(std::string_view text, const SettingInfo&, E& out) {
  for (const Choice<E>& choice : kChoices<E>) {
    if (choice.word != text) continue;
    out = choice.value;
    return true;
  }
  return false;
}

template <typename E>
requires std::is_enum_v<E> std::string print_value(E value) {
  for (const Choice<E>& choice : kChoices<E>) {
    if (choice.value == value) return std::string(choice.word);
  }
  return {};
}

template <typename E>
requires std::is_enum_v<E> std::string allowed_values(const SettingInfo&, const E&) {
  std::string words;
  for (const Choice<E>& choice : kChoices<E>) {
    words.append(words.empty() ? "" : ", ").append(choice.word);
  }
  return "one of " + words;
}

}  // namespace fathom
