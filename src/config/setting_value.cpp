// Values of settings as text: strict numbers, byte suffixes, bounds.
#include "config/setting_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

namespace fathom {
namespace {

std::string spelled(std::string_view name, char dash, bool upper) {
  std::string out(name);
  for (char& c : out) {
    if (c == '_') c = dash;
    if (upper && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return out;
}

// Takes "KiB", "MiB" or "GiB" off the end of `text` and returns its factor.
int64_t take_suffix(std::string_view& text) {
  constexpr struct {
    std::string_view word;
    int64_t factor;
  } kSuffixes[] = {{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
  for (const auto& suffix : kSuffixes) {
    if (!text.ends_with(suffix.word)) continue;
    text.remove_suffix(suffix.word.size());
    return suffix.factor;
  }
  return 1;
}

template <typename T>
bool parse_number(std::string_view text, T& out) {
  if (text.empty()) return false;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

bool within(double value, const Bounds& bounds) {
  return value >= bounds.min && value <= bounds.max;
}

std::string range_words(const SettingInfo& info) {
  std::string words = print_value(info.bounds.min) + " to " + print_value(info.bounds.max);
  if (!info.unit.empty()) words.append(" ").append(info.unit);
  return words;
}

}  // namespace

std::string SettingInfo::flag() const { return "--" + spelled(name, '-', false); }
std::string SettingInfo::environment() const { return "FATHOM_" + spelled(name, '_', true); }
std::string SettingInfo::key() const { return std::string(group) + "." + std::string(name); }

bool parse_value(std::string_view text, const SettingInfo&, bool& out) {
  if (text != "true" && text != "false") return false;
  out = text == "true";
  return true;
}

bool parse_value(std::string_view text, const SettingInfo& info, int64_t& out) {
  const int64_t factor = info.unit == "bytes" ? take_suffix(text) : 1;
  int64_t value = 0;
  if (!parse_number(text, value)) return false;
  const int64_t most = std::numeric_limits<int64_t>::max() / factor;
  if (value > most || value < -most) return false;
  if (!within(static_cast<double>(value * factor), info.bounds)) return false;
  out = value * factor;
  return true;
}

bool parse_value(std::string_view text, const SettingInfo& info, double& out) {
  double value = 0;
  if (!parse_number(text, value) || !std::isfinite(value) || !within(value, info.bounds)) {
    return false;
  }
  out = value;
  return true;
}

bool parse_value(std::string_view text, const SettingInfo& info, std::string& out) {
  auto is_control = [](char c) {
    auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
  };
  if (text.size() > info.bounds.length_max || std::ranges::any_of(text, is_control)) return false;
  out = text;
  return true;
}

std::string print_value(bool value) { return value ? "true" : "false"; }
std::string print_value(int64_t value) { return std::to_string(value); }

std::string print_value(double value) {
  char digits[64];
  std::snprintf(digits, sizeof digits, "%.15g", value);
  if (std::string_view(digits).find('e') == std::string_view::npos) return digits;
  std::snprintf(digits, sizeof digits, "%.0f", value);
  return digits;
}

std::string print_value(const std::string& value) { return value; }

std::string allowed_values(const SettingInfo&, const bool&) { return "true or false"; }
std::string allowed_values(const SettingInfo& info, const int64_t&) { return range_words(info); }
std::string allowed_values(const SettingInfo& info, const double&) { return range_words(info); }
std::string allowed_values(const SettingInfo& info, const std::string&) {
  return "text of at most " + std::to_string(info.bounds.length_max) +
         " bytes, no control characters";
}

}  // namespace fathom
