// Exit codes, safe text, numbers for people, the progress bar.
#include "ctl/console.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ostream>

#include "base/json.h"

namespace fathom::ctl {
namespace {

constexpr std::chrono::milliseconds kRedrawPeriod{100};
constexpr int kBarCells = 24;
constexpr const char* kConfigReason = "configuration";

std::string scaled(double value, double step, const std::array<const char*, 5>& units) {
  size_t unit = 0;
  while (value >= step && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

}  // namespace

int exit_code_of(const Status& status) {
  if (status.is_ok()) return kExitOk;
  if (status.reason() == kConfigReason) return kExitConfig;
  return status.code() == Code::kUnavailable ? kExitUnavailable : kExitFail;
}

Status config_error(const Status& status) {
  return Status(status.code(), status.message()).about(status.subject()).because(kConfigReason);
}

int report_error(Console& console, const Status& status) {
  if (console.json) {
    const Json body = {{"error",
                        {{"code", code_name(status.code())},
                         {"message", status.message()},
                         {"subject", status.subject()},
                         {"reason", status.reason()}}}};
    console.err << body.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  } else {
    console.err << "fathomctl: " << printable(status.message()) << std::endl;
  }
  return exit_code_of(status);
}

std::string printable(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) continue;
    // U+0080 to U+009F, the other control characters, are C2 80 to C2 9F in UTF-8.
    if (c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) {
      ++i;
      continue;
    }
    kept.push_back(static_cast<char>(c));
  }
  return kept;
}

std::string format_bytes(int64_t bytes) {
  return scaled(static_cast<double>(bytes), 1024.0, {"B", "KiB", "MiB", "GiB", "TiB"});
}

std::string format_count(int64_t count) {
  return scaled(static_cast<double>(count), 1000.0, {"", "K", "M", "B", "T"});
}

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n < 0 ? -n : n);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ',');
  }
  return n < 0 ? "-" + digits : digits;
}

void ProgressBar::update(double part, const std::string& detail) {
  if (!console_.err_is_terminal) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - drawn_at_ < kRedrawPeriod) return;
  drawn_at_ = now;
  drawn_ = true;
  part = std::clamp(part, 0.0, 1.0);
  const auto filled = static_cast<size_t>(part * kBarCells);
  std::string bar(filled, '#');
  bar.resize(kBarCells, '.');
  char percent[16];
  std::snprintf(percent, sizeof(percent), "%3.0f%%", part * 100.0);
  console_.err << "\r\x1b[K" << label_ << " [" << bar << "] " << percent << "  " << detail
               << std::flush;
}

void ProgressBar::clear() {
  if (drawn_) console_.err << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

}  // namespace fathom::ctl
