// Samples and histogram buckets by name.
#include "ctl/prometheus_text.h"

#include <charconv>
#include <limits>

namespace fathom::ctl {
namespace {

std::optional<double> number(std::string_view text) {
  if (text == "+Inf") return std::numeric_limits<double>::infinity();
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

// The value of label `le` in "{a="b",le="0.5"}".
std::optional<double> upper_bound(std::string_view labels) {
  const size_t at = labels.find("le=\"");
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = labels.substr(at + 4);
  return number(rest.substr(0, rest.find('"')));
}

}  // namespace

PrometheusText PrometheusText::parse(std::string_view text) {
  PrometheusText result;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    // A label's value may hold spaces and braces in quotes; the last brace ends the labels.
    const size_t open = line.find('{');
    const size_t close = line.rfind('}');
    const bool labelled = open != std::string_view::npos && close != std::string_view::npos;
    const size_t name_end = labelled ? open : std::min(line.find(' '), line.size());
    const size_t value_at = labelled ? close + 1 : name_end;
    const std::string_view rest = line.substr(value_at);
    const size_t first = rest.find_first_not_of(' ');
    if (first == std::string_view::npos) continue;
    const std::optional<double> value = number(rest.substr(first));
    if (!value) continue;
    const std::string name(line.substr(0, name_end));
    result.sums_[name] += *value;
    if (!labelled || !name.ends_with("_bucket")) continue;
    if (const auto bound = upper_bound(line.substr(open, close - open))) {
      result.buckets_[name.substr(0, name.size() - 7)][*bound] += *value;
    }
  }
  return result;
}

std::optional<double> PrometheusText::value(const std::string& name) const {
  const auto found = sums_.find(name);
  return found == sums_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<double> PrometheusText::quantile(const std::string& name, double q,
                                               const PrometheusText* before) const {
  const auto found = buckets_.find(name);
  if (found == buckets_.end()) return std::nullopt;
  std::map<double, double> counts = found->second;
  if (before != nullptr) {
    if (const auto old = before->buckets_.find(name); old != before->buckets_.end()) {
      for (const auto& [bound, count] : old->second) counts[bound] -= count;
    }
  }
  const double total = counts.rbegin()->second;
  if (total <= 0.0) return std::nullopt;
  double low = 0.0;
  double below = 0.0;
  for (const auto& [bound, count] : counts) {
    if (count >= q * total) {
      // Beyond the last finite bound nothing more is known.
      if (bound == std::numeric_limits<double>::infinity()) return low;
      return count > below ? low + (bound - low) * (q * total - below) / (count - below) : bound;
    }
    low = bound;
    below = count;
  }
  return low;
}

}  // namespace fathom::ctl
