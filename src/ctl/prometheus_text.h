// The Prometheus text format as a server exposes it, summed over labels. A value.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::ctl {

class PrometheusText {
 public:
  // Lines that are no samples are skipped.
  static PrometheusText parse(std::string_view text);

  // Sum of all samples called `name`; empty when there is none.
  std::optional<double> value(const std::string& name) const;
  // The quantile of histogram `name` by linear interpolation inside its bucket; empty when it has
  // no samples. `before` is taken away first, so that the quantile is of what came since.
  std::optional<double> quantile(const std::string& name, double q,
                                 const PrometheusText* before = nullptr) const;

 private:
  std::map<std::string, double> sums_;
  std::map<std::string, std::map<double, double>> buckets_;  // upper bound to cumulative count
};

}  // namespace fathom::ctl
